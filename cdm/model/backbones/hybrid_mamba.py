"""HybridMamba: Mamba scans along two space-filling curves, and a bottleneck of latent tokens.

Text and time are the condition. After Mamba, every block scales and shifts its result by FiLM
(Perez et al. 2018) of the condition; the scale is gamma, not 1 + gamma. The same blocks scan the
points along the Hilbert curve and along the Z-order curve. `naive_forward` is the formula.

The fast form runs both scans as one batch of twice the size. Per sample it computes once: both
orders, the text's term of the condition, and those terms of the embedding that do not depend on
x_t (docs/exact-short-rows.md, eq. 1). Eq. 20 and 21 give the form of its blocks.
"""

from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from cdm.errors import CheckpointError, ConfigError
from cdm.model.architecture import FeatureWidths
from cdm.model.backbones.base import Backbone, join_columns, reproducible_attention
from cdm.model.backbones.hybrid_mamba_cuda import CudaHybridMamba
from cdm.model.backbones.point_mamba import mamba_sizes, read_mamba_sizes
from cdm.model.mamba import BidirectionalBlock
from cdm.model.point_order import gather_points, hilbert_order, z_order


class HybridMambaState(NamedTuple):
    """Conditions of a batch of samples, in Hilbert order."""

    order: torch.Tensor  # (batch, num_points) int64
    inverse: torch.Tensor  # (batch, num_points) int64
    to_z: torch.Tensor  # (batch, num_points) int64: sorts from Hilbert order into Z-order
    from_z: torch.Tensor  # (batch, num_points) int64: its inverse
    static_proj: torch.Tensor  # (batch, num_points, trans_dim): terms of xyz, features and bias
    text_proj: torch.Tensor  # (batch, trans_dim): the condition's terms of text and bias


