"""The short causal convolution before Mamba's scan, and the SiLU after it."""

import torch

from cdm.kernels import nvrtc
from cdm.kernels.causal_conv import gpu, naive


def causal_conv_silu(x, weight, bias, reverse=False, backend="auto"):
    """y_t = SiLU(bias + sum_k weight_k x_{t - (width - 1) + k}), with zeros before the start.

    Matches `causal_conv1d_fn` of Dao-AILab/causal-conv1d with activation "silu", but channels
    come last.

    Args:
        x: (batch, length, d_inner).
        weight: (d_inner, width).
        bias: (d_inner,).
        reverse: run from the last element to the first; replaces flipping the tensors.
        backend: "auto", "naive", "numba" (CPU, float32, no gradients), or "cuda" (CUDA devices,
            float32 inside, with gradients).
    Returns:
        y, shape and dtype of x.
    Raises:
        ValueError: unknown backend, or one that cannot run this input.
    """
    # Choose the backend.
    tensors = x, weight, bias
    needs_grad = torch.is_grad_enabled() and any(a.requires_grad for a in tensors)
    fits_numba = x.device.type == "cpu" and x.dtype != torch.float64 and not needs_grad
    fits_cuda = x.is_cuda and x.dtype != torch.float64
    if backend == "auto" and fits_cuda and needs_grad:
        backend = "naive" if nvrtc.unavailable(x.device.index) else "cuda"
    if backend == "auto":
        backend = "numba" if fits_numba else "naive"

    # Run it.
    if backend == "cuda" and fits_cuda:
        return gpu.causal_conv_silu(x, weight, bias, reverse)
    if backend == "naive":
        x = x.flip(1) if reverse else x
        y = naive.causal_conv_silu(x, weight.to(x.dtype), bias.to(x.dtype))
        return y.flip(1) if reverse else y
    if backend != "numba":
        expected = "cuda on CUDA devices in at most 32 bits, " if backend == "cuda" else ""
        raise ValueError(
            f"causal_conv_silu: backend is {backend!r} for {x.dtype} on {x.device}, expected "
            f"{expected}auto, naive or numba"
        )
    if not fits_numba:
        raise ValueError(
            "causal_conv_silu: backend numba takes tensors of at most 32 bits on the CPU without "
            f"gradients, found {x.dtype} on {x.device}; use backend='auto'"
        )
    from cdm.kernels.causal_conv import cpu  # importing numba takes a second

    y = cpu.causal_conv_silu(x.float(), weight.float(), bias.float(), reverse)
    return y.to(x.dtype)


def bidirectional_conv_silu(x, weight, bias, backend="auto"):
    """`causal_conv_silu` of x, forward and backward, in one pass over x.

    Args:
        x: (batch, length, d_inner); there may be gaps between its rows.
        weight: (d_inner, width).
        bias: (d_inner,).
        backend: "auto", "naive" (two convolutions), or "cuda" (CUDA devices, d_inner a multiple
            of 8, float32, bfloat16 or float16, without gradients).
    Returns:
        (2, batch, length, d_inner), dtype of x: first forward, then backward.
    Raises:
        ValueError: unknown backend, or one that cannot run this input.
    """
    # Choose the backend.
    needs_grad = torch.is_grad_enabled() and any(a.requires_grad for a in (x, weight, bias))
    fits = (
        x.is_cuda and x.dtype in nvrtc.ELEMENTS
        and not needs_grad and x.shape[2] % 8 == 0
    )  # fmt: skip
    if backend == "auto":
        backend = "cuda" if fits and not nvrtc.unavailable(x.device.index) else "naive"

    # Run it.
    if backend == "naive":
        return torch.stack(
            [causal_conv_silu(x, weight, bias, reverse) for reverse in (False, True)]
        )
    if backend != "cuda":
        raise ValueError(
            f"bidirectional_conv_silu: backend is {backend!r}, expected auto, naive or cuda"
        )
    if not fits:
        raise ValueError(
            "bidirectional_conv_silu: backend cuda takes float32, bfloat16 or float16 on CUDA "
            f"devices, d_inner a multiple of 8, without gradients, found {tuple(x.shape)} "
            f"{x.dtype} on {x.device}; use backend='auto'"
        )
    return gpu.bidirectional_conv_silu(x, weight, bias)
