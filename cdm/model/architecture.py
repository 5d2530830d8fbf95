"""The sizes of a contact diffusion model, and how they are read off a checkpoint (no torch)."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cdm.config import ModelConfig
from cdm.errors import CheckpointError

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Architecture:
    """Everything that is needed to build a CDM.

    `cdm.model.checkpoint` reads it off the shapes of a checkpoint's tensors.

    Attributes:
        arch: backbone name, such as "PointMamba".
        contact_dim: joints per point, J.
        time_emb_dim: width of the time embedding.
        text_feat_dim: width of the frozen text feature.
        point_feat_dim: columns of point features that the backbone sees, 0 for none.
        last_dim: width of the backbone's output, which is the contact layer's input.
        sizes: the backbone's own sizes, JSON values. For PointMamba: trans_dim (d_model), depth,
            hidden_dim (of the embedding), d_state, d_conv, d_inner and dt_rank.
    """

    arch: str
    contact_dim: int
    time_emb_dim: int
    text_feat_dim: int
    point_feat_dim: int
    last_dim: int
    sizes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckpointShapes:
    """The shapes of a checkpoint, and all else that a backbone needs to read its sizes.

    Attributes:
        shapes: shape of every tensor, by its key.
        contact_dim, time_emb_dim: as in `Architecture`.
        point_feat_dim: columns of point features that the configuration asks for, 0 for none,
            None if it leaves their number to the weights.
        model: section `model` of the configuration, for sizes that weights do not show.
    """

    shapes: Shapes
    contact_dim: int
    time_emb_dim: int
    point_feat_dim: int | None
    model: ModelConfig

    def dim(self, key: str, axis: int) -> int:
        """One size of a tensor of the backbone.

        Args:
            key: without `contact_model.`, which is put before it.
            axis: which size.
        Raises:
            KeyError, CheckpointError: as `read_dim`.
        """
        return read_dim(self.shapes, f"contact_model.{key}", axis)

    def has(self, prefix: str) -> bool:
        """Whether a key of the backbone begins with `prefix`."""
        return any(key.startswith(f"contact_model.{prefix}") for key in self.shapes)

    def count(self, prefix: str) -> int:
        """How many parts the backbone has below `prefix`; below "layers." the number of layers."""
        prefix = f"contact_model.{prefix}"
        return len({k[len(prefix) :].split(".")[0] for k in self.shapes if k.startswith(prefix)})


class FeatureWidths(NamedTuple):
    """How many columns of text and of point features some weights take.

    Attributes:
        text, point_feat: the two widths; both None if the weights show only their sum.
        both: their sum.
        where: key of the weights, without `contact_model.`, for messages.
    """

    text: int | None
    point_feat: int | None
    both: int
    where: str


def read_dim(shapes: Shapes, key: str, axis: int) -> int:
    """One size of a tensor.

    Raises:
        KeyError: no such tensor.
        CheckpointError: it has too few axes.
    """
    shape = shapes[key]
    if axis >= len(shape):
        raise CheckpointError(f"{key} is {shape}, expected {axis + 1} axes or more")
    return shape[axis]
