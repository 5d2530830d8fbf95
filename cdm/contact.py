"""From distances to contact values and back, and from the model's output to metres.

A contact value is c = exp(-d^2 / (2 sigma^2)) for a joint at distance d. The model sees
(c - mean) / std. With `use_raw_dist` a map holds the distances themselves instead.
"""

import numpy as np


def contact_from_distance(distance: np.ndarray, use_raw_dist: bool, sigma: float) -> np.ndarray:
    """Contact exp(-d^2 / (2 sigma^2)) of distances, as afford-motion's datasets compute it.

    Args:
        distance: (..., contact_dim), metres.
        use_raw_dist: return the distances as they are.
        sigma: width of the contact function, in metres.
    Returns:
        (..., contact_dim) float32.
    """
    if use_raw_dist:
        return distance.astype(np.float32)
    return np.exp(-0.5 * distance**2 / sigma**2).astype(np.float32)


def denormalise(x, mean, std, use_raw_dist=False) -> np.ndarray:
    """Undo the dataset's normalisation.

    Args:
        x: (..., contact_dim), the model's output.
        mean, std: (1, contact_dim) or (contact_dim,), the dataset's statistics.
        use_raw_dist: the maps are distances in metres instead of contact values.
    Returns:
        (..., contact_dim) float32: contact clipped to [1e-20, 1], or distances of at least 0.
    """
    contact = np.asarray(x, np.float32) * np.float32(std) + np.float32(mean)
    return np.clip(contact, 0, None) if use_raw_dist else np.clip(contact, 1e-20, 1)


def contact_to_distance(contact, sigma: float, clip_min=1e-6) -> np.ndarray:
    """Distance sqrt(-2 ln(c) sigma^2) in metres, as afford-motion's map generation computes it.

    Args:
        contact: (..., contact_dim), denormalised.
        sigma: width of the contact function, in metres.
        clip_min: smallest contact; 1e-6 caps the distance at 5.2565 sigma. Its
            evaluator clips at 1e-20, which caps the distance at 9.5971 sigma.
    Returns:
        (..., contact_dim) float32 metres; contact 1 gives 0, where afford-motion gives -0.
    """
    contact = np.clip(np.asarray(contact, np.float32), clip_min, 1)
    return np.sqrt(-2 * np.log(contact) * np.float32(sigma**2) + np.float32(0))


def to_distance(x, mean, std, sigma: float, use_raw_dist=False) -> np.ndarray:
    """The model's output (..., contact_dim) as float32 metres: what stage 2 reads."""
    contact = denormalise(x, mean, std, use_raw_dist)
    return contact if use_raw_dist else contact_to_distance(contact, sigma)
