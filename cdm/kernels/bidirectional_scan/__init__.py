"""A Mamba-1 scan in both directions with shared weights, from the convolution to the gate."""

import torch

from cdm.kernels import nvrtc
from cdm.kernels.bidirectional_scan import gpu, naive

BACKENDS = ("naive", "cuda")


def bidirectional_scan(u, x_dbl, dt_weight, dt_bias, A, D, z, backend="auto"):
    """(y_0 + y_1) SiLU(z), where y_d is the selective scan of direction d.

    Direction 0 walks forward through the tokens, direction 1 backward. For direction d,
    [dt, B, C] = x_dbl[d], delta = softplus(dt dt_weight^T + dt_bias) and
    y_d = `selective_scan`(u[d], delta, A, B, C, D). Both directions have the same weights. The
    caller has already run the convolution and x_proj on each.

    Args:
        u: (2, batch, length, d_inner), output of the convolution; float32, bfloat16 or
            float16.
        x_dbl: (2, batch, length, dt_rank + 2 d_state), dtype of u.
        dt_weight: (d_inner, dt_rank), dtype of u; dt_rank may be padded with columns of zeros.
        dt_bias, D: (d_inner,) float32.
        A: (d_inner, d_state) float32, at most 0.
        z: (batch, length, d_inner), dtype of u, but float32 (`gate_dtype`) with float16; there may
            be gaps between its rows.
        backend: "auto", "naive", or "cuda" (CUDA devices, without gradients).
    Returns:
        (batch, length, d_inner), dtype of u.
    Raises:
        ValueError: unknown backend, or one that cannot run this input.
    """
    # Choose the backend.
    inputs = u, x_dbl, dt_weight, dt_bias, A, D, z
    needs_grad = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    d_inner, dt_rank = dt_weight.shape
    if backend == "auto":
        usable = u.is_cuda and u.dtype in nvrtc.ELEMENTS and not needs_grad
        usable = usable and fits(d_inner, dt_rank, A.shape[1]) and z.dtype == gate_dtype(u.dtype)
        backend = "cuda" if usable and not nvrtc.unavailable(u.device.index) else "naive"
    if backend == "naive":
        return naive.bidirectional_scan(*inputs)
    if backend != "cuda":
        raise ValueError(f"bidirectional_scan: backend is {backend!r}, expected auto or {BACKENDS}")

    # Refuse what the kernels cannot compute.
    reason = "gradients are needed" if needs_grad else None
    if u.dtype not in nvrtc.ELEMENTS:
        reason = "it takes float32, bfloat16 or float16"
    elif z.dtype != gate_dtype(u.dtype):
        reason = f"z is {z.dtype}, expected {gate_dtype(u.dtype)}"
    if not fits(d_inner, dt_rank, A.shape[1]):
        reason = (
            f"dt_weight is {tuple(dt_weight.shape)} and A {tuple(A.shape)}: d_inner must be a "
            "multiple of 8, dt_rank of 16, d_state 8, 16, 32 or 64"
        )
    if not u.is_cuda or reason:
        raise ValueError(
            f"bidirectional_scan: backend cuda cannot run {u.dtype} on {u.device}"
            f"{': ' + reason if reason else ''}; use backend='auto'"
        )
    return gpu.bidirectional_scan(*inputs)


def gate_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of z, for a u of this dtype."""
    return torch.float32 if dtype == torch.float16 else dtype


def fits(d_inner: int, dt_rank: int, d_state: int) -> bool:
    """Whether the CUDA kernels can compute these sizes."""
    return d_inner % 8 == 0 and dt_rank % 16 == 0 and d_state in (8, 16, 32, 64)
