"""MLP: every point on its own, and the mean over points appended in each stage.

A stage norms its columns, passes them through an MLP, appends the mean over points, and does so
again. `naive_forward` is the formula. Columns that all points of a sample share (text, time, the
mean) are never repeated for each point: LayerNorm's mean and variance are computed from those of
the two groups of columns, and behind the norm, (c - mean) / deviation, the linear layer sees the
shared columns c only as

    W c / deviation - W 1 mean / deviation,

two vectors of the sample times two numbers of the point. The last stage's last layer is linear:
the caller's head is folded into it.
"""

from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from cdm.model.architecture import FeatureWidths
from cdm.model.backbones.base import Backbone, float32

EPS = 1e-5  # of every LayerNorm
ALIGNED = 8  # columns of a matrix product are filled up to a multiple of this


class MLPState(NamedTuple):
    """Conditions of a batch of samples."""

    c_pc_feat: torch.Tensor | None  # (batch, num_points, point_feat_dim)
    c_text: torch.Tensor  # (batch, text_feat_dim)


class MLP(Backbone):
    """The point columns are [x, point_feat, text, time]; it sees no positions.

    The reference's MLP cannot run without point features; here that column is then left out.
    """

    signature = r"contact_model\.point_mlp\."
    section = "arch_mlp"
    defaults: ClassVar = {
        "last_dim": 512, "point_mlp_dims": [512, 512], "point_mlp_widening_factor": 1,
        "point_mlp_bias": True,
    }  # fmt: skip

    @classmethod
    def read_sizes(cls, weights):
        stages = range(weights.count("point_mlp."))
        first = "point_mlp.0.mlp_pre.1.weight"
        return {
            "point_mlp_dims": [weights.dim(f"point_mlp.{i}.mlp_pre.3.weight", 0) for i in stages],
            "point_mlp_widening_factor": weights.dim(first, 0) // weights.dim(first, 1),
            "point_mlp_bias": weights.has("point_mlp.0.mlp_pre.1.bias"),
        }

    @classmethod
    def read_widths(cls, weights, sizes):
        where = "point_mlp.0.mlp_pre.1.weight"
        both = weights.dim(where, 1) - weights.contact_dim - weights.time_emb_dim
        return FeatureWidths(None, None, both, where)

    def __init__(self, architecture, scan_backend="auto"):
        super().__init__()
        a, s = architecture, architecture.sizes
        columns = a.contact_dim + a.point_feat_dim + a.text_feat_dim + a.time_emb_dim
        self.point_mlp = nn.Sequential(
            *(
                Stage(*dims, s["point_mlp_widening_factor"], s["point_mlp_bias"])
                for dims in pairwise([columns, *s["point_mlp_dims"]])
            )
        )

    def naive_forward(self, x_t, time_emb, c_text, c_pc_xyz, c_pc_feat=None):
        shared = [c[:, None].expand(-1, x_t.shape[1], -1) for c in (c_text, time_emb)]
        columns = [x_t, *([] if c_pc_feat is None else [c_pc_feat]), *shared]
        return self.point_mlp(torch.cat(columns, dim=-1))

    def prepare(self, c_text, c_pc_xyz, c_pc_feat=None):
        return MLPState(c_pc_feat, c_text)

    def time_proj(self, time_emb):
        return time_emb

    def forward_features(self, x_t, time_proj_t, state):
        own = x_t if state.c_pc_feat is None else torch.cat([x_t, state.c_pc_feat], dim=-1)
        shared = torch.cat([state.c_text, time_proj_t], dim=-1)
        *stages, last = self.point_mlp
        for stage in stages:
            own, shared = stage.mlp_post[3](stage.hidden(own, shared)), None
        return last.hidden(own, shared)

    @property
    def last_linear(self):
        last = self.point_mlp[-1].mlp_post[3]
        return last.weight, torch.zeros_like(last.weight[:, 0]) if last.bias is None else last.bias


