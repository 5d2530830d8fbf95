"""Perceiver: points and two latent tokens, text and time, that attend to each other.

After Perceiver IO (Jaegle et al. 2022), in the form afford-motion uses. `naive_forward` is the
formula. The fast form computes the same with far smaller matrix products. That is possible because
the features of a point are linear in a few columns, and because there are only two tokens. It
follows these equations of docs/exact-short-rows.md:

- Eq. 8, 9: The deviations of a point's features from their mean over channels lie in a space of
  few dimensions (10 for 6 joints without point features). So the fast form keeps only the
  coordinates y of a point in this space. LayerNorm divides by the length of y.
- Eq. 10, 11: The encoder's scores are products of normalised coordinates with one short vector
  per token and head. A constant that is the same for every point cancels in the softmax.
- Eq. 13, 14: The decoder has two keys, so its softmax is a sigmoid of the difference of scores.
- Eq. 15 to 19: The decoder's attention adds a vector that is linear in these sigmoids, one per
  head. So its MLP can also work on short rows: coordinates and sigmoids instead of channels.

Glossary:

| name | shape | meaning |
| --- | --- | --- |
| columns | (batch, num_points, few) | x, point_feat, xyz and 1 of each point |
| channels | | width of the features that an adapter makes of them |
| Q | (channels, rank) | orthonormal basis of the features' deviations from their mean (eq. 8) |
| y | (batch, num_points, rank) | coordinates in it: deviations = Q y |
| tokens | (batch, 2, latent width) | the text token, then the time token |
| gates | (batch, num_points, heads) | the decoder's attention to the text token (eq. 13) |
| added | (batch, heads + 1, channels) | what one unit of each gate adds, and what is always added |
| short rows | (batch, num_points, k) | coordinates and gates instead of channels, k << channels |
"""

from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from cdm.errors import CheckpointError, ConfigError
from cdm.model.architecture import FeatureWidths
from cdm.model.backbones.base import Backbone, float32, head_product, join_columns
from cdm.model.backbones.perceiver_layers import (
    Attention,
    CrossAttention,
    Residual,
    SelfAttention,
    residual_mlp,
)
from cdm.model.backbones.perceiver_short_rows import (
    Basis,
    Folded,
    added_by_attention,
    attention_gates,
    by_head,
    fold,
    inverse_std,
    make_basis,
    normalised_rows,
    on_coordinates,
    residual_head,
)

DEFAULT_HEADS = 8


class PerceiverState(NamedTuple):
    """Conditions of a batch of samples, and folded weights."""

    text_token: torch.Tensor  # (batch, latent width)
    text_scores: torch.Tensor  # (batch, heads, rank): times coordinates, they are scores
    encoder: Basis
    decoder: Basis
    static_mean: torch.Tensor  # (batch, num_points, 1): mean over channels, without that of x_t
    folded: Folded


class PerceiverStep(NamedTuple):
    """The time token of each step."""

    time_token: torch.Tensor  # (rows, latent width)
    query: torch.Tensor  # (rows, latent width), of the encoder


