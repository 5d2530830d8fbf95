"""Philox noise with torch's int64 arithmetic, on any device."""

import math

import torch

from cdm.noise import rounds


def words(keys: torch.Tensor, step: int, num_blocks: int) -> tuple[torch.Tensor, ...]:
    """The four words of blocks (0..num_blocks-1, step, 0, 0): (batch, num_blocks) int64 each."""
    block = torch.arange(num_blocks, device=keys.device)
    zero = torch.zeros_like(block)
    return rounds((block, zero + step, zero, zero), (keys[:, :1], keys[:, 1:]))


def normal(keys: torch.Tensor, step: int, num_points: int, contact_dim: int) -> torch.Tensor:
    """`cdm.noise.normal` for keys (batch, 2) int64, on their device."""
    size = num_points * contact_dim
    u = torch.stack(words(keys, step, -(-size // 4)), dim=-1).float()  # (batch, blocks, 4)
    u = u.mul_(2.0**-32).add_(2.0**-33)
    radius = u[..., 0::2].log().mul_(-2).sqrt_()
    angle = u[..., 1::2] * (2 * math.pi)
    pairs = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)
    return pairs.reshape(len(keys), -1)[:, :size].reshape(-1, num_points, contact_dim)
