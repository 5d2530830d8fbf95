"""Counter-based randomness: every random number is a pure function of what it is for.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") maps a 128-bit
counter and a 64-bit key to four 32-bit words. The key names the stream (seed, purpose, sample, k).
The counter names the place in the stream (step, point, joint). No state travels from one sample to
the next, so batch size, chunk size, the order of jobs and a resume cannot change a number.

This file is the naive form, in numpy; `cdm.kernels.philox` has the fast ones.
"""

import hashlib
import json

import numpy as np

MASK = 0xFFFFFFFF
M0, M1 = 0xD2511F53, 0xCD9E8D57  # round multipliers
W0, W1 = 0x9E3779B9, 0xBB67AE85  # key increments (golden ratio, sqrt(3) - 1)


def stream_key(seed, purpose, set, index, caption_idx=0, k=0) -> tuple[int, int]:
    """Philox key of one stream of random numbers: 64 bits of BLAKE2b over its name.

    The name is hashed as a JSON list, so that two neighbouring fields cannot be taken for others.

    Args:
        seed: int, the user's.
        purpose: str, what the numbers are for ("noise", "caption", "rotation", ...).
        set, index: the item; index 12 and index "12" name the same item.
        caption_idx, k: int, the caption, and the number of the map among those of the caption.
    Returns:
        (low, high), each in [0, 2**32).
    """
    name = json.dumps([int(seed), str(purpose), str(set), str(index), int(caption_idx), int(k)])
    key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    return key & MASK, key >> 32


def choice(key, n: int) -> int:
    """The stream's first 64 bits as an integer in [0, n); the bias is below n / 2**64."""
    if n < 1:
        raise ValueError(f"cannot choose one of {n}")
    high, low, _, _ = rounds((0, 0, 0, 0), map(int, key))
    return ((high << 32 | low) * int(n)) >> 64


def uniform(key) -> float:
    """The stream's first 53 bits as a float64 in [0, 1)."""
    high, low, _, _ = rounds((0, 0, 0, 0), map(int, key))
    return ((high << 32 | low) >> 11) * 2.0**-53


def rounds(counter, key):
    """Ten Philox rounds on four counter words and two key words.

    The words may be Python ints, uint64 arrays or int64 tensors. Products are exact modulo 2**64.
    int64 shifts to the right copy the sign bit; the mask after the shift removes the copies.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * M0, c2 * M1
        c0, c1 = (p1 >> 32 & MASK) ^ c1 ^ k0, p1 & MASK
        c2, c3 = (p0 >> 32 & MASK) ^ c3 ^ k1, p0 & MASK
        k0, k1 = k0 + W0 & MASK, k1 + W1 & MASK
    return c0, c1, c2, c3


def philox4x32(counter, key) -> np.ndarray:
    """Philox4x32-10.

    Args:
        counter: (..., 4) uint32.
        key: (..., 2) uint32, broadcast against the counter.
    Returns:
        (..., 4) uint32.
    """
    counter, key = np.asarray(counter, np.uint64), np.asarray(key, np.uint64)
    words = rounds(np.moveaxis(counter, -1, 0), np.moveaxis(key, -1, 0))
    return np.stack(np.broadcast_arrays(*words), axis=-1).astype(np.uint32)


def words_to_normal(words) -> np.ndarray:
    """Pairs of words to pairs of standard normals (Box and Muller 1958), all in float32.

    u = float32(w) 2^-32 + 2^-33 lies in [2^-33, 1]: never 0, and the same bits with or without a
    fused multiply-add, because scaling by a power of two is exact. Tails end at
    sqrt(66 ln 2) = 6.76; the centre's resolution is sqrt(2^-23) = 3.5e-4 in radius.

    Args:
        words: (..., 2m) uint32.
    Returns:
        (..., 2m) float32.
    """
    u = words.astype(np.float32) * np.float32(2.0**-32) + np.float32(2.0**-33)
    radius = np.sqrt(np.float32(-2) * np.log(u[..., 0::2]))
    angle = np.float32(2 * np.pi) * u[..., 1::2]
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return pairs.reshape(words.shape)


def normal(keys, step: int, num_points: int, contact_dim: int) -> np.ndarray:
    """Standard normal noise of one diffusion step, for a batch of samples.

    Element e = point * contact_dim + joint takes word e % 4 of the block with counter
    (e // 4, step, 0, 0). So it depends neither on the batch nor on num_points.

    Args:
        keys: (batch, 2) uint32, one `stream_key` per sample.
        step: diffusion step the noise belongs to, in the numbering of the full schedule.
    Returns:
        (batch, num_points, contact_dim) float32; points in their original order.
    """
    size = num_points * contact_dim
    counter = np.zeros((-(-size // 4), 4), np.uint64)
    counter[:, 0] = np.arange(len(counter))
    counter[:, 1] = step
    words = philox4x32(counter, np.asarray(keys)[:, None])  # (batch, blocks, 4)
    normals = words_to_normal(words).reshape(len(keys), -1)
    return normals[:, :size].reshape(-1, num_points, contact_dim)