class Perceiver(Backbone):
    """The columns of a point are [x, point_feat, xyz]; xyz only with point_pos_emb."""

    encoder_cross_attn: Any  # nn.Sequential of Residual(CrossAttention) and a residual MLP
    decoder_cross_attn: Any  # likewise
    signature = r"contact_model\.encoder_adapter\."
    section = "arch_perceiver"
    trained, dropout = True, 0.1
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

    @classmethod
    def sizes_to_train(cls, model):
        sizes, _ = super().sizes_to_train(model)
        # The output has the decoder's width, and the decoder's keys are the latent tokens.
        followed = {
            "last_dim": sizes["decoder_q_input_channels"],
            "decoder_kv_input_channels": sizes["encoder_q_input_channels"],
        }
        for key, width in followed.items():
            told = getattr(model.arch_perceiver, key)
            if told not in (None, width):
                raise ConfigError(
                    f"model.arch_perceiver.{key} is {told}, but the other sizes make it {width}: "
                    f"set {key}: null"
                )
        sizes["decoder_kv_input_channels"] = followed["decoder_kv_input_channels"]

        # Each head has the same share of the channels.
        for part in ("encoder", "decoder"):
            channels, heads = sizes[f"{part}_q_input_channels"], sizes[f"{part}_num_heads"]
            if channels % heads:
                raise ConfigError(
                    f"model.arch_perceiver.{part}_num_heads is {heads}, which does not divide "
                    f"{part}_q_input_channels ({channels}): set one of them so that it does"
                )
        return sizes, followed["last_dim"]

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
            Residual(CrossAttention(latent, points, heads)), residual_mlp(latent, widening)
        )
        self.encoder_self_attn = nn.Sequential(
            *(
                nn.Sequential(
                    Residual(SelfAttention(latent, heads)), residual_mlp(latent, widening)
                )
                for _ in range(s["encoder_self_attn_num_layers"])
            )
        )
        self.decoder_cross_attn = nn.Sequential(
            Residual(CrossAttention(queries, latent, s["decoder_num_heads"])),
            residual_mlp(queries, s["decoder_widening_factor"]),
        )

    def set_dropout(self, share):
        for module in self.modules():
            if isinstance(module, Attention):
                module.dropout = share

    def naive_forward(self, x_t, time_emb, c_text, c_pc_xyz, c_pc_feat=None):
        xyz = c_pc_xyz if self.point_pos_emb else None
        points = self.encoder_adapter(join_columns(x_t, c_pc_feat, xyz))
        tokens = self.language_adapter(c_text), self.time_embedding_adapter(time_emb)
        latents = torch.stack(tokens, dim=1)
        attention, mlp = self.encoder_cross_attn
        latents = self.encoder_self_attn(mlp(attention(latents, points)))
        attention, mlp = self.decoder_cross_attn
        return mlp(attention(self.decoder_adapter(points), latents))

    def prepare(self, c_text, c_pc_xyz, c_pc_feat=None):
        # Both adapters as linear maps of all columns, with 1 as the last of them for the bias.
        weight, bias = self.encoder_adapter.weight, self.encoder_adapter.bias
        xyz = c_pc_xyz if self.point_pos_emb else None
        static = join_columns(c_pc_feat, xyz, torch.ones_like(c_pc_xyz[..., :1]))
        encoder = torch.cat([weight, bias[:, None]], dim=1)
        decoder = self.decoder_adapter.weight @ encoder
        decoder[:, -1] += self.decoder_adapter.bias
        x_mean, static_mean = decoder.mean(dim=0).split([self.columns[0], static.shape[-1]])
        encoder, decoder = (make_basis(adapter, static) for adapter in (encoder, decoder))

        # The weights that act on normalised rows, folded.
        attention = self.encoder_cross_attn[0].module
        k_weight, _ = fold(attention.kv_norm, attention.attention.k_proj)
        encoder_keys = by_head(k_weight, attention.heads) @ encoder.Q
        attention = self.decoder_cross_attn[0].module
        q_weight, q_bias = fold(attention.q_norm, attention.attention.q_proj)
        mlp_weight, mlp_bias = fold(*self.decoder_cross_attn[1].module[:2])

        text_token = self.language_adapter(c_text)
        return PerceiverState(
            text_token,
            on_coordinates(self._encoder_query(text_token), encoder_keys),
            encoder,
            decoder,
            (static @ static_mean)[..., None],
            Folded(
                encoder_keys,
                decoder_queries=by_head(q_weight, attention.heads) @ decoder.Q,
                query_bias=by_head(q_bias, attention.heads),
                mlp_weight=mlp_weight.t().contiguous(),
                mlp_weight_in_basis=(mlp_weight @ decoder.Q).t().contiguous(),
                mlp_bias=mlp_bias,
                x_mean=x_mean[None],
            ),
        )

    def time_proj(self, time_emb):
        token = self.time_embedding_adapter(time_emb)
        return PerceiverStep(token, self._encoder_query(token))

    @property
    def last_linear(self):
        """The last layer acts on two groups of columns: the MLP's residual and its hidden layer."""
        last = self.decoder_cross_attn[1].module[3]
        residual = torch.eye(last.out_features, device=last.weight.device, dtype=last.weight.dtype)
        return torch.cat([residual, last.weight], dim=1), last.bias

    def forward_head(self, x_t, time_proj_t, state, head):
        head_residual, head_hidden = head[0].split(
            [len(state.decoder.Q), self.decoder_cross_attn[1].module[1].out_features], dim=1
        )
        with float32(x_t):
            latents = self._encode(x_t, time_proj_t, state)
            rows, weight, residual = self._decode(x_t, latents, state, head_residual)
        hidden = F.gelu(torch.bmm(rows, weight))  # in bfloat16 under autocast
        return head_product(hidden, head_hidden) + (residual + head[1])

    def _encode(self, x_t, time_proj_t, state):
        """The latent tokens after the encoder, (batch, 2, latent width)."""
        layer, mlp = self.encoder_cross_attn
        module, attention = layer.module, layer.module.attention
        # Points as normalised coordinates (eq. 9), and the two tokens' attention to them (eq. 10).
        y = state.encoder.coordinates(x_t)
        y = y * inverse_std(y, len(state.encoder.Q))
        time_scores = on_coordinates(time_proj_t.query, state.folded.encoder_keys)
        scores = torch.stack([state.text_scores, time_scores], dim=1).flatten(1, 2)
        weights = (scores @ y.transpose(1, 2)).softmax(dim=-1)  # (batch, 2 heads, num_points)
        # The weighted mean of the normalised rows, and the value of that (eq. 12).
        mean = weights @ y @ state.encoder.Q.t()  # (batch, 2 heads, channels)
        mean = mean * module.kv_norm.weight + module.kv_norm.bias
        mean = mean.unflatten(1, (2, module.heads))
        v_weight = by_head(attention.v_proj.weight, module.heads)
        value = torch.einsum("bthc,hdc->bthd", mean, v_weight)
        value = value.flatten(2) + attention.v_proj.bias
        # Residual, MLP and self-attention of the tokens.
        latents = torch.stack([state.text_token, time_proj_t.time_token], dim=1)
        return self.encoder_self_attn(mlp(latents + attention.o_proj(value)))

    def _decode(self, x_t, latents, state, head_residual):
        """The decoder up to its MLP's first layer, as a product of short rows.

        Args:
            head_residual: (contact_dim, channels), the head's columns for the MLP's residual.
        Returns:
            rows: (batch, num_points, k), normalised.
            weight: (batch, k, hidden). rows @ weight is the MLP's hidden layer before GELU.
            residual: (batch, num_points, contact_dim), the head of the MLP's residual.
        """
        module = self.decoder_cross_attn[0].module
        # Keys and values of the two tokens, (batch, 2, heads, head width) each.
        tokens = module.kv_norm(latents)
        k = module.attention.k_proj(tokens).unflatten(-1, (module.heads, -1))
        v = module.attention.v_proj(tokens).unflatten(-1, (module.heads, -1))
        # Each point's attention to them. The last gate is 1, for what is always added.
        y = state.decoder.coordinates(x_t)
        gates = attention_gates(y, k, state.decoder.Q, state.folded)
        gates = torch.cat([gates, torch.ones_like(gates[..., :1])], dim=-1)
        # Rows after attention (eq. 16).
        added = added_by_attention(module.attention.o_proj, v, state.decoder.Q)
        y = y + gates @ added.in_basis
        mean = F.linear(x_t, state.folded.x_mean) + state.static_mean + gates @ added.mean
        residual = residual_head(mean, y, gates, added, state.decoder.Q, head_residual)
        return *normalised_rows(y, gates, added, state.folded), residual

    def _encoder_query(self, token):
        """A token's queries with the scores' scale: (rows, latent width) to the same shape."""
        module = self.encoder_cross_attn[0].module
        query = module.attention.q_proj(module.q_norm(token))
        return query * (query.shape[-1] // module.heads) ** -0.5


def _has_positions(weights) -> bool:
    """Whether the model sees positions (point_pos_emb).

    The configuration decides; without it, the number of columns that point features leave.
    """
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
        "model.arch_perceiver.point_pos_emb to true or false (afford-motion's default is true)"
    )