class HybridMamba(Backbone):
    """The columns of a point are [x, xyz, point_feat]; text and time are the condition.

    Two flags are read off the checkpoint's keys: use_multi_scan (there is a second curve) and
    use_perceiver (there is a bottleneck).
    """

    embedding: Any  # nn.Sequential
    cond_proj: Any  # nn.Sequential
    mamba_encoder: Any  # with layers and scan_fusion, where both scans are there
    mamba_layers: Any  # nn.ModuleList of FilmBlock, where only one is
    signature = r"contact_model\.(mamba_encoder|mamba_layers)\."
    section = "arch_hybridmamba"
    scans = trained = True
    kernels = CudaHybridMamba
    # Only the number of heads is afford-motion's. Width and half the depth are PointMamba's.
    defaults: ClassVar = {
        "last_dim": 256, "trans_dim": 256, "depth": 4, "d_inner": 512, "d_state": 16,
        "d_conv": 4, "dt_rank": 16, "use_multi_scan": True, "use_perceiver": True,
        "num_latents": 128, "num_heads": 8,
    }  # fmt: skip

    @classmethod
    def read_sizes(cls, weights):
        multi, bottleneck = weights.has("mamba_encoder."), weights.has("perceiver.")
        layers = "mamba_encoder.layers." if multi else "mamba_layers."
        sizes = {
            "trans_dim": weights.dim("embedding.2.weight", 0),
            "depth": weights.count(layers),
            **read_mamba_sizes(weights, f"{layers}0.mamba."),
            "use_multi_scan": multi,
            "use_perceiver": bottleneck,
        }
        if bottleneck:
            sizes["num_latents"] = weights.dim("perceiver.latent_tokens", 1)
            heads = weights.model.arch_hybridmamba.num_heads
            sizes["num_heads"] = heads = cls.defaults["num_heads"] if heads is None else heads
            if sizes["trans_dim"] % heads:
                raise CheckpointError(
                    "weights do not tell how many attention heads the bottleneck has, and "
                    f"{heads} does not divide its {sizes['trans_dim']} channels: set "
                    "model.arch_hybridmamba.num_heads to what the model was trained with"
                )
        return sizes

    @classmethod
    def read_widths(cls, weights, sizes):
        text = weights.dim("cond_proj.0.weight", 1) - weights.time_emb_dim
        where = "embedding.0.weight"
        point_feat = weights.dim(where, 1) - weights.contact_dim - 3
        return FeatureWidths(text, point_feat, text + point_feat, where)

    @classmethod
    def sizes_to_train(cls, model):
        sizes, last_dim = super().sizes_to_train(model)
        trans_dim, heads = sizes["trans_dim"], sizes["num_heads"]
        if not sizes["use_perceiver"]:
            del sizes["num_latents"], sizes["num_heads"]
        elif trans_dim % heads:
            raise ConfigError(
                f"model.arch_hybridmamba.num_heads is {heads}, which does not divide trans_dim "
                f"{trans_dim}: set num_heads to a divisor of it"
            )
        return sizes | mamba_sizes(trans_dim), last_dim

    def __init__(self, architecture, scan_backend="auto"):
        super().__init__()
        a, s = architecture, architecture.sizes
        d_model = s["trans_dim"]
        self.columns = [a.contact_dim, 3, a.point_feat_dim]
        self.cond_columns = [a.text_feat_dim, a.time_emb_dim]
        self.embedding = nn.Sequential(
            nn.Linear(sum(self.columns), d_model),
            nn.GELU(),
            nn.Linear(d_model, d_model),
            nn.LayerNorm(d_model),
        )
        self.cond_proj = nn.Sequential(
            nn.Linear(sum(self.cond_columns), d_model), nn.GELU(), nn.Linear(d_model, d_model)
        )
        block_sizes = {key: s[key] for key in ("d_inner", "d_state", "d_conv", "dt_rank")}
        layers = nn.ModuleList(
            FilmBlock(d_model, backend=scan_backend, **block_sizes) for _ in range(s["depth"])
        )
        if s["use_multi_scan"]:
            self.mamba_encoder = nn.Module()
            self.mamba_encoder.layers = layers
            self.mamba_encoder.scan_fusion = nn.Sequential(
                nn.Linear(2 * d_model, 2 * d_model),
                nn.GELU(),
                nn.Linear(2 * d_model, d_model),
                nn.LayerNorm(d_model),
            )
        else:
            self.mamba_layers = layers
        self.perceiver = None
        if s["use_perceiver"]:
            self.perceiver = Bottleneck(d_model, s["num_latents"], s["num_heads"])
        self.out_proj = nn.Sequential(nn.LayerNorm(d_model), nn.Linear(d_model, a.last_dim))

    @property
    def blocks(self) -> Any:
        """The Mamba blocks, an nn.ModuleList of FilmBlock. Both scans use the same ones."""
        return self.mamba_encoder.layers if self.multi_scan else self.mamba_layers

    @property
    def multi_scan(self) -> bool:
        """Whether the blocks also scan along the Z-order curve."""
        return hasattr(self, "mamba_encoder")

    def naive_forward(self, x_t, time_emb, c_text, c_pc_xyz, c_pc_feat=None):
        s = self.embedding(join_columns(x_t, c_pc_xyz, c_pc_feat))
        cond = self.cond_proj(torch.cat([c_text, time_emb], dim=-1))

        def scan(order, inverse):
            along = gather_points(s, order)
            for block in self.blocks:
                along = block.naive_forward(along, cond)
            return gather_points(along, inverse)

        _, *hilbert = hilbert_order(c_pc_xyz)
        points = scan(*hilbert)
        if self.multi_scan:
            _, *z = z_order(c_pc_xyz)
            points = self.mamba_encoder.scan_fusion(torch.cat([points, scan(*z)], dim=-1))
        if self.perceiver is not None:
            points = self.perceiver.naive_forward(points)
        return self.out_proj(points)

    def training_forward(self, x_t, time_emb, c_text, c_pc_xyz, c_pc_feat=None):
        with reproducible_attention():
            return self.one_step_forward(x_t, time_emb, c_text, c_pc_xyz, c_pc_feat)

    def prepare(self, c_text, c_pc_xyz, c_pc_feat=None):
        _, order, inverse = hilbert_order(c_pc_xyz)
        _, z, from_z = z_order(c_pc_xyz)
        _, xyz, feat = self.embedding[0].weight.split(self.columns, dim=1)
        static_proj = F.linear(gather_points(c_pc_xyz, order), xyz, self.embedding[0].bias)
        if c_pc_feat is not None:
            static_proj = static_proj + F.linear(gather_points(c_pc_feat, order), feat)
        text, _ = self.cond_proj[0].weight.split(self.cond_columns, dim=1)
        return HybridMambaState(
            order,
            inverse,
            to_z=inverse.gather(1, z),
            from_z=from_z.gather(1, order),
            static_proj=static_proj,
            text_proj=F.linear(c_text, text, self.cond_proj[0].bias),
        )

    def time_proj(self, time_emb):
        return F.linear(time_emb, self.cond_proj[0].weight[:, self.cond_columns[0] :])

    def films(self, time_proj_t, state):
        """Scale and shift of every block: pairs of (batch, trans_dim)."""
        _, gelu, linear = self.cond_proj
        cond = linear(gelu(state.text_proj + time_proj_t))
        return [block.film(cond) for block in self.blocks]

    def embed(self, x_t, state):
        """The embedding of the points in Hilbert order, (batch, num_points, trans_dim)."""
        _, gelu, linear, norm = self.embedding
        first = F.linear(x_t, self.embedding[0].weight[:, : self.columns[0]]) + state.static_proj
        return norm(linear(gelu(first)).to(first.dtype))  # the norm in float32

    def forward_features(self, x_t, time_proj_t, state):
        s = self.embed(x_t, state)
        films = self.films(time_proj_t, state)
        if self.multi_scan:
            s = torch.cat([s, gather_points(s, state.to_z)])
            films = [[f.repeat(2, 1) for f in film] for film in films]
        for block, film in zip(self.blocks, films, strict=True):
            s = block(s, film)
        return self.finish(s, state)

    def finish(self, s, state):
        """Fuse the scans, and run the bottleneck and the last norm.

        Args:
            s: (scans * batch, num_points, trans_dim), what the blocks give.
        Returns:
            features, (batch, num_points, trans_dim), in Hilbert order.
        """
        if self.multi_scan:
            along, along_z = s.chunk(2)
            both = torch.cat([along, gather_points(along_z, state.from_z)], dim=-1)
            s = self.mamba_encoder.scan_fusion(both)
        if self.perceiver is not None:
            s = self.perceiver(s)
        return self.out_proj[0](s)

    @property
    def last_linear(self):
        return self.out_proj[1].weight, self.out_proj[1].bias


