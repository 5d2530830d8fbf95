"""PointMamba: bidirectional Mamba blocks over points sorted along a Hilbert curve."""

from dataclasses import asdict
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from cdm.model.architecture import FeatureWidths
from cdm.model.backbones.base import Backbone
from cdm.model.backbones.point_mamba_cuda import CudaPointMamba
from cdm.model.mamba import BidirectionalBlock
from cdm.model.point_order import gather_points, hilbert_order


class PointMambaState(NamedTuple):
    """Conditions of a batch of samples, in Hilbert order."""

    order: torch.Tensor  # (batch, num_points) int64
    inverse: torch.Tensor  # (batch, num_points) int64
    static_proj: torch.Tensor  # (batch, num_points, hidden_dim): text, xyz, features and bias


class PointMamba(Backbone):
    """The first Linear sees the columns [x, text, time, xyz, point_feat] of every point.

    The fast form applies it per group of columns, each group as often as its columns change.
    """

    signature = r"contact_model\.layers\.\d+\.mamba\."
    section = "arch_pointmamba"
    scans = True
    defaults: ClassVar = {
        "last_dim": 256, "trans_dim": 256, "depth": 8, "hidden_dim": 128,
        "d_inner": 512, "d_state": 16, "d_conv": 4, "dt_rank": 16,
    }  # fmt: skip

    @classmethod
    def read_sizes(cls, weights):
        return {
            "trans_dim": weights.dim("layers.0.norm.weight", 0),
            "depth": weights.count("layers."),
            "hidden_dim": weights.dim("embedding.net.0.weight", 0),
            **read_mamba_sizes(weights, "layers.0.mamba."),
        }

    @classmethod
    def read_widths(cls, weights, sizes):
        where = "embedding.net.0.weight"
        both = weights.dim(where, 1) - weights.contact_dim - weights.time_emb_dim - 3
        return FeatureWidths(None, None, both, where)

    @classmethod
    def sizes_to_train(cls, model):
        chosen = {key: n for key, n in asdict(model.arch_pointmamba).items() if n is not None}
        sizes = cls.defaults | chosen
        trans_dim, last_dim = sizes["trans_dim"], sizes.pop("last_dim")
        return sizes | {"d_inner": 2 * trans_dim, "dt_rank": -(-trans_dim // 16)}, last_dim

    def __init__(self, architecture, scan_backend="auto"):
        super().__init__()
        a, sizes = architecture, architecture.sizes
        self.columns = [a.contact_dim, a.text_feat_dim, a.time_emb_dim, 3, a.point_feat_dim]
        d_model, hidden_dim = sizes["trans_dim"], sizes["hidden_dim"]
        self.embedding = nn.Module()
        self.embedding.net = nn.Sequential(
            nn.Linear(sum(self.columns), hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, d_model),
            nn.LayerNorm(d_model),
        )
        block_sizes = {key: sizes[key] for key in ("d_inner", "d_state", "d_conv", "dt_rank")}
        self.layers = nn.ModuleList(
            BidirectionalBlock(d_model, backend=scan_backend, **block_sizes)
            for _ in range(sizes["depth"])
        )
        self.out_proj = nn.Linear(d_model, a.last_dim)

    def naive_forward(self, x_t, time_emb, c_text, c_pc_xyz, c_pc_feat=None):
        shared = [c[:, None].expand(-1, x_t.shape[1], -1) for c in (c_text, time_emb)]
        columns = [x_t, *shared, c_pc_xyz, *([] if c_pc_feat is None else [c_pc_feat])]
        s = self.embedding.net(torch.cat(columns, dim=-1))
        _, order, inverse = hilbert_order(c_pc_xyz)
        s = gather_points(s, order)
        for layer in self.layers:
            s = layer.naive_forward(s)
        return self.out_proj(gather_points(s, inverse))

    # The fast form has gradients, and training uses it: each block runs its projections once
    # for both directions.
    training_forward = Backbone.one_step_forward

    def _first_weights(self):
        """The first Linear's weight by columns: x, text, time, xyz, point_feat."""
        return self.embedding.net[0].weight.split(self.columns, dim=1)

    def prepare(self, c_text, c_pc_xyz, c_pc_feat=None):
        _, order, inverse = hilbert_order(c_pc_xyz)
        _, text, _, xyz, feat = self._first_weights()
        static_proj = F.linear(c_text, text, self.embedding.net[0].bias)[:, None]
        static_proj = static_proj + F.linear(gather_points(c_pc_xyz, order), xyz)
        if c_pc_feat is not None:
            static_proj = static_proj + F.linear(gather_points(c_pc_feat, order), feat)
        return PointMambaState(order, inverse, static_proj)

    def time_proj(self, time_emb):
        return F.linear(time_emb, self._first_weights()[2])

    def forward_features(self, x_t, time_proj_t, state):
        first = F.linear(x_t, self._first_weights()[0]) + state.static_proj
        first = first + time_proj_t[:, None]
        _, gelu, linear, norm = self.embedding.net
        s = norm(linear(gelu(first)).to(first.dtype))  # (batch, num_points, d_model), never bf16
        for layer in self.layers:
            s = layer(s)
        return s

    def compile_fused(self, dtype):
        if CudaPointMamba.unavailable(self) is not None:
            return None
        return CudaPointMamba(self, dtype)

    @property
    def last_linear(self):
        return self.out_proj.weight, self.out_proj.bias


def read_mamba_sizes(weights, prefix):
    """Sizes of a Mamba block off its weights, as `cdm.model.mamba.Mamba` takes them."""
    return {
        "d_inner": weights.dim(prefix + "A_log", 0),
        "d_state": weights.dim(prefix + "A_log", 1),
        "d_conv": weights.dim(prefix + "conv1d.weight", 2),
        "dt_rank": weights.dim(prefix + "dt_proj.weight", 1),
    }
