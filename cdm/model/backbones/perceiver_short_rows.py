"""The algebra of the Perceiver's fast form: rows of coordinates and gates instead of channels.

Each function is an equation of docs/exact-short-rows.md, and tested against it.
The names are explained in the glossary of perceiver.py.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

EPS = 1e-5  # of every LayerNorm
ALIGNED = 8  # the inner dimension of a matrix product is padded to a multiple of this


class Basis(NamedTuple):
    """Features of all points, as coordinates y = R_x x_t + static_y in a basis (eq. 8)."""

    Q: torch.Tensor  # (channels, rank)
    R_x: torch.Tensor  # (rank, contact_dim): the coordinates' part that depends on x_t
    static_y: torch.Tensor  # (batch, num_points, rank): the rest

    def coordinates(self, x_t):
        """(batch, num_points, rank) of noisy maps."""
        return F.linear(x_t, self.R_x) + self.static_y


class Folded(NamedTuple):
    """Weights with the preceding norms folded in (eq. 2), and multiplied by the bases."""

    encoder_keys: torch.Tensor  # (heads, head width, rank): acts on coordinates (eq. 10)
    decoder_queries: torch.Tensor  # (heads, head width, rank): acts on coordinates (eq. 14)
    query_bias: torch.Tensor  # (heads, head width), of the decoder
    mlp_weight: torch.Tensor  # (channels, hidden): first layer of the decoder's MLP
    mlp_weight_in_basis: torch.Tensor  # (rank, hidden): the same, acting on coordinates (eq. 18)
    mlp_bias: torch.Tensor  # (hidden,)
    x_mean: torch.Tensor  # (1, contact_dim): makes of x_t its part of the mean over channels


class Added(NamedTuple):
    """What the decoder's attention adds to a row: gates @ these (eq. 15 and 16)."""

    mean: torch.Tensor  # (batch, heads + 1, 1): mean over channels
    in_basis: torch.Tensor  # (batch, heads + 1, rank): coordinates of the deviations
    off_basis: torch.Tensor  # (batch, heads + 1, channels): the part orthogonal to the basis


def make_basis(weight, static):
    """The `Basis` of linear features of all points (eq. 8).

    The QR decomposition runs in float64, because columns may be almost linearly dependent.

    Args:
        weight: (channels, contact_dim + width), acts on the columns (x_t, static).
        static: (batch, num_points, width), the columns that no step changes.
    """
    deviation = (weight - weight.mean(dim=0)).double()
    Q, R = (factor.to(weight.dtype) for factor in torch.linalg.qr(deviation))
    width = static.shape[-1]
    R_x, R_static = R.split([R.shape[1] - width, width], dim=1)
    return Basis(Q, R_x.contiguous(), F.linear(static, R_static.contiguous()))


def fold(norm, linear):
    """Weight and bias of linear(norm(x)), acting on x with mean 0 and variance 1 (eq. 2)."""
    return linear.weight * norm.weight, F.linear(norm.bias, linear.weight, linear.bias)


def by_head(weight, heads):
    """(heads * width, ...) to (heads, width, ...)."""
    return weight.unflatten(0, (heads, -1))


def inverse_std(y, channels):
    """1 / (standard deviation over channels), (..., 1), from coordinates (..., rank) (eq. 9)."""
    return (y.square().sum(-1, keepdim=True) / channels + EPS).rsqrt()


def on_coordinates(vector, weight):
    """Queries or keys as vectors whose product with coordinates is a score (eq. 10 and 14).

    Args:
        vector: (batch, heads * width).
        weight: (heads, width, rank), makes keys or queries of coordinates.
    Returns:
        (batch, heads, rank)
    """
    return torch.einsum("bhd,hdr->bhr", vector.unflatten(-1, (len(weight), -1)), weight)


def attention_gates(y, k, Q, folded):
    """The decoder's attention to the text token, as sigmoids (eq. 13 and 14).

    Args:
        y: (batch, num_points, rank), coordinates of the points.
        k: (batch, 2, heads, head width), keys of the two tokens.
        Q: (channels, rank), their basis.
        folded: `Folded`.
    Returns:
        (batch, num_points, heads). The time token's attention is 1 minus this.
    """
    k_difference = (k[:, 0] - k[:, 1]) * k.shape[-1] ** -0.5  # (batch, heads, head width)
    to_scores = on_coordinates(k_difference.flatten(1), folded.decoder_queries)
    shift = (folded.query_bias * k_difference).sum(-1)  # (batch, heads)
    normalised = y * inverse_std(y, len(Q))
    return (normalised @ to_scores.mT + shift[:, None]).sigmoid()


def added_by_attention(o_proj, v, Q):
    """What one unit of each gate adds to a row, and what is always added (eq. 15 and 16).

    Args:
        o_proj: the attention's output layer.
        v: (batch, 2, heads, head width), values of the two tokens.
        Q: (channels, rank), basis of the rows before attention.
    Returns:
        `Added`
    """
    o_weight = by_head(o_proj.weight.t(), v.shape[2])  # (heads, head width, channels)
    of_tokens = torch.einsum("bthd,hdc->bthc", v, o_weight)  # (batch, 2, heads, channels)
    by_gate = of_tokens[:, 0] - of_tokens[:, 1]
    always = of_tokens[:, 1].sum(1, keepdim=True) + o_proj.bias
    added = torch.cat([by_gate, always], 1)
    mean = added.mean(dim=-1, keepdim=True)
    added = added - mean
    in_basis = added @ Q
    return Added(mean, in_basis, added - in_basis @ Q.t())


def normalised_rows(y, gates, added, folded):
    """LayerNorm of the rows after attention, and the MLP's first layer, as short rows (eq. 18).

    Args:
        y: (batch, num_points, rank), coordinates after attention.
        gates: (batch, num_points, heads + 1), the last one 1.
        added: `Added`
        folded: `Folded`
    Returns:
        rows: (batch, num_points, k), normalised.
        weight: (batch, k, hidden). rows @ weight is the first layer's output.
    """
    off_basis, channels = added.off_basis, added.off_basis.shape[-1]
    # The variance over channels: squared lengths in the basis and orthogonal to it (eq. 17).
    length = y.square().sum(-1, keepdim=True)
    length = length + ((gates @ (off_basis @ off_basis.mT)) * gates).sum(-1, keepdim=True)
    inv_std = (length / channels + EPS).rsqrt()
    rows = torch.cat([y * inv_std, gates * inv_std, torch.ones_like(inv_std)], dim=-1)
    weight = [
        folded.mlp_weight_in_basis.expand(len(y), -1, -1),
        off_basis @ folded.mlp_weight,
        folded.mlp_bias.expand(len(y), 1, -1),
    ]
    missing = -rows.shape[-1] % ALIGNED
    return F.pad(rows, (0, missing)), F.pad(torch.cat(weight, dim=1), (0, 0, 0, missing))


def residual_head(mean, y, gates, added, Q, head):
    """A linear layer without bias of the rows after attention, as short rows (eq. 19).

    Args:
        mean: (batch, num_points, 1), over channels.
        y, gates, added: as in `normalised_rows`.
        Q: (channels, rank), the rows' basis.
        head: (contact_dim, channels).
    Returns:
        (batch, num_points, contact_dim)
    """
    weight = [
        head.sum(dim=1).expand(len(y), 1, -1),
        (head @ Q).t().expand(len(y), -1, -1),
        added.off_basis @ head.t(),
    ]
    return torch.cat([mean, y, gates], dim=-1) @ torch.cat(weight, dim=1)
