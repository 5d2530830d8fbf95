"""The frozen scene model: features of every point, of its surroundings and colours."""

from pathlib import Path

import torch

from cdm.model.point_transformer import PointTransformerUNet, folded
from cdm.model.state_dict import SCENE_WEIGHTS, load_state_dict

PLANES, BLOCKS = (32, 64, 128, 256, 512), (2, 3, 4, 6, 3)


class PointTransformerSeg(PointTransformerUNet):
    """A Point Transformer trained for semantic segmentation, without its classifier.

    Args:
        in_dim: 6 for points and colours, 3 for points alone.
    """

    def __init__(self, in_dim):
        super().__init__(in_dim, PLANES, BLOCKS)
        self.color_dim = in_dim - 3

    @torch.no_grad()
    def forward(self, c_pc_xyz, color=None):
        """Scene features.

        Args:
            c_pc_xyz: (batch, num_points, 3), metres.
            color: (batch, num_points, 3), in [0, 1]; ignored by a model of points alone.
        Returns:
            (batch, num_points, 32).
        """
        first = self.first(c_pc_xyz, 0)
        if self.color_dim:
            first = first + self.first(color, 3)
        levels = self.geometry(c_pc_xyz)
        return self.decode(self.encode(first, levels), levels)


def load_scene_model(path: Path, sha256: str) -> PointTransformerSeg:
    """The scene model of a weights file, frozen, on the CPU.

    Args:
        path: a file that `cdm.model.checkpoint.inspect_scene_model` accepted.
        sha256: what the plan saw.
    Raises:
        CheckpointError: the file changed since it was planned.
    """
    state = load_state_dict(path, sha256, SCENE_WEIGHTS)
    model = PointTransformerSeg(state["enc1.0.linear.weight"].shape[1])
    model.load_state_dict(state, strict=True)
    return folded(model).eval().requires_grad_(False)
