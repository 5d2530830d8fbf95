"""PointTrans: a Point Transformer U-Net. Text and time join at its coarsest level.

`naive_forward` is the formula. The fast form splits the first linear layers by groups of columns
(docs/exact-short-rows.md, eq. 1), and `compile_fused` folds the batch norms (eq. 23).
"""

from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from cdm.errors import ConfigError
from cdm.kernels.neighbourhoods.naive import SHARE_PLANES
from cdm.model.architecture import FeatureWidths
from cdm.model.backbones.base import Backbone, join_columns, reproducible_attention
from cdm.model.point_transformer import (
    STRIDE,
    BatchNorm,
    Level,
    PointTransformerUNet,
    folded,
    points_of_level,
    read_unet,
)


class PointTransState(NamedTuple):
    """Conditions of a batch of samples."""

    static_proj: torch.Tensor  # (batch, num_points, planes[0]): input layer, xyz and features
    levels: tuple[Level, ...]
    text_proj: tuple[torch.Tensor, ...]  # (batch, planes[i]) of each context layer, finest first


class Context(nn.Sequential):
    """An MLP of a level's features, text and time. Its result has the features' width."""

    def __init__(self, dim, text_feat_dim, time_emb_dim):
        width = dim + text_feat_dim + time_emb_dim
        super().__init__(nn.Linear(width, dim), BatchNorm(dim), nn.ReLU(), nn.Linear(dim, dim))
        self.columns = [dim, text_feat_dim, time_emb_dim]

    @property
    def first(self) -> nn.Linear:
        """The first linear layer."""
        layer = self[0]
        assert isinstance(layer, nn.Linear)
        return layer

    def _weights(self):
        """The first linear layer's weight by groups of columns: features, text, time."""
        return self.first.weight.split(self.columns, dim=1)

    def text_proj(self, c_text):
        """The text's term of the first linear layer, with the bias: (batch, dim)."""
        return F.linear(c_text, self._weights()[1], self.first.bias)

    def time_proj(self, time_emb):
        """The time's term of the first linear layer: (rows, dim)."""
        return F.linear(time_emb, self._weights()[2])

    def naive_forward(self, x, c_text, time_emb):
        """The formula: x (batch, n, dim) to the same shape; text and time at every point."""
        return super().forward(join_columns(x, c_text, time_emb))

    def forward(self, x, text_proj, time_proj):  # type: ignore[override]  # not a plain sequence
        """The fast form: text and time as their terms of the first linear layer, (batch, dim)."""
        _, norm, relu, last = self
        feature = self._weights()[0]
        first = F.linear(x.to(feature.dtype), feature) + (text_proj + time_proj)[:, None]
        return last(relu(norm(first)))


