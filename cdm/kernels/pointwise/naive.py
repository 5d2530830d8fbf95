"""What happens to every point alone between PointMamba's matrix products: the reference."""

import torch.nn.functional as F


def embed(x_t, weight, share, step_share):
    """GELU(x_t weight + share + step_share): the first linear layer, by shares.

    Args:
        x_t: (batch, num_points, contact_dim) float32.
        weight: (contact_dim, hidden) float32, the columns of x_t, transposed.
        share: (batch, num_points, hidden) float32.
        step_share: (batch, hidden) float32.
    Returns:
        (batch, num_points, hidden) float32.
    """
    return F.gelu(x_t @ weight + share + step_share[:, None])


def embedding_norm(y, norm_e, norm):
    """LayerNorm_e(y), and LayerNorm of that: the residual stream begins.

    Args:
        y: (batch, num_points, d_model).
        norm_e, norm: (weight, bias) float32, each (d_model,).
    Returns:
        stream and its norm, both float32, shape of y.
    """
    d_model = y.shape[-1:]
    stream = F.layer_norm(y.float(), d_model, *norm_e)
    return stream, F.layer_norm(stream, d_model, *norm)


def residual_norm(stream, y, norm):
    """stream + y, and LayerNorm of that; arguments and results as `embedding_norm`'s."""
    stream = stream + y.float()
    return stream, F.layer_norm(stream, y.shape[-1:], *norm)


def residual_head(stream, y, weight, bias):
    """(stream + y) weight^T + bias.

    Args:
        weight: (contact_dim, d_model) float32.
        bias: (contact_dim,) float32.
    Returns:
        (batch, num_points, contact_dim) float32.
    """
    return F.linear(stream + y.float(), weight, bias)
