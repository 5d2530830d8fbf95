"""Mamba's convolution in both directions and the product with x_proj, in one pass over memory."""

import torch

from cdm.kernels import nvrtc
from cdm.kernels.conv_projection import gpu, naive

DTYPES = torch.bfloat16, torch.float16  # of the CUDA kernel


def conv_projection(x, conv_weight, conv_bias, weight, packed=None, backend="auto"):
    """u = `bidirectional_conv_silu`(x, conv_weight, conv_bias) and x_dbl = u weight^T.

    u is rounded to the dtype of x before the product, in every backend.

    Args:
        x: (batch, length, d_inner); there may be gaps between its rows.
        conv_weight: (d_inner, width) float32.
        conv_bias: (d_inner,) float32.
        weight: (columns, d_inner), dtype of x: that of x_proj.
        packed: `pack_weights` of these three, for the CUDA kernel; made at every call if None.
        backend: "auto", "naive", or "cuda" (bfloat16 or float16 on CUDA devices, without
            gradients, sizes that `fits` allows). Where the kernel cannot run, "auto" runs two
            steps: the fastest form of the convolution, and torch's product.
    Returns:
        u (2, batch, length, d_inner), first forward, then backward, and
        x_dbl (2, batch, length, columns), both in the dtype of x.
    Raises:
        ValueError: unknown backend, or one that cannot run this input.
    """
    # Choose the backend.
    inputs = x, conv_weight, conv_bias, weight
    needs_grad = torch.is_grad_enabled() and any(a.requires_grad for a in inputs)
    same = x.dtype == weight.dtype and x.dtype in DTYPES
    runs = x.is_cuda and same and not needs_grad and fits(conv_weight, weight)
    if backend == "naive":
        return naive.conv_projection(*inputs)
    if backend == "auto" and (not runs or nvrtc.unavailable(x.device.index)):
        return naive.conv_projection(*inputs, conv_backend="auto")
    if backend not in ("auto", "cuda"):
        raise ValueError(f"conv_projection: backend is {backend!r}, expected auto, naive or cuda")

    # Run it.
    if not runs:
        raise ValueError(
            "conv_projection: backend cuda takes bfloat16 or float16 on CUDA devices, without "
            "gradients, d_inner a multiple of 32, a width of at most 4, and at most 144 columns, a "
            f"multiple of 16; found x {tuple(x.shape)} {x.dtype} on {x.device}, conv_weight "
            f"{tuple(conv_weight.shape)}, weight {tuple(weight.shape)} {weight.dtype}; use "
            "backend='auto'"
        )
    return gpu.conv_projection(x, packed or gpu.pack_weights(conv_weight, conv_bias, weight))


def pack_weights(conv_weight, conv_bias, weight):
    """The weights as the CUDA kernel reads them, made once; None if they do not fit it."""
    fitting = weight.dtype in DTYPES and fits(conv_weight, weight)
    return gpu.pack_weights(conv_weight, conv_bias, weight) if fitting else None


def fits(conv_weight, weight) -> bool:
    """Whether the CUDA kernel can compute these sizes; with others, "auto" runs the two steps.

    d_inner is a multiple of 32, the width at most 4, and columns a multiple of 16 up to 144. More
    columns would need more registers than a thread has.
    """
    (columns, d_inner), width = weight.shape, conv_weight.shape[1]
    return d_inner % 32 == 0 and width <= 4 and columns % 16 == 0 and columns <= 144
