"""The Point Transformer U-Net (Zhao et al. 2021).

Layers, and names of parameters, are those of the authors' network for semantic segmentation.
`geometry` computes once per batch of clouds what does not depend on features: the points kept at
each level, neighbours, relative positions, and interpolation weights. All clouds of a batch have
the same size, and tensors are (batch, num_points, channels).

In training, batch norms use the statistics of the batch. Otherwise they use their running
statistics. Each is then an affine map, which `folded` multiplies into the linear layer before it
(docs/exact-short-rows.md, eq. 23).
"""

import copy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from cdm.kernels.farthest_points import farthest_points
from cdm.kernels.interpolation import NUM_NEIGHBOURS, interpolate, interpolation_weights
from cdm.kernels.nearest_neighbours import nearest_neighbours
from cdm.kernels.neighbourhoods import Weights, grouped_max, naive, vector_attention
from cdm.model.point_order import gather_points

STRIDE = 4  # each level keeps one point in so many of the next finer level
NEIGHBOURS = (8, 16, 16, 16, 16)  # k of each level, finest first


class Level(NamedTuple):
    """Geometry of one level of the U-Net.

    `group` lists, for each point of this level, its k nearest points of the next finer level
    (pooling). `up` lists, for each point of the finer level, its three nearest points of this
    level (interpolation). Both are None at the finest level. All indices count the points of the
    whole batch: the cloud's number times the points of a cloud, plus the point's number.
    """

    neighbours: torch.Tensor  # (batch, n, k) int64, points of this level
    positions: tuple[torch.Tensor, ...]  # (batch, n, k, 3), coded by each attention layer
    group: torch.Tensor | None  # (batch, n, k) int64, points of the finer level
    group_offset: torch.Tensor | None  # (batch, n, k, 3) metres, from the group's centre
    up: torch.Tensor | None  # (batch, n of the finer level, 3) int64, points of this level
    up_weights: torch.Tensor | None  # (batch, n of the finer level, 3)


class BatchNorm(nn.BatchNorm1d):
    """Batch norm over the last axis: of the batch in training, else of the running statistics."""

    def forward(self, x):
        return super().forward(x.flatten(0, -2)).view_as(x)

    def affine_map(self):
        """The scale and the shift that it applies, (channels,) each."""
        assert self.running_mean is not None and self.running_var is not None
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale


class InputLayer(nn.Module):
    """Input layer of the finest level, without its linear part.

    The caller computes the linear part per group of columns (`PointTransformerUNet.input_proj`).
    So the groups that do not change with the step are multiplied only once.
    """

    def __init__(self, in_dim, out_dim):
        super().__init__()
        self.linear = nn.Linear(in_dim, out_dim, bias=False)
        self.bn = BatchNorm(out_dim)

    def forward(self, input_proj):
        return self.bn(input_proj).relu()


class TransitionDown(nn.Module):
    """From a level to the next coarser one: the largest features in the group of each point."""

    folds = (("linear", "bn"),)

    def __init__(self, in_dim, out_dim):
        super().__init__()
        self.linear = nn.Linear(3 + in_dim, out_dim, bias=False)
        self.bn = BatchNorm(out_dim)

    def naive_forward(self, x, level):
        """The formula: linear layer and norm of every member of a group, then the maximum.

        Args:
            x: (batch, n of the finer level, in_dim).
            level: the coarser `Level`.
        Returns:
            (batch, n, out_dim)
        """
        member = F.embedding(level.group, x.flatten(0, 1))  # (batch, n, k, in_dim)
        y = self.linear(torch.cat([level.group_offset, member], dim=-1))
        return self.bn(y).relu().amax(dim=2)

    def forward(self, x, level):
        """The fast form: features are multiplied before they are grouped (eq. 24).

        A point is in many groups, but its features have to be multiplied only once.
        """
        x = x.to(self.linear.weight.dtype)
        offset, feature = self.linear.weight.split([3, x.shape[-1]], dim=1)
        y = F.linear(x, feature, self.linear.bias)
        if isinstance(self.bn, nn.Identity):
            return grouped_max(y, level.group, level.group_offset, offset).relu()
        y = F.embedding(level.group, y.flatten(0, 1))  # (batch, n, k, out_dim)
        y = y + F.linear(level.group_offset, offset)
        return self.bn(y).amax(dim=2).relu()