class Stage(nn.Module):
    """An MLP of each point, then one of each point beside the mean over points."""

    def __init__(self, in_dim, out_dim, widening, bias):
        super().__init__()
        self.mlp_pre = _mlp(in_dim, widening * in_dim, out_dim, bias)
        self.mlp_post = _mlp(2 * out_dim, 2 * out_dim, out_dim, bias)

    def forward(self, c):
        """(batch, num_points, in_dim) to (batch, num_points, out_dim), as the formula says."""
        y = self.mlp_pre(c)
        return self.mlp_post(torch.cat([y, y.mean(dim=1, keepdim=True).expand_as(y)], dim=-1))

    def hidden(self, own, shared=None):
        """`forward` up to its last linear layer, of points' own columns and shared ones.

        Args:
            own: (batch, num_points, width), the first columns.
            shared: (batch, in_dim - width), the others; None without any.
        """
        y = self.mlp_pre[3](_norm_linear_gelu(self.mlp_pre, own, shared))
        with float32(y):
            mean = y.mean(dim=1, dtype=_accumulator(y))
        return _norm_linear_gelu(self.mlp_post, y, mean)


def _norm_linear_gelu(mlp, own, shared):
    """The first three layers of an MLP: (batch, num_points, hidden)."""
    norm, linear, gelu, _ = mlp
    with float32(own):
        rows, first = _short_rows(norm, linear, own, shared)
    return gelu(torch.bmm(rows, first))  # in bfloat16 under autocast


def _short_rows(norm, linear, own, shared):
    """LayerNorm and linear layer of columns (own, shared) as one matrix product.

    Own columns are normed by themselves first, in one pass; they, and the shared ones, are then
    stretched and shifted to the mean and deviation of all.

    Returns:
        rows: (batch, num_points, k), own columns, then numbers that shared ones and bias need.
        first: (batch, k, hidden); rows @ first is the linear layer's output.
    """
    batch, width = len(own), own.shape[-1]
    through = norm.weight[:, None] * linear.weight.t()  # (columns, hidden)
    bias = F.linear(norm.bias, linear.weight, linear.bias)
    wide = own if own.is_cuda else own.to(_accumulator(own))  # a CPU's statistics are the input's
    normed, mean, scale = torch.native_layer_norm(wide, [width], None, None, EPS)
    vectors, numbers = [bias], [torch.ones_like(scale)]
    if shared is not None:
        share = width / norm.weight.numel()
        variance_s, mean_s = torch.var_mean(shared, dim=-1, correction=0, keepdim=True)
        centred = (shared - mean_s) @ through[width:]
        variance_s, mean_s = variance_s[:, None], mean_s[:, None]  # (batch, 1, 1)
        apart = mean - mean_s  # (batch, num_points, 1)
        variance = share * (scale.pow(-2) - EPS) + (1 - share) * variance_s
        of_all = (variance + share * (1 - share) * apart.square() + EPS).rsqrt()
        normed = normed.mul_(of_all / scale)
        vectors += [through[:width].sum(dim=0), through[width:].sum(dim=0), centred]
        numbers += [(1 - share) * apart * of_all, -share * apart * of_all, of_all]
    vectors = [v.expand(batch, -1)[:, None] for v in vectors]
    first = torch.cat([through[:width].expand(batch, -1, -1), *vectors], dim=1)
    numbers = F.pad(torch.cat(numbers, dim=-1), (0, -first.shape[1] % ALIGNED))
    rows = torch.cat([normed, numbers.to(normed.dtype)], dim=-1)
    return rows, F.pad(first, (0, 0, 0, -first.shape[1] % ALIGNED))


def _accumulator(x):
    """What sums over x are computed in: never less than float32."""
    return torch.promote_types(x.dtype, torch.float32)


def _mlp(in_dim, hidden_dim, out_dim, bias):
    return nn.Sequential(
        nn.LayerNorm(in_dim),
        nn.Linear(in_dim, hidden_dim, bias=bias),
        nn.GELU(),
        nn.Linear(hidden_dim, out_dim, bias=bias),
    )
