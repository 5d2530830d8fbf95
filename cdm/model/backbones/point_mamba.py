"""PointMamba: bidirectional Mamba blocks over points sorted along a Hilbert curve.

`naive_forward` is the formula. The fast form splits the first linear layer by groups of columns,
so that each group is multiplied only as often as it changes (docs/exact-short-rows.md, eq. 1), and
runs each block's projections once for both directions (eq. 20).
"""

from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from cdm.model.architecture import FeatureWidths
from cdm.model.backbones.base import Backbone, join_columns
from cdm.model.backbones.point_mamba_cuda import CudaPointMamba
from cdm.model.mamba import BidirectionalBlock
from cdm.model.point_order import gather_points, hilbert_order


class PointMambaState(NamedTuple):
    """Conditions of a batch of samples, in Hilbert order."""

    order: torch.Tensor  # (batch, num_points) int64
    inverse: torch.Tensor  # (batch, num_points) int64
    # The first linear layer's terms of text, xyz and features, with the bias.
    static_proj: torch.Tensor  # (batch, num_points, hidden_dim)


class PointMamba(Backbone):
    """The columns of a point are [x, text, time, xyz, point_feat]."""

    embedding: Any  # with `net`, an nn.Sequential
    layers: Any  # nn.ModuleList of BidirectionalBlock
    signature = r"contact_model\.layers\.\d+\.mamba\."
    section = "arch_pointmamba"
    scans = trained = True
    kernels = CudaPointMamba
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
        sizes, last_dim = super().sizes_to_train(model)
        return sizes | mamba_sizes(sizes["trans_dim"]), last_dim

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
        s = self.embedding.net(join_columns(x_t, c_text, time_emb, c_pc_xyz, c_pc_feat))
        _, order, inverse = hilbert_order(c_pc_xyz)
        s = gather_points(s, order)
        for layer in self.layers:
            s = layer.naive_forward(s)
        return self.out_proj(gather_points(s, inverse))

    # Training takes the fast form: it has gradients, and it is faster.
    training_forward = Backbone.one_step_forward

    def _first_weights(self):
        """The first linear layer's weight by groups of columns: x, text, time, xyz, point_feat."""
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

    @property
    def last_linear(self):
        return self.out_proj.weight, self.out_proj.bias


def mamba_sizes(trans_dim):
    """The sizes of Mamba that follow from the width of the model, as in state-spaces/mamba."""
    return {"d_inner": 2 * trans_dim, "dt_rank": -(-trans_dim // 16)}


def read_mamba_sizes(weights, prefix):
    """Read the sizes that `cdm.model.mamba.Mamba` takes off the weights below `prefix`."""
    return {
        "d_inner": weights.dim(prefix + "A_log", 0),
        "d_state": weights.dim(prefix + "A_log", 1),
        "d_conv": weights.dim(prefix + "conv1d.weight", 2),
        "dt_rank": weights.dim(prefix + "dt_proj.weight", 1),
    }