class TransitionUp(nn.Module):
    """From a level to the next finer one.

    The coarsest level has no coarser one to add. It gets the mean over its cloud instead.
    """

    def __init__(self, dim, coarse_dim=None):
        super().__init__()
        if coarse_dim is None:
            self.linear1 = nn.Sequential(nn.Linear(2 * dim, dim), BatchNorm(dim), nn.ReLU())
            self.linear2 = nn.Sequential(nn.Linear(dim, dim), nn.ReLU())
        else:
            self.linear1 = nn.Sequential(nn.Linear(dim, dim), BatchNorm(dim), nn.ReLU())
            self.linear2 = nn.Sequential(nn.Linear(coarse_dim, dim), BatchNorm(dim), nn.ReLU())

    def forward(self, x, coarse=None, coarse_level=None):
        x = x.to(self.linear1[0].weight.dtype)
        if coarse is None:
            mean = self.linear2(x.mean(dim=1, keepdim=True)).expand_as(x)
            return self.linear1(torch.cat([x, mean], dim=-1))
        coarse = self.linear2(coarse)
        return self.linear1(x) + interpolate(coarse, coarse_level.up, coarse_level.up_weights)


class VectorAttention(nn.Module):
    """Attention of every point to its neighbours, with a weight per channel (the paper's eq. 3)."""

    attend = staticmethod(naive.vector_attention)

    def __init__(self, dim):
        super().__init__()
        shared = dim // naive.SHARE_PLANES
        self.linear_q, self.linear_k, self.linear_v = (nn.Linear(dim, dim) for _ in range(3))
        self.linear_p = nn.Sequential(nn.Linear(3, 3), BatchNorm(3), nn.ReLU(), nn.Linear(3, dim))
        self.linear_w = nn.Sequential(
            BatchNorm(dim), nn.ReLU(), nn.Linear(dim, shared),
            BatchNorm(shared), nn.ReLU(), nn.Linear(shared, shared),
        )  # fmt: skip

    def position(self, offset):
        """The first layers of the position encoding: (..., 3) metres to (..., 3)."""
        return self.linear_p[:3](offset)

    def weights(self):
        """The layer's weights as `cdm.kernels.neighbourhoods.Weights`."""
        layers: tuple[Any, ...] = tuple(self.linear_w)
        norm, _, linear, hidden_norm, _, last = layers
        position: Any = self.linear_p[3]
        hidden = linear.weight, linear.bias
        if isinstance(hidden_norm, BatchNorm):
            hidden = fold(linear, hidden_norm)
        return Weights(
            position=(position.weight, position.bias),
            norm=norm.affine_map(),
            hidden=hidden,
            out=(last.weight, last.bias),
        )

    def forward(self, x, neighbours, position):
        q, k, v = self.linear_q(x), self.linear_k(x), self.linear_v(x)
        if self.training:  # no norm is an affine map of its own
            return naive.attend(q, k, v, neighbours, self.linear_p[3](position), self.linear_w)
        return self.attend(q, k, v, neighbours, position, self.weights())


class Block(nn.Module):
    """Attention between two linear layers, with a residual around all three."""

    folds = (("linear1", "bn1"), ("linear3", "bn3"))

    def __init__(self, dim):
        super().__init__()
        self.linear1, self.bn1 = nn.Linear(dim, dim, bias=False), BatchNorm(dim)
        self.transformer2, self.bn2 = VectorAttention(dim), BatchNorm(dim)
        self.linear3, self.bn3 = nn.Linear(dim, dim, bias=False), BatchNorm(dim)

    def forward(self, x, neighbours, position):
        x = x.to(self.linear1.weight.dtype)
        y = self.bn1(self.linear1(x)).relu()
        y = self.bn2(self.transformer2(y, neighbours, position)).relu()
        return (x + self.bn3(self.linear3(y))).relu()


