"""Contact backbones by name. The names are those of configurations and of afford-motion (no torch).

A backbone is a file in this folder with a class of its name, and a line in `BACKBONES`. It is
imported when it is first needed, because that imports torch. It may import `cdm.kernels` and, of
`cdm.model`, what a network is made of: architecture, mamba, point_order, point_transformer.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdm.model.backbones.base import Backbone

BACKBONES = {
    "PointMamba": "cdm.model.backbones.point_mamba",
    "HybridMamba": "cdm.model.backbones.hybrid_mamba",
    "Perceiver": "cdm.model.backbones.perceiver",
    "MLP": "cdm.model.backbones.mlp",
    "PointTrans": "cdm.model.backbones.point_trans",
    "PointTransV2": "cdm.model.backbones.point_trans_v2",
}


def load_backbone(arch: str) -> "type[Backbone]":
    """The subclass of `cdm.model.backbones.base.Backbone` that has this name; imports torch."""
    return getattr(import_module(BACKBONES[arch]), arch)
