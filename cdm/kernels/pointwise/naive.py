"""The steps between PointMamba's matrix products as torch operations, on any device."""

import torch.nn.functional as F


def embed(x_t, weight, static_proj, time_proj):
    """GELU(x_t weight + static_proj + time_proj): the first linear layer, computed in parts.

    Args:
        x_t: (batch, num_points, contact_dim) float32.
        weight: (contact_dim, hidden) float32, the layer's columns for x_t, transposed.
        static_proj: (batch, num_points, hidden) float32, the part that no timestep changes.
        time_proj: (batch, hidden) float32, the part that depends on the timestep alone.
    Returns:
        (batch, num_points, hidden) float32.
    """
    return F.gelu(x_t @ weight + static_proj + time_proj[:, None])


def embedding_norm(y, norm_e, norm):
    """LayerNorm_e(y), which begins the residual stream, and LayerNorm of the stream.

    Args:
        y: (batch, num_points, d_model).
        norm_e, norm: (weight, bias) float32, each (d_model,).
    Returns:
        the stream and its norm, both float32, shape of y.
    """
    d_model = y.shape[-1:]
    stream = F.layer_norm(y.float(), d_model, *norm_e)
    return stream, F.layer_norm(stream, d_model, *norm)


def residual_norm(stream, y, norm):
    """stream + y, and LayerNorm of the sum; arguments and results as those of `embedding_norm`."""
    stream = stream + y.float()
    return stream, F.layer_norm(stream, y.shape[-1:], *norm)


def residual_head(stream, y, weight, bias):
    """(stream + y) weight^T + bias.

    Args:
        stream: (batch, num_points, d_model) float32.
        y: (batch, num_points, d_model).
        weight: (contact_dim, d_model) float32.
        bias: (contact_dim,) float32.
    Returns:
        (batch, num_points, contact_dim) float32.
    """
    return F.linear(stream + y.float(), weight, bias)
