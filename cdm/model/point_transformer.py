"""The Point Transformer U-Net (Zhao et al. 2021), for inference.

Layers are those of the authors' semantic segmentation network, with its names of parameters.
Everything that geometry alone decides (which points are kept at each level, who is whose
neighbour, relative positions, interpolation weights) is prepared once for a batch of clouds.
Clouds of a batch have equal size, and tensors are (batch, num_points, channels).
"""

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from cdm.kernels.farthest_points import farthest_points
from cdm.kernels.interpolation import NUM_NEIGHBOURS, interpolate, interpolation_weights
from cdm.kernels.nearest_neighbours import nearest_neighbours
from cdm.kernels.neighbourhoods import Weights, grouped_max, naive, vector_attention
from cdm.model.point_order import gather_points

STRIDE = 4  # between levels
NEIGHBOURS = (8, 16, 16, 16, 16)  # of each level


class Level(NamedTuple):
    """Geometry of one level. Rows are those of the whole batch: cloud * points of a cloud + point.

    A level but the finest has its points grouped around by those of the finer level, and hands
    its features on to them by interpolation; the finest has None there.
    """

    neighbours: torch.Tensor  # (batch, n, k) int64, rows of this level
    positions: tuple[torch.Tensor, ...]  # (batch, n, k, 3), of each attention layer
    group: torch.Tensor | None  # (batch, n, k) int64, rows of the finer level
    group_offset: torch.Tensor | None  # (batch, n, k, 3) metres, from its centre
    up: torch.Tensor | None  # (batch, n of the finer level, 3) int64, rows of this level
    up_weights: torch.Tensor | None  # (batch, n of the finer level, 3)


class BatchNorm(nn.BatchNorm1d):
    """Batch norm over the last axis, always by the running statistics."""

    def forward(self, x):
        statistics = self.running_mean, self.running_var
        y = F.batch_norm(x.flatten(0, -2), *statistics, self.weight, self.bias, eps=self.eps)
        return y.view_as(x)

    def affine_map(self):
        """Scale and shift it amounts to, (channels,) each."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale


class FirstLayer(nn.Module):
    """What enters the finest level; callers apply its linear layer share by share."""

    def __init__(self, in_dim, out_dim):
        super().__init__()
        self.linear = nn.Linear(in_dim, out_dim, bias=False)
        self.bn = BatchNorm(out_dim)

    def forward(self, shares):
        return self.bn(shares).relu()


class TransitionDown(nn.Module):
    """From a level to the next coarser one: the largest feature of every group."""

    folds = (("linear", "bn"),)

    def __init__(self, in_dim, out_dim):
        super().__init__()
        self.linear = nn.Linear(3 + in_dim, out_dim, bias=False)
        self.bn = BatchNorm(out_dim)

    def forward(self, x, level):
        x = x.to(self.linear.weight.dtype)
        offset, feature = self.linear.weight.split([3, x.shape[-1]], dim=1)
        y = F.linear(x, feature, self.linear.bias)  # before grouping: a point is in many groups
        if isinstance(self.bn, nn.Identity):
            return grouped_max(y, level.group, level.group_offset, offset).relu()
        y = F.embedding(level.group, y.flatten(0, 1))  # (batch, n, k, out_dim)
        y = y + F.linear(level.group_offset, offset)
        return self.bn(y).amax(dim=2).relu()


class TransitionUp(nn.Module):
    """From a level to the next finer one; the coarsest adds the mean of its cloud instead."""

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
    """Attention of every point to its neighbours, with a weight for each channel."""

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
        """The hidden code of relative positions, (..., 3) metres to (..., 3)."""
        return self.linear_p[:3](offset)

    def weights(self):
        """Its `cdm.kernels.neighbourhoods.Weights`."""
        norm, _, linear, hidden_norm, _, last = self.linear_w
        position = self.linear_p[3]
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
        return self.attend(q, k, v, neighbours, position, self.weights())


class Block(nn.Module):
    """Residual block around an attention layer."""

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
    """Encoder and decoder; parameters lie in `enc1`, ... and `dec1`, ..., finest level first.

    Args:
        in_dim: columns of the first features.
        planes: channels of each level.
        blocks: layers of each level's encoder, the transition among them.
    """

    def __init__(self, in_dim, planes, blocks):
        super().__init__()
        self.num_levels = len(planes)
        finer = in_dim
        for number, (dim, num_blocks) in enumerate(zip(planes, blocks, strict=True), start=1):
            down = FirstLayer(finer, dim) if number == 1 else TransitionDown(finer, dim)
            encoder = nn.Sequential(down, *[Block(dim) for _ in range(num_blocks - 1)])
            coarser = planes[number] if number < len(planes) else None
            decoder = nn.Sequential(TransitionUp(dim, coarser), Block(dim))
            self.add_module(f"enc{number}", encoder)
            self.add_module(f"dec{number}", decoder)
            finer = dim

    def encoders(self):
        """One for each level, finest first: a transition and blocks."""
        return [getattr(self, f"enc{i + 1}") for i in range(self.num_levels)]

    def decoders(self):
        """Likewise."""
        return [getattr(self, f"dec{i + 1}") for i in range(self.num_levels)]

    def first(self, columns, start):
        """The share of some columns, from `start` on, in the first linear layer."""
        stop = start + columns.shape[-1]
        return F.linear(columns, self.encoders()[0][0].linear.weight[:, start:stop])

    def geometry(self, xyz):
        """What geometry alone decides, of all levels.

        Args:
            xyz: (batch, num_points, 3), metres.
        Returns:
            tuple of `Level`, finest first; each has a quarter of the points, or one.
        """
        levels = []
        for encoder, decoder, k in zip(self.encoders(), self.decoders(), NEIGHBOURS, strict=False):
            group = group_offset = up = up_weights = None
            if levels:
                finer, n = xyz, max(1, xyz.shape[1] // STRIDE)
                xyz = gather_points(finer, farthest_points(finer, n))
                group, group_offset = _neighbours(finer, xyz, k)
                index, distance = nearest_neighbours(xyz, finer, NUM_NEIGHBOURS)
                up, up_weights = _rows(index, n), interpolation_weights(distance)
            neighbours, offset = _neighbours(xyz, xyz, k)
            layers = [block.transformer2 for block in (*encoder[1:], *decoder[1:])]
            positions = tuple(layer.position(offset) for layer in layers)
            levels.append(Level(neighbours, positions, group, group_offset, up, up_weights))
        return tuple(levels)

    def encode(self, first, levels):
        """Features of every level.

        Args:
            first: (batch, num_points, planes[0]), what the first linear layer gives.
            levels: as from `geometry`.
        Returns:
            list of (batch, n, planes[i]), finest first.
        """
        features, x = [], None
        for encoder, level in zip(self.encoders(), levels, strict=True):
            x = encoder[0](first) if x is None else encoder[0](x, level)
            for block, position in zip(encoder[1:], level.positions, strict=False):
                x = block(x, level.neighbours, position)
            features.append(x)
        return features

    def decode(self, features, levels):
        """From `encode`'s features of all levels to (batch, num_points, planes[0])."""
        x = coarser = None
        for decoder, own, level in reversed(
            list(zip(self.decoders(), features, levels, strict=True))
        ):
            x = decoder[0](own, x, coarser)
            x = decoder[1](x, level.neighbours, level.positions[-1])
            coarser = level
        return x


