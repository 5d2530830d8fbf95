"""The convolution and the product with x_proj, one after the other, on any device."""

import torch.nn.functional as F

from cdm.kernels.causal_conv import bidirectional_conv_silu


def conv_projection(x, conv_weight, conv_bias, weight, conv_backend="naive"):
    """Arguments and result as `cdm.kernels.conv_projection.conv_projection`.

    Args:
        conv_backend: that of the convolution.
    """
    u = bidirectional_conv_silu(x, conv_weight, conv_bias, backend=conv_backend)
    return u, F.linear(u, weight)
