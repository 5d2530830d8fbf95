"""The depthwise causal convolution of Mamba with torch's conv1d, on any device."""

import torch.nn.functional as F


def causal_conv_silu(x, weight, bias):
    """Arguments and result as `cdm.kernels.causal_conv.causal_conv_silu`, forward in time."""
    d_inner, width = weight.shape
    x = F.pad(x.transpose(1, 2), (width - 1, 0))  # (batch, d_inner, length + width - 1)
    y = F.conv1d(x, weight[:, None, :], bias, groups=d_inner)
    return F.silu(y).transpose(1, 2)
