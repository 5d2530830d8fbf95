"""MLP: each point alone, beside the mean over points.

Each stage normalises its columns, passes them through an MLP, appends the mean over points, and
repeats this with a second MLP. `naive_forward` is the formula.

The fast form never repeats columns that all points of a sample share (text, time, the mean over
points). It splits LayerNorm and linear layer into the own columns of each point and a few numbers
of the sample (docs/exact-short-rows.md, eq. 2 to 7). The last layer of the last stage is linear;
the caller's head is folded into it (eq. 3).
"""

from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from cdm.errors import ConfigError
from cdm.model.architecture import FeatureWidths
from cdm.model.backbones.base import Backbone, float32, join_columns

EPS = 1e-5  # of every LayerNorm
ALIGNED = 8  # the inner dimension of a matrix product is padded to a multiple of this


class MLPState(NamedTuple):
    """Conditions of a batch of samples."""

    c_pc_feat: torch.Tensor | None  # (batch, num_points, point_feat_dim)
    c_text: torch.Tensor  # (batch, text_feat_dim)


class MLP(Backbone):
    """The columns of a point are [x, point_feat, text, time]; the model sees no positions.

    afford-motion's MLP cannot run without point features. Here their columns are then left out.
    """

    point_mlp: Any  # nn.Sequential of Stage
    signature = r"contact_model\.point_mlp\."
    section = "arch_mlp"
    trained = True
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

    @classmethod
    def sizes_to_train(cls, model):
        sizes, _ = super().sizes_to_train(model)
        told, dims = model.arch_mlp.last_dim, sizes["point_mlp_dims"]
        if not dims or told not in (None, dims[-1]):
            raise ConfigError(
                f"model.arch_mlp.last_dim is {told} and point_mlp_dims is {dims}: the last of the "
                "stages gives the output; set last_dim: null, and one stage or more"
            )
        return sizes, dims[-1]

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
        return self.point_mlp(join_columns(x_t, c_pc_feat, c_text, time_emb))

    def prepare(self, c_text, c_pc_xyz, c_pc_feat=None):
        return MLPState(c_pc_feat, c_text)

    def time_proj(self, time_emb):
        return time_emb

    def forward_features(self, x_t, time_proj_t, state):
        own = join_columns(x_t, state.c_pc_feat)
        shared: torch.Tensor | None = torch.cat([state.c_text, time_proj_t], dim=-1)
        *stages, last = self.point_mlp
        for stage in stages:
            own, shared = stage.mlp_post[3](stage.hidden(own, shared)), None
        return last.hidden(own, shared)

    @property
    def last_linear(self):
        last = self.point_mlp[-1].mlp_post[3]
        return last.weight, torch.zeros_like(last.weight[:, 0]) if last.bias is None else last.bias


class Stage(nn.Module):
    """An MLP of each point's columns, then one of its result beside the mean over points."""

    def __init__(self, in_dim, out_dim, widening, bias):
        super().__init__()
        self.mlp_pre = _mlp(in_dim, widening * in_dim, out_dim, bias)
        self.mlp_post = _mlp(2 * out_dim, 2 * out_dim, out_dim, bias)

    def forward(self, c):
        """The naive form: (batch, num_points, in_dim) to (batch, num_points, out_dim)."""
        y = self.mlp_pre(c)
        return self.mlp_post(torch.cat([y, y.mean(dim=1, keepdim=True).expand_as(y)], dim=-1))

    def hidden(self, own, shared=None):
        """The fast form, up to and without the last linear layer.

        Args:
            own: (batch, num_points, width), the first columns of each point.
            shared: (batch, in_dim - width), the columns after them; None if there are none.
        Returns:
            (batch, num_points, hidden_dim) of mlp_post.
        """
        y = self.mlp_pre[3](_norm_linear_gelu(self.mlp_pre, own, shared))
        with float32(y):
            mean = y.mean(dim=1, dtype=_accumulator(y))
        return _norm_linear_gelu(self.mlp_post, y, mean)


