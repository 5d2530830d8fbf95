"""What a contact backbone offers: its sizes off the weights, and its work by how often it runs."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from cdm.model.architecture import CheckpointShapes, FeatureWidths
from cdm.model.point_order import gather_points


class Backbone(nn.Module, ABC):
    """From noisy contact maps and conditions to features of every point.

    A backbone is built as `cls(architecture, scan_backend)`. Point order is its own choice: x_t
    goes in, and features come out, in the order of `prepare`'s state. A subclass defines either
    `forward_features` or `forward_head`. Both run inside CUDA graphs: they must not wait for the
    device, and no shape may depend on a value.

    Attributes:
        signature: regular expression of a key that only this backbone's checkpoints have.
        section: of the configuration, below `model`, that holds its sizes; None if it has none.
        scans: whether it runs selective scans.
        defaults: last_dim and sizes of the reference's default model.
    """

    signature: ClassVar[str]
    section: ClassVar[str | None] = None
    scans: ClassVar[bool] = False
    defaults: ClassVar[dict[str, Any]]

    @classmethod
    @abstractmethod
    def read_sizes(cls, weights: CheckpointShapes) -> dict[str, Any]:
        """`Architecture.sizes` off a checkpoint's shapes: JSON values by the section's names.

        Raises:
            KeyError: a key that decides a size is missing.
            CheckpointError: weights and configuration leave a size open; names the key to set.
        """

    @classmethod
    @abstractmethod
    def read_widths(cls, weights: CheckpointShapes, sizes: dict[str, Any]) -> FeatureWidths:
        """How many columns of text and of point features the weights take; raises likewise."""

    @classmethod
    def sizes_to_train(cls, model) -> tuple[dict[str, Any], int] | None:
        """`Architecture.sizes` and last_dim of section `model`, with the reference's for null.

        Returns:
            None where this version does not train the backbone.
        """

    @abstractmethod
    def prepare(self, c_text, c_pc_xyz, c_pc_feat=None):
        """Everything that neither x_t nor t changes; once per sample.

        Args:
            c_text: (batch, text_feat_dim).
            c_pc_xyz: (batch, num_points, 3), metres.
            c_pc_feat: (batch, num_points, point_feat_dim), None when point_feat_dim is 0.
        Returns:
            state: a named tuple of tensors; tuples may be nested, and anything else may be among
            them. Where points change places, it has `order` and `inverse`, (batch, num_points)
            int64.
        """

    @abstractmethod
    def time_proj(self, time_emb):
        """The part of the first layers that depends only on the timestep.

        Computed once per run, for all timesteps.

        Args:
            time_emb: (rows, time_emb_dim), one row for each step.
        Returns:
            a tensor, or nested tuples of tensors, with these rows first.
        """

    def forward_features(self, x_t, time_proj_t, state):
        """Features before `last_linear`; once per sample and step.

        Args:
            x_t: (batch, num_points, contact_dim), in the state's order.
            time_proj_t: rows of `time_proj`, one for each sample.
        Returns:
            (batch, num_points, width).
        """
        raise NotImplementedError("a backbone defines `forward_features` or `forward_head`")

    @property
    @abstractmethod
    def last_linear(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight (last_dim, width) and bias of the layer behind `forward_features`.

        The caller may fold it into its own.
        """

    def forward_head(self, x_t, time_proj_t, state, head):
        """`forward_features`, then the linear layer head = (weight, bias) for `last_linear`.

        With autocast on, what accumulates stays float32: residuals, norms, softmax, the head.
        """
        weight, bias = head
        return head_product(self.forward_features(x_t, time_proj_t, state), weight) + bias

    def compile_fused(self, dtype):
        """The whole backbone and head packed for inference, in fused kernels for this device.

        Args:
            dtype: of the matrix products, torch.float32 or torch.bfloat16.
        Returns:
            None, or a function called like `forward_head`. Weights are taken as they are now.
        """

    def forward(self, x_t, time_proj_t, state):
        """Features, (batch, num_points, last_dim), in the state's order."""
        return self.forward_head(x_t, time_proj_t, state, self.last_linear)

    @abstractmethod
    def naive_forward(self, x_t, time_emb, c_text, c_pc_xyz, c_pc_feat=None):
        """The whole backbone for one step, as its formula reads; nothing is hoisted or folded.

        The fast form (`prepare`, `time_proj`, `forward`) is tested against it.

        Args:
            x_t: (batch, num_points, contact_dim), points in their given order.
            time_emb: (batch, time_emb_dim).
            c_text, c_pc_xyz, c_pc_feat: as in `prepare`.
        Returns:
            (batch, num_points, last_dim), in the given order.
        """

    def training_forward(self, x_t, time_emb, c_text, c_pc_xyz, c_pc_feat=None):
        """`naive_forward`'s function in the form that gradients go through.

        A backbone whose fast form has gradients takes `one_step_forward` for it.
        """
        return self.naive_forward(x_t, time_emb, c_text, c_pc_xyz, c_pc_feat)

    def one_step_forward(self, x_t, time_emb, c_text, c_pc_xyz, c_pc_feat=None):
        """The fast form for a single step; arguments and result as `naive_forward`."""
        with float32(x_t):  # as the sampling loop prepares them
            state = self.prepare(c_text, c_pc_xyz, c_pc_feat)
            time_proj_t = self.time_proj(time_emb)
        order = getattr(state, "order", None)
        x_t = x_t if order is None else gather_points(x_t, order)
        out = self(x_t, time_proj_t, state)
        return out if order is None else gather_points(out, state.inverse)


def float32(x):
    """A context without autocast on x's device."""
    return torch.autocast(x.device.type, enabled=False)


def head_product(features, weight):
    """features @ weight^T, accumulated and returned in weight's dtype.

    Args:
        features: (batch, num_points, width); a GPU takes bfloat16 as it is, without gradients.
        weight: (contact_dim, width) float32 or float64.
    """
    with float32(features):
        half = features.is_cuda and features.dtype == torch.bfloat16
        if half and not features.requires_grad:
            rows, columns = features.flatten(0, 1), weight.t().to(features.dtype)
            return torch.mm(rows, columns, out_dtype=weight.dtype).unflatten(0, features.shape[:2])
        return F.linear(features.to(weight.dtype), weight)


def map_tensors(function, tree, *others):
    """The tree with function(tensor, *those in its place in the others) for every tensor.

    A tree is a tensor, a tuple of trees, or anything else, which stays as it is.
    """
    if torch.is_tensor(tree):
        return function(tree, *others)
    if not isinstance(tree, tuple):
        return tree
    parts = [map_tensors(function, *branches) for branches in zip(tree, *others, strict=True)]
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