class PointTrans(Backbone, PointTransformerUNet):
    """The columns of a point are [xyz, x, point_feat].

    A new model's levels are last_dim, 2 last_dim, 4 last_dim and 8 last_dim wide, as
    afford-motion's are with its 64.
    """

    enc1: Any  # levels of `PointTransformerUNet`, which gives them their names
    dec1: Any
    signature = r"contact_model\.ctx\."
    section = "arch_pointtrans"
    trained = True
    defaults: ClassVar = {"last_dim": 64, "planes": [64, 128, 256, 512], "blocks": [2, 2, 2, 2]}
    context_names: tuple[str, ...] = (
        "ctx",
    )  # the context layers, one for each of the coarsest levels

    @classmethod
    def read_sizes(cls, weights):
        _, planes, blocks = read_unet(weights.shapes, "contact_model.")
        return {"planes": planes, "blocks": blocks}

    @classmethod
    def read_widths(cls, weights, sizes):
        context = f"{cls.context_names[-1]}.0.weight"
        text = weights.dim(context, 1) - sizes["planes"][-1] - weights.time_emb_dim
        where = "enc1.0.linear.weight"
        point_feat = weights.dim(where, 1) - 3 - weights.contact_dim
        return FeatureWidths(text, point_feat, text + point_feat, f"{context} and {where}")

    @classmethod
    def sizes_to_train(cls, model):
        sizes, last_dim = super().sizes_to_train(model)
        levels = len(cls.defaults["planes"])
        if last_dim % SHARE_PLANES:
            raise ConfigError(
                f"model.arch_pointtrans.last_dim is {last_dim}, expected a multiple of "
                f"{SHARE_PLANES}: so many channels share an attention weight"
            )
        if len(sizes["blocks"]) != levels:
            raise ConfigError(
                f"model.arch_pointtrans.blocks is {sizes['blocks']}, expected {levels} numbers, "
                "one for each level"
            )
        return sizes | {"planes": [last_dim * 2**i for i in range(levels)]}, last_dim

    @classmethod
    def training_problem(cls, architecture, num_points, batch_size):
        coarsest = points_of_level(num_points, len(architecture.sizes["planes"]) - 1)
        if batch_size * coarsest > 1:
            return None
        enough = 2 * STRIDE ** (len(architecture.sizes["planes"]) - 1)
        return (
            f"training.batch_size is 1, and {num_points} points leave 1 point at the coarsest "
            f"level of {architecture.arch}, but a batch norm needs 2 values at least; set "
            f"training.batch_size: 2 or more, or dataset.num_points: {enough} or more"
        )

    def __init__(self, architecture, scan_backend="auto"):
        a, sizes = architecture, architecture.sizes
        super().__init__(3 + a.contact_dim + a.point_feat_dim, sizes["planes"], sizes["blocks"])
        self.contact_dim = a.contact_dim
        joined = sizes["planes"][-len(self.context_names) :]
        for name, dim in zip(self.context_names, joined, strict=True):
            self.add_module(name, Context(dim, a.text_feat_dim, a.time_emb_dim))

    def contexts(self):
        """The context layers, finest level first."""
        return [getattr(self, name) for name in self.context_names]

    def naive_forward(self, x_t, time_emb, c_text, c_pc_xyz, c_pc_feat=None):
        levels = self.geometry(c_pc_xyz)
        input_proj = self.enc1[0].linear(join_columns(c_pc_xyz, x_t, c_pc_feat))
        features = self.encode(input_proj, levels, naive=True)
        features[-1] = self.mix(features[-1])
        first = len(features) - len(self.context_names)
        for i, context in enumerate(self.contexts(), start=first):
            features[i] = context.naive_forward(features[i], c_text, time_emb)
        return self.decode(features, levels)

    def training_forward(self, x_t, time_emb, c_text, c_pc_xyz, c_pc_feat=None):
        with reproducible_attention():
            return self.one_step_forward(x_t, time_emb, c_text, c_pc_xyz, c_pc_feat)

    def prepare(self, c_text, c_pc_xyz, c_pc_feat=None):
        static_proj = self.input_proj(c_pc_xyz)
        if c_pc_feat is not None:
            static_proj = static_proj + self.input_proj(c_pc_feat, start=3 + self.contact_dim)
        text = tuple(context.text_proj(c_text) for context in self.contexts())
        return PointTransState(static_proj, self.geometry(c_pc_xyz), text)

    def time_proj(self, time_emb):
        return tuple(context.time_proj(time_emb) for context in self.contexts())

    def forward_features(self, x_t, time_proj_t, state):
        features = self.encode(state.static_proj + self.input_proj(x_t, start=3), state.levels)
        features[-1] = self.mix(features[-1])
        first = len(features) - len(self.context_names)
        for i, context in enumerate(self.contexts()):
            features[first + i] = context(features[first + i], state.text_proj[i], time_proj_t[i])
        return self.decode(features, state.levels)

    def mix(self, x):
        """A layer of the coarsest features before the context joins them. PointTrans has none."""
        return x

    def compile_fused(self, dtype):
        # Any device: folded layers save work on a CPU too.
        return folded(self, dtype if dtype != torch.float32 else None).forward_head

    @property
    def last_linear(self):
        """The identity: afford-motion has no such layer here."""
        weight = self.dec1[1].linear3.weight
        identity = torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
        return identity, weight.new_zeros(len(weight))