def _norm_linear_gelu(mlp, own, shared):
    """The first three layers of an MLP, of own and shared columns: (batch, num_points, hidden)."""
    norm, linear, gelu, _ = mlp
    with float32(own):
        rows, weight = _short_rows(norm, linear, own, shared)
    return gelu(torch.bmm(rows, weight))  # in bfloat16 under autocast


def _short_rows(norm, linear, own, shared):
    """LayerNorm and linear layer of the columns (own, shared) as one product of short rows.

    LayerNorm runs over own and shared columns together. One fused pass normalises the own columns
    alone. Three numbers per point then correct the result to the mean and variance of all columns
    (docs/exact-short-rows.md, eq. 7).

    Args:
        own: (batch, num_points, width).
        shared: (batch, in_dim - width), or None.
    Returns:
        rows: (batch, num_points, k): the normalised own columns, then a factor for each term.
        weight: (batch, k, hidden): the own columns' weight, then the terms. rows @ weight is the
            linear layer's output.
    """
    batch, width = len(own), own.shape[-1]
    # LayerNorm's scale and shift go into the linear layer (eq. 2).
    weight_scaled = norm.weight[:, None] * linear.weight.t()  # (in_dim, hidden)
    bias = F.linear(norm.bias, linear.weight, linear.bias)
    # Own columns alone. On a CPU the statistics take the input's dtype, so it is widened first.
    wide = own if own.is_cuda else own.to(_accumulator(own))
    normed, mean_own, inv_std_own = torch.native_layer_norm(wide, [width], None, None, EPS)
    terms, factors = [bias], [torch.ones_like(inv_std_own)]
    if shared is not None:
        # Mean and variance of all columns, from those of the two groups (eq. 4 and 5).
        own_fraction = width / norm.weight.numel()
        var_shared, mean_shared = torch.var_mean(shared, dim=-1, correction=0, keepdim=True)
        centred = (shared - mean_shared) @ weight_scaled[width:]
        var_shared, mean_shared = var_shared[:, None], mean_shared[:, None]  # (batch, 1, 1)
        between_means = mean_own - mean_shared  # (batch, num_points, 1)
        var_own = inv_std_own.pow(-2) - EPS
        var_all = own_fraction * var_own + (1 - own_fraction) * var_shared
        spread = own_fraction * (1 - own_fraction) * between_means.square()
        inv_std_all = (var_all + spread + EPS).rsqrt()
        # The corrections as terms of the product (eq. 7).
        normed = normed.mul_(inv_std_all / inv_std_own)
        terms += [weight_scaled[:width].sum(dim=0), weight_scaled[width:].sum(dim=0), centred]
        factors += [
            (1 - own_fraction) * between_means * inv_std_all,
            -own_fraction * between_means * inv_std_all,
            inv_std_all,
        ]
    # One weight per sample; both sides are padded to an aligned inner dimension.
    terms = [term.expand(batch, -1)[:, None] for term in terms]
    weight = torch.cat([weight_scaled[:width].expand(batch, -1, -1), *terms], dim=1)
    missing = -weight.shape[1] % ALIGNED
    padded = F.pad(torch.cat(factors, dim=-1), (0, missing))
    rows = torch.cat([normed, padded.to(normed.dtype)], dim=-1)
    return rows, F.pad(weight, (0, 0, 0, missing))


def _accumulator(x):
    """The dtype for sums over x: that of x, but at least float32."""
    return torch.promote_types(x.dtype, torch.float32)


def _mlp(in_dim, hidden_dim, out_dim, bias):
    return nn.Sequential(
        nn.LayerNorm(in_dim),
        nn.Linear(in_dim, hidden_dim, bias=bias),
        nn.GELU(),
        nn.Linear(hidden_dim, out_dim, bias=bias),
    )