LAYERS = TransitionDown, TransitionUp, Block


class PointTransformerUNet(nn.Module):
    """Encoder and decoder, with parameters in `enc1`, `dec1` (the finest level), `enc2`, ...

    Args:
        in_dim: input columns of each point.
        planes: channels of each level, finest first.
        blocks: layers of each level's encoder, of which the first is the transition.
    """

    def __init__(self, in_dim, planes, blocks):
        super().__init__()
        self.num_levels = len(planes)
        finer = in_dim
        for number, (dim, num_blocks) in enumerate(zip(planes, blocks, strict=True), start=1):
            down = InputLayer(finer, dim) if number == 1 else TransitionDown(finer, dim)
            encoder = nn.Sequential(down, *[Block(dim) for _ in range(num_blocks - 1)])
            coarser = planes[number] if number < len(planes) else None
            decoder = nn.Sequential(TransitionUp(dim, coarser), Block(dim))
            self.add_module(f"enc{number}", encoder)
            self.add_module(f"dec{number}", decoder)
            finer = dim

    def encoders(self):
        """The encoder of each level, finest first: a transition, then blocks."""
        return [getattr(self, f"enc{i + 1}") for i in range(self.num_levels)]

    def decoders(self):
        """The decoder of each level, finest first: a transition, then one block."""
        return [getattr(self, f"dec{i + 1}") for i in range(self.num_levels)]

    def input_proj(self, columns, start=0):
        """The input layer's linear part, of one group of columns.

        Args:
            columns: (batch, num_points, width).
            start: place of the first of them among all input columns.
        Returns:
            (batch, num_points, planes[0]). Groups are summed (docs/exact-short-rows.md, eq. 1).
        """
        stop = start + columns.shape[-1]
        return F.linear(columns, self.encoders()[0][0].linear.weight[:, start:stop])

    def geometry(self, xyz):
        """Everything that depends only on where the points are, of all levels.

        Args:
            xyz: (batch, num_points, 3), metres.
        Returns:
            tuple of `Level`, finest first. Each has a quarter of the points of the finer one, but
            at least one.
        """
        levels: list[Level] = []
        for encoder, decoder, k in zip(self.encoders(), self.decoders(), NEIGHBOURS, strict=False):
            group = group_offset = up = up_weights = None
            if levels:
                finer, n = xyz, points_of_level(xyz.shape[1], 1)
                xyz = gather_points(finer, farthest_points(finer, n))
                group, group_offset = _neighbours(finer, xyz, k)
                index, distance = nearest_neighbours(xyz, finer, NUM_NEIGHBOURS)
                up, up_weights = _in_batch(index, n), interpolation_weights(distance)
            neighbours, offset = _neighbours(xyz, xyz, k)
            layers = [block.transformer2 for block in (*encoder[1:], *decoder[1:])]
            positions = tuple(layer.position(offset) for layer in layers)
            levels.append(Level(neighbours, positions, group, group_offset, up, up_weights))
        return tuple(levels)

    def encode(self, input_proj, levels, naive=False):
        """Features of every level, as the decoder takes them.

        Args:
            input_proj: (batch, num_points, planes[0]), the input layer's linear part.
            levels: as from `geometry`.
            naive: run the transitions in their naive form.
        Returns:
            list of (batch, n, planes[i]), finest first.
        """
        features, x = [], None
        for encoder, level in zip(self.encoders(), levels, strict=True):
            if x is None:
                x = encoder[0](input_proj)
            else:
                x = encoder[0].naive_forward(x, level) if naive else encoder[0](x, level)
            for block, position in zip(encoder[1:], level.positions, strict=False):
                x = block(x, level.neighbours, position)
            features.append(x)
        return features

    def decode(self, features, levels):
        """From the features of all levels, coarsest first, to those of every point.

        Args:
            features: as `encode` returns them.
            levels: as from `geometry`.
        Returns:
            (batch, num_points, planes[0])
        """
        x = coarser = None
        for decoder, own, level in reversed(
            list(zip(self.decoders(), features, levels, strict=True))
        ):
            x = decoder[0](own, x, coarser)
            x = decoder[1](x, level.neighbours, level.positions[-1])
            coarser = level
        return x


