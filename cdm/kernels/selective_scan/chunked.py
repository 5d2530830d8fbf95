"""The selective scan in torch operations, parallel over chunks of the sequence; any device."""

import math

import torch
import torch.nn.functional as F

from cdm.kernels.selective_scan.naive import discretisation, skip_and_gate


def selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    """Step through all chunks at the same time: first for their last states, then for y.

    This takes about 3 sqrt(length) steps instead of `length`. Decays are multiplied and never
    divided by, so a large delta is as safe as in the naive loop. Arguments and results as
    `cdm.kernels.selective_scan.selective_scan`, forward in time.
    """
    compute_dtype = torch.promote_types(u.dtype, torch.float32)
    u_, delta, A, B, C = (x.to(compute_dtype) for x in (u, delta, A, B, C))
    delta = discretisation(delta, delta_bias, delta_softplus)

    length = u.shape[1]
    size = math.isqrt(length - 1) + 1
    num_chunks = -(-length // size)

    def chunk(x):
        # The padding has delta = 0, and such a step leaves the state as it is.
        x = F.pad(x, (0, 0, 0, num_chunks * size - length))
        return x.unflatten(1, (num_chunks, size))  # (batch, num_chunks, size, ...)

    delta_u, delta, B, C = chunk(delta * u_), chunk(delta), chunk(B), chunk(C)

    def step(h, i):
        h = torch.exp(delta[:, :, i, :, None] * A) * h
        return h + delta_u[:, :, i, :, None] * B[:, :, i, None, :]

    # First pass: the last state of every chunk, from a state of zero.
    h = u_.new_zeros(u.shape[0], num_chunks, *A.shape)  # (batch, num_chunks, d_inner, d_state)
    for i in range(size):
        h = step(h, i)

    # The state that each chunk starts from: the one before, decayed over that chunk, plus its own.
    decay = torch.exp(delta.sum(2)[..., None] * A)
    starts = [torch.zeros_like(h[:, 0])]
    for k in range(num_chunks):
        starts.append(decay[:, k] * starts[-1] + h[:, k])
    last_state = starts.pop()

    # Second pass: the outputs, from these states.
    h = torch.stack(starts, dim=1)
    outputs = []
    for i in range(size):
        h = step(h, i)
        outputs.append((h @ C[:, :, i, :, None]).squeeze(-1))
    y = torch.stack(outputs, dim=2).flatten(1, 2)[:, :length]
    return skip_and_gate(y, u_, D, z).to(u.dtype), last_state
