"""The sizes of a contact diffusion model, and what a checkpoint tells of them (no torch)."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cdm.config import ModelConfig
from cdm.errors import CheckpointError

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Architecture:
    """Everything needed to build a CDM; `cdm.model.checkpoint` reads it off a checkpoint's shapes.

    Attributes:
        arch: backbone name, such as "PointMamba".
        contact_dim: joints per point, J.
        time_emb_dim: width of the time embedding.
        text_feat_dim: width of the frozen text feature.
        point_feat_dim: columns of point features the backbone sees, 0 for none.
        last_dim: width of the backbone's output, input of the contact layer.
        sizes: the backbone's own sizes, JSON values; for PointMamba trans_dim (d_model), depth,
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
    """What is known of a checkpoint when its backbone is asked for sizes.

    Attributes:
        shapes: of every tensor, by its key.
        contact_dim, time_emb_dim: as in `Architecture`.
        point_feat_dim: columns of point features by the configuration, 0 for none, None where it
            leaves that to the weights.
        model: section `model` of the configuration, for what weights cannot tell.
    """

    shapes: Shapes
    contact_dim: int
    time_emb_dim: int
    point_feat_dim: int | None
    model: ModelConfig

    def dim(self, key: str, axis: int) -> int:
        """One size of a tensor of the backbone; the key is taken below `contact_model.`."""
        return read_dim(self.shapes, f"contact_model.{key}", axis)

    def has(self, prefix: str) -> bool:
        """Whether a key of the backbone begins so."""
        return any(key.startswith(f"contact_model.{prefix}") for key in self.shapes)

    def count(self, prefix: str) -> int:
        """How many parts the backbone has below `prefix`, such as layers below "layers."."""
        prefix = f"contact_model.{prefix}"
        return len({k[len(prefix) :].split(".")[0] for k in self.shapes if k.startswith(prefix)})


class FeatureWidths(NamedTuple):
    """Widths of text and point features that weights show; both None if they show only the sum.

    Attributes:
        where: the key whose columns they are, below `contact_model.`.
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
