"""A model with the interface of `cdm.model.cdm.CDM` whose maps are known, to test sampling."""

from types import SimpleNamespace

import torch

CONTACT_DIM = 6


class ToyDenoiser:
    """pred_xstart of a point depends on its x, on the step, on its place and on the text."""

    def __init__(self, c_text, c_pc_xyz, order):
        self.order = order
        self.inverse = None if order is None else order.argsort(dim=1)
        if order is not None:
            c_pc_xyz = c_pc_xyz.gather(1, order[..., None].expand(c_pc_xyz.shape))
        self.offset = c_pc_xyz.sum(dim=-1, keepdim=True) + c_text[:, None, :1]

    def __call__(self, x, t):
        return (0.7 * x + 0.001 * t + 0.1 * self.offset).clip(-1, 1)


class ToyModel:
    """Args:
    reorder: the denoiser's points are in another order than the caller's.
    fits: batches of more maps than this do not fit into memory.
    """

    precision, scene_model = "fp32", None
    contact_model = SimpleNamespace(scans=True)

    def __init__(self, reorder=False, fits=1000, point_feat_dim=0):
        self.reorder, self.fits, self.sizes = reorder, fits, []
        self.architecture = SimpleNamespace(
            arch="Toy", contact_dim=CONTACT_DIM, point_feat_dim=point_feat_dim
        )

    def check(self, c_pc_feat):
        if c_pc_feat.shape[1] != self.architecture.point_feat_dim:
            raise ValueError(f"{c_pc_feat.shape[1]} point features")

    def condition(self, c_text, c_pc_xyz, c_pc_feat=None):
        self.sizes.append(len(c_pc_xyz))
        if len(c_pc_xyz) > self.fits:
            raise torch.OutOfMemoryError("out of memory (made up)")
        order = c_pc_xyz[..., 0].argsort(dim=1) if self.reorder else None
        return ToyDenoiser(c_text, c_pc_xyz, order)