def points_of_level(num_points, steps):
    """Points that are left of so many, so many levels further down: one at least."""
    return max(1, num_points // STRIDE**steps)


def read_unet(shapes, prefix=""):
    """Read the sizes of a U-Net off the shapes of its parameters.

    Args:
        shapes: shape of each parameter, by name.
        prefix: of the U-Net's names.
    Returns:
        in_dim, planes and blocks, as `PointTransformerUNet` takes them.
    Raises:
        KeyError: there is no input layer below the prefix.
    """
    planes: list[int] = []
    blocks: list[int] = []
    in_dim = shapes[f"{prefix}enc1.0.linear.weight"][1]
    while (name := f"{prefix}enc{len(planes) + 1}.") + "0.linear.weight" in shapes:
        planes.append(shapes[name + "0.linear.weight"][0])
        layers = {key[len(name) :].split(".")[0] for key in shapes if key.startswith(name)}
        blocks.append(len(layers))
    return in_dim, planes, blocks


def folded(module, dtype=None):
    """A faster copy of a module, for inference; its results differ only by rounding.

    Batch norms are multiplied into the linear layers before them (docs/exact-short-rows.md, eq.
    23), and attention runs in this project's kernels where there are any.

    Args:
        module: a module that contains layers of this file.
        dtype: of the matrix products of its transitions and blocks; None keeps theirs.
    """
    # Batch norms into linear layers, and attention by kernels.
    module = copy.deepcopy(module)
    layers = [layer for layer in module.modules() if isinstance(layer, LAYERS)]
    for part in [inner for layer in layers for inner in layer.modules()]:
        pairs = getattr(part, "folds", ())
        if isinstance(part, nn.Sequential):
            pairs = [(str(i), str(i + 1)) for i in range(len(part) - 1)]
        for first, second in pairs:
            linear, norm = part.get_submodule(first), part.get_submodule(second)
            if isinstance(linear, nn.Linear) and isinstance(norm, BatchNorm):
                weight, bias = map(nn.Parameter, fold(linear, norm))
                linear.weight, linear.bias = weight, bias
                setattr(part, second, nn.Identity())
        if isinstance(part, VectorAttention):
            part.attend = vector_attention
    # Matrix products in dtype. Position encodings keep theirs.
    if dtype is None:
        return module
    for name, part in [named for layer in layers for named in layer.named_modules()]:
        if isinstance(part, nn.Linear) and "linear_p" not in name:
            part.to(dtype)
    return module


def fold(linear, norm):
    """Weight and bias of a linear layer with the batch norm after it multiplied in (eq. 23)."""
    scale, shift = norm.affine_map()
    bias = shift if linear.bias is None else shift + scale * linear.bias
    return scale[:, None] * linear.weight, bias


def _neighbours(xyz, centres, k):
    """Indices, in the whole batch, of the k points nearest to each centre; offsets from it."""
    index = _in_batch(nearest_neighbours(xyz, centres, k)[0], xyz.shape[1])
    return index, F.embedding(index, xyz.flatten(0, 1)) - centres[:, :, None]


def _in_batch(index, num_points):
    """Indices that count the points of the whole batch, for indices into each cloud."""
    start = torch.arange(len(index), device=index.device) * num_points
    return index + start[:, None, None]