class Film(nn.Module):
    """Scale and shift of features, each a linear layer of the condition."""

    def __init__(self, dim):
        super().__init__()
        self.gamma_proj = nn.Linear(dim, dim)
        self.beta_proj = nn.Linear(dim, dim)

    def forward(self, cond):
        return self.gamma_proj(cond), self.beta_proj(cond)


class FilmBlock(BidirectionalBlock):
    """s + g(s) + flip(g(flip(s))) with g(s) = gamma * Mamba(LayerNorm(s)) + beta.

    gamma and beta are FiLM of the condition.
    """

    def __init__(self, d_model, **sizes):
        super().__init__(d_model, **sizes)
        self.film = Film(d_model)

    def naive_forward(self, s, cond):  # type: ignore[override]  # it sees a condition
        """The formula: s (batch, length, d_model) to the same shape; cond (batch, d_model)."""
        gamma, beta = (f[:, None] for f in self.film(cond))

        def g(s):
            return gamma * self.mamba(self.norm(s)) + beta

        return s + g(s) + g(s.flip(1)).flip(1)

    def forward(self, s, film):  # type: ignore[override]  # it sees a condition
        """The fast form (docs/exact-short-rows.md, eq. 21).

        Args:
            s: (batch, length, d_model).
            film: gamma and beta, (batch, d_model) each.
        Returns:
            shape of s.
        """
        gamma, beta = (f[:, None] for f in film)
        return s + gamma * self.mix(s) + 2 * beta


