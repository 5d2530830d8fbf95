"""From the model's output back to closeness and metres.

A contact value is c = exp(-d^2 / (2 sigma^2)) for a joint at distance d; the model sees
(c - mean) / std. With `use_raw_dist` the maps are distances themselves.
"""

import numpy as np


def denormalise(x, mean, std, use_raw_dist=False, clip=True) -> np.ndarray:
    """Undo the dataset's normalisation.

    Args:
        x: (..., contact_dim), the model's output.
        mean, std: (1, contact_dim) or (contact_dim,), the dataset's statistics.
        use_raw_dist: the maps are distances in metres instead of contact values.
        clip: bring contact into [1e-20, 1], or distances to 0 and above.
    Returns:
        (..., contact_dim) float32.
    """
    contact = np.asarray(x, np.float32) * np.float32(std) + np.float32(mean)
    if not clip:
        return contact
    return np.clip(contact, 0, None) if use_raw_dist else np.clip(contact, 1e-20, 1)


def contact_to_distance(contact, sigma: float, clip_min=1e-6) -> np.ndarray:
    """Distance sqrt(-2 ln(c) sigma^2) in metres, as the reference's map generation writes it.

    Args:
        contact: (..., contact_dim), denormalised.
        sigma: width of the contact function, in metres.
        clip_min: smallest contact; 1e-6 caps the distance at 5.2565 sigma. The reference's
            evaluator has no such cap (1e-20, 9.5971 sigma).
    Returns:
        (..., contact_dim) float32 metres; contact 1 gives 0 where the reference gives -0.
    """
    contact = np.clip(np.asarray(contact, np.float32), clip_min, 1)
    return np.sqrt(-2 * np.log(contact) * np.float32(sigma**2) + np.float32(0))


def to_distance(x, mean, std, sigma: float, use_raw_dist=False) -> np.ndarray:
    """The model's output (..., contact_dim) as float32 metres: what stage 2 reads."""
    contact = denormalise(x, mean, std, use_raw_dist)
    return contact if use_raw_dist else contact_to_distance(contact, sigma)
