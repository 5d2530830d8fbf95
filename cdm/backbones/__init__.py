"""Contact backbones by the name that configurations use."""

from cdm.backbones.point_mamba import PointMamba

BACKBONES = {"PointMamba": PointMamba}