class Bottleneck(nn.Module):
    """A few latent tokens attend to the points, and the points to them.

    A gate, computed from both, decides how much of the result is added to a point.
    """

    def __init__(self, dim, num_latents, num_heads):
        super().__init__()
        self.latent_tokens = nn.Parameter(0.02 * torch.randn(1, num_latents, dim))
        self.point_to_latent_proj = nn.Linear(dim, dim)
        self.encode_norm_q = nn.LayerNorm(dim)
        self.encode_norm_kv = nn.LayerNorm(dim)
        self.encode_cross_attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.self_attn_layers: Any = nn.ModuleList(
            nn.TransformerEncoderLayer(
                dim, num_heads, 4 * dim, 0.0, F.gelu, batch_first=True, norm_first=True
            )
            for _ in range(2)
        )
        self.decode_norm_q = nn.LayerNorm(dim)
        self.decode_norm_kv = nn.LayerNorm(dim)
        self.decode_cross_attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.gate = nn.Sequential(nn.Linear(2 * dim, dim), nn.Sigmoid())

    def naive_forward(self, points):
        """The formula with torch's attention modules: (batch, num_points, dim) to that shape."""
        queries = self.encode_norm_q(self.latent_tokens).expand(len(points), -1, -1)
        keys = self.encode_norm_kv(self.point_to_latent_proj(points))
        latents, _ = self.encode_cross_attn(queries, keys, keys, need_weights=False)
        for layer in self.self_attn_layers:
            latents = layer(latents)
        keys = self.decode_norm_kv(latents)
        queries = self.decode_norm_q(points)
        attended, _ = self.decode_cross_attn(queries, keys, keys, need_weights=False)
        return points + self.gate(torch.cat([points, attended], dim=-1)) * attended

    def forward(self, points):
        """The same with attention as explicit matrix products.

        torch's modules choose between implementations at run time, such as a fused one for
        inference. Here it is always the same one.
        """
        queries = self.encode_norm_q(self.latent_tokens).expand(len(points), -1, -1)
        keys = self.encode_norm_kv(self.point_to_latent_proj(points))
        latents = _attend(self.encode_cross_attn, queries, keys)
        for layer in self.self_attn_layers:
            normed = layer.norm1(latents)
            latents = latents + _attend(layer.self_attn, normed, normed)
            latents = latents + layer.linear2(F.gelu(layer.linear1(layer.norm2(latents))))
        attended = _attend(
            self.decode_cross_attn, self.decode_norm_q(points), self.decode_norm_kv(latents)
        )
        return points + self.gate(torch.cat([points, attended], dim=-1)) * attended


def _attend(attention, queries, keys):
    """Multi-head attention with the weights of torch's module, and the keys as values.

    Args:
        attention: `nn.MultiheadAttention`.
        queries: (batch, num_queries, dim).
        keys: (batch, num_keys, dim).
    Returns:
        shape of queries.
    """
    heads = attention.num_heads
    dim = queries.shape[-1]
    q_weight, kv_weight = attention.in_proj_weight.split([dim, 2 * dim])
    q_bias, kv_bias = attention.in_proj_bias.split([dim, 2 * dim])
    q = F.linear(queries, q_weight, q_bias)
    k, v = F.linear(keys, kv_weight, kv_bias).chunk(2, dim=-1)
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    attended = F.scaled_dot_product_attention(q, k, v)
    return attention.out_proj(attended.transpose(1, 2).flatten(2))
