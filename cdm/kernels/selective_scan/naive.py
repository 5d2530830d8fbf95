"""The selective scan as the paper writes it; every other backend is tested against it."""

import torch
import torch.nn.functional as F


def selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    """Compute the recurrence step by step, in float32 (float64 for float64 input).

    Arguments and results as `cdm.kernels.selective_scan.selective_scan`, forward in time.
    """
    compute_dtype = torch.promote_types(u.dtype, torch.float32)
    u_, delta, A, B, C = (x.to(compute_dtype) for x in (u, delta, A, B, C))
    delta = discretisation(delta, delta_bias, delta_softplus)

    h = u_.new_zeros(u.shape[0], *A.shape)
    y = []
    for t in range(u.shape[1]):
        h = torch.exp(delta[:, t, :, None] * A) * h
        h = h + (delta[:, t] * u_[:, t])[..., None] * B[:, t, None, :]
        y.append((h * C[:, t, None, :]).sum(-1))
    return skip_and_gate(torch.stack(y, dim=1), u_, D, z).to(u.dtype), h


def discretisation(delta, delta_bias, delta_softplus):
    """The step sizes delta: the bias is added, then softplus is applied if asked for."""
    if delta_bias is not None:
        delta = delta + delta_bias.to(delta.dtype)
    return F.softplus(delta) if delta_softplus else delta


def skip_and_gate(y, u, D, z):
    """(y + D u) SiLU(z)."""
    if D is not None:
        y = y + D.to(y.dtype) * u
    if z is not None:
        y = y * F.silu(z.to(y.dtype))
    return y
