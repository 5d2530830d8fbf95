"""Perceiver: points and two latent tokens, text and time, that attend to each other.

After Perceiver IO (Jaegle et al. 2022) as the reference uses it. `naive_forward` is the formula;
everything else computes the same with far smaller matrix products, because per point the network
is linear in a few numbers c = (x, point_feat, xyz, 1) up to its very last MLP:

- Both adapters are linear, so a point's features in encoder and decoder are W c, and their
  deviations from the mean over channels Q R c, with an orthonormal basis Q of the space they span
  and the coordinates y = R c: 10 numbers for 6 joints without point features. LayerNorm divides
  by the length of y.
- A product of normed rows with keys of two queries, or with two keys, is a product of y with as
  many vectors: the queries, or keys, seen through the weights and Q. What a softmax over points
  adds to all points drops out, and softmax over two tokens is a sigmoid of the difference.
- What the decoder's attention adds is linear in these sigmoids, one for each head. So the rows of
  its MLP are normed in these coordinates too, and its first layer takes them instead of
  channels. Its last layer is linear: the caller's head is folded into it.
"""

from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from cdm.errors import CheckpointError
from cdm.model.architecture import FeatureWidths
from cdm.model.backbones.base import Backbone, float32, head_product

DEFAULT_HEADS = 8
EPS = 1e-5  # of every LayerNorm
ALIGNED = 8  # columns of a matrix product are filled up to a multiple of this


class Basis(NamedTuple):
    """Rows W c + b about their mean over channels, in coordinates of an orthonormal basis."""

    Q: torch.Tensor  # (channels, rank)
    of_x: torch.Tensor  # (rank, contact_dim): coordinates of x_t
    rest: torch.Tensor  # (batch, num_points, rank): coordinates of all else


class Folded(NamedTuple):
    """Weights with the norms before them folded in, and seen through the bases."""

    encoder_keys: torch.Tensor  # (heads, head width, rank)
    decoder_queries: torch.Tensor  # (heads, head width, rank)
    query_shift: torch.Tensor  # (heads, head width): decoder queries of an all-zero normed row
    first: torch.Tensor  # (channels, hidden): the decoder's MLP, first layer
    first_inside: torch.Tensor  # (rank, hidden): of coordinates
    first_bias: torch.Tensor  # (hidden,)
    mean_of_x: torch.Tensor  # (1, contact_dim): mean over decoder channels, of x_t


class PerceiverState(NamedTuple):
    """Conditions of a batch of samples, and folded weights."""

    text_token: torch.Tensor  # (batch, latent width)
    text_scores: torch.Tensor  # (batch, heads, rank): makes scores of encoder coordinates
    encoder: Basis
    decoder: Basis
    mean_rest: torch.Tensor  # (batch, num_points, 1): mean over decoder channels, of all else
    folded: Folded


class PerceiverStep(NamedTuple):
    """The time token of each step."""

    time_token: torch.Tensor  # (rows, latent width)
    query: torch.Tensor  # (rows, encoder's attention width)


