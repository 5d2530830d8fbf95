"""The selective scan of Mamba-1 (Gu and Dao 2023, algorithm 2): one function, several backends."""

import torch

from cdm.kernels import nvrtc
from cdm.kernels.selective_scan import chunked, gpu, mamba_ssm, naive

BACKENDS = ("naive", "chunked", "numba", "cuda", "mamba_ssm")


def selective_scan(
    u,
    delta,
    A,
    B,
    C,
    D=None,
    z=None,
    delta_bias=None,
    delta_softplus=False,
    reverse=False,
    return_last_state=False,
    backend="auto",
):
    """h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t;  y_t = <h_t, C_t> + D u_t, times SiLU(z_t).

    Matches `selective_scan_fn` of state-spaces/mamba with input-dependent B and C, but channels
    come last.

    Args:
        u, delta, z: (batch, length, d_inner); z, the gate, is optional.
        A: (d_inner, d_state).
        B, C: (batch, length, d_state).
        D, delta_bias: (d_inner,), optional.
        delta_softplus: pass delta + delta_bias through softplus.
        reverse: run from the last element to the first; replaces flipping the tensors.
        backend: "auto" or one of `BACKENDS`. "naive" and "chunked" run on any device, "numba" on
            the CPU, "cuda" (the project's kernel, with gradients) and "mamba_ssm" (that package's)
            on CUDA devices.
    Returns:
        y, shape and dtype of u; with return_last_state also h after the last step,
        (batch, d_inner, d_state).
    Raises:
        ValueError: unknown backend, or one that cannot run this input.
    """
    # Choose the backend.
    needs_grad = torch.is_grad_enabled() and any(
        x is not None and x.requires_grad for x in (u, delta, A, B, C, D, z, delta_bias)
    )
    if backend == "auto":
        fits_cuda = needs_grad and delta_softplus and not return_last_state and gpu.fits(*A.shape)
        backend = resolve_backend(u.device, u.dtype, needs_grad, fits_cuda)

    # Run it. Backends that only go forward get flipped tensors.
    inputs = u, delta, A, B, C, D, z, delta_bias
    if backend == "numba":
        y, last_state = _numba(*inputs, delta_softplus, reverse, needs_grad)
    elif backend == "cuda":
        _check_cuda(u, A, return_last_state or not delta_softplus)
        with torch.autocast("cuda", enabled=False):
            y = gpu.selective_scan(*inputs, reverse)
    elif backend in _FORWARD_ONLY:
        if reverse:
            inputs = _flip(u), _flip(delta), A, _flip(B), _flip(C), D, _flip(z), delta_bias
        with torch.autocast(u.device.type, enabled=False):  # bfloat16 states would drift
            y, last_state = _FORWARD_ONLY[backend](*inputs, delta_softplus)
        y = _flip(y) if reverse else y
    else:
        raise ValueError(f"selective_scan: backend is {backend!r}, expected auto or {BACKENDS}")
    return (y, last_state) if return_last_state else y


def resolve_backend(device, dtype, needs_grad=False, fits_cuda=False) -> str:
    """The backend that "auto" chooses. A function of its own, so that a caller can log it.

    Args:
        fits_cuda: whether the backend "cuda" can compute the scan.
    """
    device = torch.device(device)
    if device.type == "cuda" and fits_cuda and not nvrtc.unavailable(nvrtc.device_index(device)):
        return "cuda"
    if device.type == "cuda" and mamba_ssm.available():
        return "mamba_ssm"
    return "numba" if _fits_numba(device, dtype, needs_grad) else "chunked"


_FORWARD_ONLY = {
    "naive": naive.selective_scan,
    "chunked": chunked.selective_scan,
    "mamba_ssm": mamba_ssm.selective_scan,
}


def _flip(x):
    return None if x is None else x.flip(1)


def _check_cuda(u, A, other_form):
    if not u.is_cuda or not gpu.fits(*A.shape) or u.dtype == torch.float64 or other_form:
        raise ValueError(
            f"selective_scan: backend cuda takes d_inner a multiple of {gpu.CHANNELS} and d_state "
            f"{gpu.D_STATE}, in at most 32 bits on CUDA devices, with delta_softplus and without a "
            f"last state; found {u.dtype} on {u.device}, A {tuple(A.shape)}; use backend='auto'"
        )


def _fits_numba(device, dtype, needs_grad):
    return device.type == "cpu" and dtype != torch.float64 and not needs_grad


def _numba(u, *args):
    *inputs, delta_softplus, reverse, needs_grad = args
    if not _fits_numba(u.device, u.dtype, needs_grad):
        raise ValueError(
            "selective_scan: backend numba takes tensors of at most 32 bits on the CPU without "
            f"gradients, found {u.dtype} on {u.device}{' with gradients' if needs_grad else ''}; "
            "use backend='auto'"
        )
    from cdm.kernels.selective_scan import cpu  # importing numba takes a second

    arguments: list = [None if x is None else x.float() for x in (u, *inputs)]
    y, last_state = cpu.selective_scan(*[*arguments, delta_softplus, reverse])
    return y.to(u.dtype), last_state