def read_unet(shapes, prefix=""):
    """Levels of a U-Net, off the shapes of its parameters.

    Args:
        shapes: names and shapes.
        prefix: of its names.
    Returns:
        in_dim, planes and blocks, as `PointTransformerUNet` takes them.
    Raises:
        KeyError: there is no first layer of this name.
    """
    planes, blocks = [], []
    in_dim = shapes[f"{prefix}enc1.0.linear.weight"][1]
    while (name := f"{prefix}enc{len(planes) + 1}.") + "0.linear.weight" in shapes:
        planes.append(shapes[name + "0.linear.weight"][0])
        layers = {key[len(name) :].split(".")[0] for key in shapes if key.startswith(name)}
        blocks.append(len(layers))
    return in_dim, planes, blocks


def folded(module, dtype=None):
    """A copy for inference: batch norms are part of the linear layers before them, and
    neighbourhoods run in kernels of our own where there are any.

    Exact but for rounding, because batch norms go by their running statistics.

    Args:
        module: one with layers of this file in it.
        dtype: of the matrix products of its transitions and blocks; None: as it is.
    """
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
    if dtype is None:
        return module
    for name, part in [named for layer in layers for named in layer.named_modules()]:
        if isinstance(part, nn.Linear) and "linear_p" not in name:  # positions stay as they are
            part.to(dtype)
    return module


def fold(linear, norm):
    """Weight and bias of one linear layer for a linear layer and the batch norm behind it."""
    scale, shift = norm.affine_map()
    bias = shift if linear.bias is None else shift + scale * linear.bias
    return scale[:, None] * linear.weight, bias


def _neighbours(xyz, centres, k):
    """Rows of the k points nearest to each centre, and their offsets from it."""
    rows = _rows(nearest_neighbours(xyz, centres, k)[0], xyz.shape[1])
    return rows, F.embedding(rows, xyz.flatten(0, 1)) - centres[:, :, None]


def _rows(index, num_points):
    """Rows of the whole batch for indices into each cloud."""
    start = torch.arange(len(index), device=index.device) * num_points
    return index + start[:, None, None]