class Perceiver(Backbone):
    """The point columns are [x, point_feat, xyz]; xyz only with point_pos_emb."""

    signature = r"contact_model\.encoder_adapter\."
    section = "arch_perceiver"
    defaults: ClassVar = {
        "last_dim": 256,
        "point_pos_emb": True,
        "encoder_q_input_channels": 512,
        "encoder_kv_input_channels": 256,
        "encoder_num_heads": 8,
        "encoder_widening_factor": 1,
        "encoder_self_attn_num_layers": 2,
        "decoder_q_input_channels": 256,
        "decoder_kv_input_channels": 512,
        "decoder_num_heads": 8,
        "decoder_widening_factor": 1,
    }

    @classmethod
    def read_sizes(cls, weights):
        encoder, decoder = (
            "encoder_cross_attn.1.module.1.weight",
            "decoder_cross_attn.1.module.1.weight",
        )
        sizes = {
            "point_pos_emb": _has_positions(weights),
            "encoder_q_input_channels": weights.dim("language_adapter.weight", 0),
            "encoder_kv_input_channels": weights.dim("encoder_adapter.weight", 0),
            "encoder_num_heads": weights.model.arch_perceiver.encoder_num_heads or DEFAULT_HEADS,
            "encoder_widening_factor": weights.dim(encoder, 0) // weights.dim(encoder, 1),
            "encoder_self_attn_num_layers": weights.count("encoder_self_attn."),
            "decoder_q_input_channels": weights.dim("decoder_adapter.weight", 0),
            "decoder_kv_input_channels": weights.dim(
                "decoder_cross_attn.0.module.kv_norm.weight", 0
            ),
            "decoder_num_heads": weights.model.arch_perceiver.decoder_num_heads or DEFAULT_HEADS,
            "decoder_widening_factor": weights.dim(decoder, 0) // weights.dim(decoder, 1),
        }
        for part in ("encoder", "decoder"):
            channels, heads = sizes[f"{part}_q_input_channels"], sizes[f"{part}_num_heads"]
            if channels % heads:
                raise CheckpointError(
                    f"{heads} attention heads do not divide the {channels} channels of the {part}; "
                    f"weights do not tell how many there are: set "
                    f"model.arch_perceiver.{part}_num_heads to what the model was trained with"
                )
        return sizes

    @classmethod
    def read_widths(cls, weights, sizes):
        text, where = weights.dim("language_adapter.weight", 1), "encoder_adapter.weight"
        point_feat = weights.dim(where, 1) - weights.contact_dim - 3 * sizes["point_pos_emb"]
        return FeatureWidths(text, point_feat, text + point_feat, where)

    def __init__(self, architecture, scan_backend="auto"):
        super().__init__()
        a, s = architecture, architecture.sizes
        self.point_pos_emb = s["point_pos_emb"]
        self.columns = [a.contact_dim, a.point_feat_dim, 3 * self.point_pos_emb]
        latent, points = s["encoder_q_input_channels"], s["encoder_kv_input_channels"]
        queries, widening = s["decoder_q_input_channels"], s["encoder_widening_factor"]
        self.language_adapter = nn.Linear(a.text_feat_dim, latent)
        self.time_embedding_adapter = nn.Linear(a.time_emb_dim, latent)
        self.encoder_adapter = nn.Linear(sum(self.columns), points)
        self.decoder_adapter = nn.Linear(points, queries)
        heads = s["encoder_num_heads"]
        self.encoder_cross_attn = nn.Sequential(
            _Residual(CrossAttention(latent, points, heads)), _mlp(latent, widening)
        )
        self.encoder_self_attn = nn.Sequential(
            *(
                nn.Sequential(_Residual(SelfAttention(latent, heads)), _mlp(latent, widening))
                for _ in range(s["encoder_self_attn_num_layers"])
            )
        )
        self.decoder_cross_attn = nn.Sequential(
            _Residual(CrossAttention(queries, latent, s["decoder_num_heads"])),
            _mlp(queries, s["decoder_widening_factor"]),
        )

    def naive_forward(self, x_t, time_emb, c_text, c_pc_xyz, c_pc_feat=None):
        columns = [x_t, c_pc_feat, c_pc_xyz if self.point_pos_emb else None]
        points = self.encoder_adapter(torch.cat([c for c in columns if c is not None], dim=-1))
        tokens = self.language_adapter(c_text), self.time_embedding_adapter(time_emb)
        latents = torch.stack(tokens, dim=1)
        attention, mlp = self.encoder_cross_attn
        latents = self.encoder_self_attn(mlp(attention(latents, points)))
        attention, mlp = self.decoder_cross_attn
        return mlp(attention(self.decoder_adapter(points), latents))

    def prepare(self, c_text, c_pc_xyz, c_pc_feat=None):
        weight, bias = self.encoder_adapter.weight, self.encoder_adapter.bias
        rest = [c for c in (c_pc_feat, c_pc_xyz if self.point_pos_emb else None) if c is not None]
        rest = torch.cat([*rest, torch.ones_like(c_pc_xyz[..., :1])], dim=-1)
        encoder = torch.cat([weight, bias[:, None]], dim=1)  # of the columns, and of 1
        decoder = self.decoder_adapter.weight @ encoder
        decoder[:, -1] += self.decoder_adapter.bias
        mean_of_x, mean_rest = decoder.mean(dim=0).split([self.columns[0], rest.shape[-1]])
        encoder, decoder = self._basis(encoder, rest), self._basis(decoder, rest)

        attention = self.encoder_cross_attn[0].module
        k_weight, _ = _fold(attention.kv_norm, attention.attention.k_proj)
        encoder_keys = _by_head(k_weight, attention.heads) @ encoder.Q
        attention = self.decoder_cross_attn[0].module
        q_weight, q_bias = _fold(attention.q_norm, attention.attention.q_proj)
        first, first_bias = _fold(*self.decoder_cross_attn[1].module[:2])
        text_token = self.language_adapter(c_text)
        return PerceiverState(
            text_token,
            _scores(self._encoder_query(text_token), encoder_keys),
            encoder,
            decoder,
            (rest @ mean_rest)[..., None],
            Folded(
                encoder_keys,
                _by_head(q_weight, attention.heads) @ decoder.Q,
                _by_head(q_bias, attention.heads),
                first.t().contiguous(),
                (first @ decoder.Q).t().contiguous(),
                first_bias,
                mean_of_x[None],
            ),
        )

    def time_proj(self, time_emb):
        token = self.time_embedding_adapter(time_emb)
        return PerceiverStep(token, self._encoder_query(token))

    @property
    def last_linear(self):
        """Of what stands side by side: the MLP's residual, and its hidden layer."""
        last = self.decoder_cross_attn[1].module[3]
        residual = torch.eye(last.out_features, device=last.weight.device, dtype=last.weight.dtype)
        return torch.cat([residual, last.weight], dim=1), last.bias

    def forward_head(self, x_t, time_proj_t, state, head):
        head_residual, head_hidden = head[0].split(
            [len(state.decoder.Q), self.decoder_cross_attn[1].module[1].out_features], dim=1
        )
        with float32(x_t):
            latents = self._encode(x_t, time_proj_t, state)
            rows, first, residual = self._decode(x_t, latents, state, head_residual)
        hidden = F.gelu(torch.bmm(rows, first))  # in bfloat16 under autocast
        return head_product(hidden, head_hidden) + (residual + head[1])

    def _encode(self, x_t, time_proj_t, state):
        """The latent tokens, (batch, 2, latent width)."""
        layer, mlp = self.encoder_cross_attn
        module = layer.module
        y = F.linear(x_t, state.encoder.of_x) + state.encoder.rest
        y = y * _inverse_length(y, len(state.encoder.Q))
        time_scores = _scores(time_proj_t.query, state.folded.encoder_keys)
        scores = torch.stack([state.text_scores, time_scores], dim=1).flatten(1, 2)
        weights = (scores @ y.transpose(1, 2)).softmax(dim=-1)  # (batch, 2 heads, num_points)
        mean = weights @ y @ state.encoder.Q.t()  # (batch, 2 heads, channels): mean normed row
        mean = mean * module.kv_norm.weight + module.kv_norm.bias
        attention = module.attention
        mean = mean.unflatten(1, (2, module.heads))
        value = torch.einsum(
            "bthc,hdc->bthd", mean, _by_head(attention.v_proj.weight, module.heads)
        )
        value = value.flatten(2) + attention.v_proj.bias
        latents = torch.stack([state.text_token, time_proj_t.time_token], dim=1)
        return self.encoder_self_attn(mlp(latents + attention.o_proj(value)))

    def _decode(self, x_t, latents, state, head):
        """The MLP's first layer as a product of short rows, and the head of its residual.

        Returns:
            rows: (batch, num_points, k), normed.
            first: (batch, k, hidden); rows @ first is the hidden layer before GELU.
            residual: (batch, num_points, contact_dim).
        """
        module = self.decoder_cross_attn[0].module
        attention, folded = module.attention, state.folded
        Q, channels = state.decoder.Q, len(state.decoder.Q)

        tokens = module.kv_norm(latents)
        k = attention.k_proj(tokens).unflatten(-1, (module.heads, -1))  # (batch, 2, heads, width)
        v = attention.v_proj(tokens).unflatten(-1, (module.heads, -1))
        k_difference = (k[:, 0] - k[:, 1]) * k.shape[-1] ** -0.5  # (batch, heads, width)
        y = F.linear(x_t, state.decoder.of_x) + state.decoder.rest
        to_scores = _scores(k_difference.flatten(1), folded.decoder_queries)
        shift = (folded.query_shift * k_difference).sum(-1)  # (batch, heads)
        scores = (y * _inverse_length(y, channels)) @ to_scores.mT + shift[:, None]
        gates = scores.sigmoid()  # the share of the text token, (batch, num_points, heads)

        # What attention adds to a row: gates @ the first `heads` rows of `added`, and the last.
        outward = _by_head(attention.o_proj.weight.t(), module.heads)  # (heads, width, channels)
        added = torch.einsum("bthd,hdc->bthc", v, outward)
        added = torch.cat(
            [added[:, 0] - added[:, 1], added[:, 1].sum(1, keepdim=True) + attention.o_proj.bias], 1
        )
        mean = added.mean(dim=-1, keepdim=True)
        added = added - mean
        inside = added @ Q
        outside = added - inside @ Q.t()  # at right angles to the basis
        gates = torch.cat([gates, torch.ones_like(gates[..., :1])], dim=-1)
        y = y + gates @ inside
        length = y.square().sum(-1, keepdim=True)
        length = length + ((gates @ (outside @ outside.mT)) * gates).sum(-1, keepdim=True)

        mean = F.linear(x_t, folded.mean_of_x) + state.mean_rest + gates @ mean
        residual = torch.cat([mean, y, gates], dim=-1) @ torch.cat(
            [
                head.sum(dim=1).expand(len(x_t), 1, -1),
                (head @ Q).t().expand(len(x_t), -1, -1),
                outside @ head.t(),
            ],
            dim=1,
        )

        first = torch.cat(
            [
                folded.first_inside.expand(len(x_t), -1, -1),
                outside @ folded.first,
                folded.first_bias.expand(len(x_t), 1, -1),
            ],
            dim=1,
        )
        scale = (length / channels + EPS).rsqrt()
        rows = torch.cat([y * scale, gates * scale, torch.ones_like(scale)], dim=-1)
        missing = -rows.shape[-1] % ALIGNED
        return F.pad(rows, (0, missing)), F.pad(first, (0, 0, 0, missing)), residual

    def _basis(self, weight, rest):
        """Basis and coordinates of rows `weight` (x_t, rest), about their mean over channels."""
        deviation = (weight - weight.mean(dim=0)).double()
        Q, R = (factor.to(weight.dtype) for factor in torch.linalg.qr(deviation))
        of_x, of_rest = R.split([self.columns[0], rest.shape[-1]], dim=1)
        return Basis(Q, of_x.contiguous(), F.linear(rest, of_rest.contiguous()))

    def _encoder_query(self, token):
        """Queries of one token, scaled: (rows, latent width)."""
        module = self.encoder_cross_attn[0].module
        query = module.attention.q_proj(module.q_norm(token))
        return query * (query.shape[-1] // module.heads) ** -0.5


def _has_positions(weights) -> bool:
    """point_pos_emb: configured, or what point features leave of the adapter's columns."""
    configured = weights.model.arch_perceiver.point_pos_emb
    if configured is not None:
        return configured
    columns = weights.dim("encoder_adapter.weight", 1) - weights.contact_dim
    if weights.point_feat_dim is not None:
        return columns >= 3 and columns != weights.point_feat_dim
    if columns <= 3:  # too few for features and positions
        return False
    raise CheckpointError(
        f"contact_model.encoder_adapter.weight has {columns} columns beside x: {columns} point "
        f"features, or {columns - 3} and the position; weights do not tell. Set "
        "model.arch_perceiver.point_pos_emb to true or false (the reference's default is true)"
    )


def _fold(norm, linear):
    """Weight and bias of linear(norm(.)) behind the norm's division: scale and shift go in."""
    return linear.weight * norm.weight, F.linear(norm.bias, linear.weight, linear.bias)


def _by_head(weight, heads):
    """(heads * width, ...) to (heads, width, ...)."""
    return weight.unflatten(0, (heads, -1))


def _scores(vector, through):
    """What makes scores of coordinates: a query or key, head by head, through folded weights.

    Args:
        vector: (batch, heads * width).
        through: (heads, width, rank).
    Returns:
        (batch, heads, rank)
    """
    return torch.einsum("bhd,hdr->bhr", vector.unflatten(-1, (len(through), -1)), through)


def _inverse_length(y, channels):
    """What LayerNorm divides by, from centred rows in an orthonormal basis."""
    return (y.square().sum(-1, keepdim=True) / channels + EPS).rsqrt()


class Attention(nn.Module):
    """Multi-head attention; queries, keys and values are as wide as the queries' input."""

    def __init__(self, q_channels, kv_channels, heads):
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(q_channels, q_channels)
        self.k_proj = nn.Linear(kv_channels, q_channels)
        self.v_proj = nn.Linear(kv_channels, q_channels)
        self.o_proj = nn.Linear(q_channels, q_channels)

    def forward(self, x_q, x_kv):
        q, k, v = self.q_proj(x_q), self.k_proj(x_kv), self.v_proj(x_kv)
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        return self.o_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Attention with norms of queries and of keys and values."""

    def __init__(self, q_channels, kv_channels, heads):
        super().__init__()
        self.heads = heads
        self.q_norm = nn.LayerNorm(q_channels)
        self.kv_norm = nn.LayerNorm(kv_channels)
        self.attention = Attention(q_channels, kv_channels, heads)

    def forward(self, x_q, x_kv):
        return self.attention(self.q_norm(x_q), self.kv_norm(x_kv))


class SelfAttention(nn.Module):
    """Attention of normed tokens among themselves."""

    def __init__(self, channels, heads):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attention = Attention(channels, channels, heads)

    def forward(self, x):
        x = self.norm(x)
        return self.attention(x, x)


class _Residual(nn.Module):
    """module(x, ...) added to x."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x, *args):
        return x + self.module(x, *args)


def _mlp(channels, widening):
    return _Residual(
        nn.Sequential(
            nn.LayerNorm(channels),
            nn.Linear(channels, widening * channels),
            nn.GELU(),
            nn.Linear(widening * channels, channels),
        )
    )
