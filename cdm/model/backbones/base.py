"""Interface of a contact backbone.

A backbone reads its sizes from the shapes of a checkpoint. Its forward pass is split by how often
each part has to run: `time_proj` once per run, `prepare` once per sample, and `forward_head` for
every sample and step.
"""

from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from cdm.model.architecture import Architecture, CheckpointShapes, FeatureWidths
from cdm.model.point_order import gather_points


class Backbone(nn.Module, ABC):
    """From noisy contact maps and conditions to features of every point.

    A backbone is built as `cls(architecture, scan_backend)`. It has the same function in several
    forms, and a test holds each of them against the first:

    - `naive_forward`: the formula, for one step. Nothing is computed ahead.
    - `training_forward`: the form that gradients go through.
    - `prepare`, `time_proj` and `forward`: the fast form. `forward_features` or `forward_head`
      does its work; a subclass defines one of the two. Both run inside CUDA graphs. They must not
      wait for the device, and no shape may depend on a value.
    - `compile_fused`: the fast form in fused kernels, where there are any.

    A backbone may sort the points. x_t goes into the fast form, and features come out of it, in
    the order that `prepare`'s state gives.

    Attributes:
        signature: regular expression of a key that only this backbone's checkpoints have.
        section: section of the configuration, below `model`, that holds its sizes; None if it has
            none.
        scans: whether it runs selective scans.
        trained: whether `snakemake train` trains it. Its `training_forward` then has the gradients
            of all weights, and runs inside a CUDA graph.
        defaults: last_dim and sizes of afford-motion's default model.
        dropout: share of the attention weights that afford-motion's training drops; None for a
            backbone without dropout.
        kernels: class of the fused form, None without one. Its `unavailable(backbone)` is None
            or says why the kernels cannot run. `kernels(backbone, dtype)` is called like
            `forward_head`.
    """

    signature: ClassVar[str]
    section: ClassVar[str | None] = None
    scans: ClassVar[bool] = False
    trained: ClassVar[bool] = False
    defaults: ClassVar[dict[str, Any]]
    dropout: ClassVar[float | None] = None
    kernels: ClassVar[Any] = None

    @classmethod
    @abstractmethod
    def read_sizes(cls, weights: CheckpointShapes) -> dict[str, Any]:
        """Read `Architecture.sizes` off a checkpoint's shapes.

        Returns:
            JSON values by the names of the configuration's section.
        Raises:
            KeyError: a key that decides a size is missing.
            CheckpointError: weights and configuration leave a size open. The message names the
                key to set.
        """

    @classmethod
    @abstractmethod
    def read_widths(cls, weights: CheckpointShapes, sizes: dict[str, Any]) -> FeatureWidths:
        """How many columns of text and of point features the weights take.

        Raises:
            KeyError, CheckpointError: as `read_sizes`.
        """

    @classmethod
    def sizes_to_train(cls, model) -> tuple[dict[str, Any], int]:
        """Sizes for training a new model from section `model` of the configuration.

        A size that is null there takes its value in `defaults`.

        Returns:
            `Architecture.sizes` and last_dim.
        Raises:
            ConfigError: of these sizes no model can be made.
        """
        told = asdict(getattr(model, cls.section or ""))
        told = {key: list(x) if isinstance(x, tuple) else x for key, x in told.items()}
        sizes = cls.defaults | {key: value for key, value in told.items() if value is not None}
        return sizes, sizes.pop("last_dim")

    @classmethod
    def training_problem(
        cls, architecture: Architecture, num_points: int, batch_size: int
    ) -> str | None:
        """Why batches of this size train no such model, and what to set; None if they do."""
        return None

    def set_dropout(self, share: float) -> None:
        """Drop this share where afford-motion does in training. A backbone with `dropout` has it.

        The masks must come from torch's default generator: a training seeds it at every step.
        """
        raise NotImplementedError(f"{type(self).__name__} has no dropout")

    # ---- the formula, and gradients ----

    @abstractmethod
    def naive_forward(self, x_t, time_emb, c_text, c_pc_xyz, c_pc_feat=None):
        """The whole backbone for one step, as its formula reads; nothing is hoisted or folded.

        Args:
            x_t: (batch, num_points, contact_dim), points in their given order.
            time_emb: (batch, time_emb_dim).
            c_text: (batch, text_feat_dim).
            c_pc_xyz: (batch, num_points, 3), metres.
            c_pc_feat: (batch, num_points, point_feat_dim), None when point_feat_dim is 0.
        Returns:
            (batch, num_points, last_dim), in the given order.
        """

    def training_forward(self, x_t, time_emb, c_text, c_pc_xyz, c_pc_feat=None):
        """The form that gradients go through; arguments and result as `naive_forward`.

        A backbone whose fast form has gradients takes `one_step_forward` for it.
        """
        return self.naive_forward(x_t, time_emb, c_text, c_pc_xyz, c_pc_feat)

    def one_step_forward(self, x_t, time_emb, c_text, c_pc_xyz, c_pc_feat=None):
        """The fast form for a single step; arguments and result as `naive_forward`."""
        with float32(x_t):  # `prepare` and `time_proj` run without autocast, as when sampling
            state = self.prepare(c_text, c_pc_xyz, c_pc_feat)
            time_proj_t = self.time_proj(time_emb)
        order = getattr(state, "order", None)
        x_t = x_t if order is None else gather_points(x_t, order)
        out = self(x_t, time_proj_t, state)
        return out if order is None else gather_points(out, state.inverse)

    # ---- the fast form ----

    @abstractmethod
    def prepare(self, c_text, c_pc_xyz, c_pc_feat=None):
        """Compute everything that depends on neither x_t nor t. Called once per sample.

        Args:
            c_text, c_pc_xyz, c_pc_feat: as in `naive_forward`.
        Returns:
            state: a named tuple of tensors. It may also hold nested tuples, and values of other
            types. If the backbone sorts the points, it has `order` and `inverse`,
            (batch, num_points) int64.
        """

    @abstractmethod
    def time_proj(self, time_emb):
        """The part of the first layers that depends only on the timestep.

        Computed once per run for all timesteps.

        Args:
            time_emb: (rows, time_emb_dim), one row for each timestep.
        Returns:
            a tensor, or nested tuples of tensors, whose first axis is these rows.
        """

    def forward_features(self, x_t, time_proj_t, state):
        """Features before `last_linear`. Called for every sample and step.

        Args:
            x_t: (batch, num_points, contact_dim), in the state's order.
            time_proj_t: rows of `time_proj`, one for each sample.
            state: as `prepare` returned it.
        Returns:
            (batch, num_points, width).
        """
        raise NotImplementedError("a backbone defines `forward_features` or `forward_head`")

    @property
    @abstractmethod
    def last_linear(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight (last_dim, width) and bias of the linear layer after `forward_features`.

        The caller multiplies it into its own linear layer, the head (docs/exact-short-rows.md,
        eq. 3), so that it costs no product of its own at each step.
        """

    def forward_head(self, x_t, time_proj_t, state, head):
        """`forward_features`, then the head in place of `last_linear`.

        With autocast on, residuals, norms, softmax and the head still accumulate in float32.

        Args:
            x_t, time_proj_t, state: as in `forward_features`.
            head: weight (contact_dim, width) and bias (contact_dim,).
        Returns:
            (batch, num_points, contact_dim), in the state's order.
        """
        weight, bias = head
        return head_product(self.forward_features(x_t, time_proj_t, state), weight) + bias

    def forward(self, x_t, time_proj_t, state):
        """Features, (batch, num_points, last_dim), in the state's order."""
        return self.forward_head(x_t, time_proj_t, state, self.last_linear)

    def compile_fused(self, dtype):
        """Pack the whole backbone and the head for fused kernels on this device.

        Args:
            dtype: of the matrix products, torch.float32, torch.bfloat16 or torch.float16.
        Returns:
            a function called like `forward_head`, with the weights as they are now; None where
            there are no such kernels.
        """
        if self.kernels is None or self.kernels.unavailable(self) is not None:
            return None
        return self.kernels(self, dtype)


def autocast(device_type, dtype):
    """A context whose matrix products take this dtype; torch.float32: as they come."""
    enabled = dtype != torch.float32
    return torch.autocast(device_type, dtype if enabled else None, enabled=enabled)


def float32(x):
    """A context without autocast on x's device."""
    return torch.autocast(x.device.type, enabled=False)


def reproducible_attention():
    """A context whose attention has gradients with the same bits at every call.

    Torch's fused attention sums gradients in any order on a GPU. A training that was stopped must
    end as an undisturbed one, so training takes attention as plain matrix products and softmax.
    """
    return sdpa_kernel(SDPBackend.MATH)


def join_columns(*columns):
    """Columns of every point side by side, in this order.

    Args:
        columns: (batch, num_points, width) each; (batch, width) for columns that all points of a
            sample share; None is left out.
    Returns:
        (batch, num_points, sum of widths).
    """
    there = [c for c in columns if c is not None]
    num_points = next(c.shape[1] for c in there if c.dim() == 3)
    wide = [c if c.dim() == 3 else c[:, None].expand(-1, num_points, -1) for c in there]
    return torch.cat(wide, dim=-1)


def head_product(features, weight):
    """features @ weight^T, accumulated and returned in weight's dtype.

    Args:
        features: (batch, num_points, width). On a GPU, 16-bit features without gradients are
            multiplied as they are; all others are first converted to weight's dtype.
        weight: (contact_dim, width) float32 or float64.
    Returns:
        (batch, num_points, contact_dim).
    """
    with float32(features):
        half = features.is_cuda and features.dtype in (torch.bfloat16, torch.float16)
        if half and not features.requires_grad:
            rows, columns = features.flatten(0, 1), weight.t().to(features.dtype)
            return torch.mm(rows, columns, out_dtype=weight.dtype).unflatten(0, features.shape[:2])
        return F.linear(features.to(weight.dtype), weight)


def map_tensors(function, tree, *others):
    """Apply a function to every tensor of a tree.

    Args:
        function: called with a tensor and the tensors at the same place of the other trees.
        tree: a tensor, a tuple of trees, or any other value. Other values stay as they are.
        others: trees of the same form.
    Returns:
        a tree of the results, of the same form.
    """
    if torch.is_tensor(tree):
        return function(tree, *others)
    if not isinstance(tree, tuple):
        return tree
    parts = [map_tensors(function, *branches) for branches in zip(tree, *others, strict=True)]
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
