"""The contact diffusion model: conditions and a noisy contact map in, the clean map out.

It is that of "Move as You Say, Interact as You Can" (Wang et al., CVPR 2024), and takes the
checkpoints of afford-motion's `models/cdm.py`.
"""

import torch
from torch import nn

from cdm.model.backbones import load_backbone
from cdm.model.backbones.base import autocast
from cdm.model.denoiser import DTYPES, Denoiser
from cdm.model.point_features import columns_taken
from cdm.model.point_order import gather_points

NUM_TIME_ROWS = 1000  # rows of the time table, one for each original diffusion step


def resolve_precision(precision: str, device: str) -> str:
    """The precision to use: "auto" is bf16 on GPUs and fp32 on CPUs. Others stay as they are."""
    if precision != "auto":
        return precision
    return "fp32" if device == "cpu" else "bf16"


def if_not_finite(precision: str) -> str:
    """What to try when a model gives maps that are not finite."""
    if precision == "fp16":
        return (
            "numbers beyond 65504 do not fit into fp16: set sampling.precision to bf16 or fp32; if "
            "these give NaN too, look at its points and at the checkpoint"
        )
    return "look at its points and at the checkpoint"


class TimestepEmbedder(nn.Module):
    """Embeds a timestep: a row of a sinusoidal table, then an MLP."""

    def __init__(self, time_emb_dim):
        super().__init__()
        position = torch.arange(NUM_TIME_ROWS, dtype=torch.float32)[:, None]
        columns = torch.arange(0, time_emb_dim, 2, dtype=torch.float32)
        angle = position * torch.exp(columns * (-torch.log(torch.tensor(1e4)) / time_emb_dim))
        pe = torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)  # (rows, time_emb_dim)
        self.pe: torch.Tensor
        self.register_buffer("pe", pe[:, None, :time_emb_dim].clone())
        self.time_embed = nn.Sequential(
            nn.Linear(time_emb_dim, time_emb_dim),
            nn.SiLU(),
            nn.Linear(time_emb_dim, time_emb_dim),
        )

    def forward(self, timesteps=slice(None)):
        """Embed original step numbers.

        Args:
            timesteps: (rows,) int64; all steps by default.
        Returns:
            (rows, time_emb_dim).
        """
        return self.time_embed(self.pe[timesteps, 0])


class CDM(nn.Module):
    """The contact diffusion model.

    A backbone turns the noisy map and the conditions into features of every point, and
    `contact_layer` turns these into the map. Sampling goes through `condition`, which binds the
    conditions of a batch once for all steps.

    Args:
        architecture: `cdm.model.architecture.Architecture`.
        precision: "fp32", or "fp16" or "bf16" to have the backbone's matrix products in float16 or
            bfloat16.
        scan_backend: a backend of `cdm.kernels.selective_scan`. "auto" also allows fused kernels
            for the whole backbone.

    Attributes:
        scene_model: the frozen `cdm.model.scene_model.PointTransformerSeg` that computes point
            features from positions and colours; None if the dataset gives them.
    Raises:
        ValueError: an unknown precision.
    """

    def __init__(self, architecture, precision="fp32", scan_backend="auto"):
        super().__init__()
        if precision not in DTYPES:
            raise ValueError(f"precision is {precision!r}, expected one of {', '.join(DTYPES)}")
        self.architecture = architecture
        self.precision = precision
        self.scan_backend = scan_backend
        self.timestep_embedder = TimestepEmbedder(architecture.time_emb_dim)
        self.contact_model = load_backbone(architecture.arch)(architecture, scan_backend)
        self.contact_layer = nn.Linear(architecture.last_dim, architecture.contact_dim)
        self.scene_model = None

    def forward(self, x, timesteps, c_text, c_pc_xyz, c_pc_feat=None):
        """Predict x_start, with all points in their given order.

        With gradients enabled this is `training_forward`, else a single step of `condition`.

        Args:
            x: (batch, num_points, contact_dim), the noisy contact map x_t.
            timesteps: (batch,) int64, original step numbers.
            c_text, c_pc_xyz, c_pc_feat: as in `condition`.
        Returns:
            pred_xstart, shape of x.
        """
        if torch.is_grad_enabled():
            return self.training_forward(x, timesteps, c_text, c_pc_xyz, c_pc_feat)
        denoise = self.condition(c_text, c_pc_xyz, c_pc_feat)
        if denoise.order is None:
            return denoise(x, timesteps)
        pred_xstart = denoise(gather_points(x, denoise.order), timesteps)
        return gather_points(pred_xstart, denoise.inverse)

    def naive_forward(self, x, timesteps, c_text, c_pc_xyz, c_pc_feat=None):
        """`forward` by the backbone's `naive_forward`, which the fast forms are tested against."""
        form = self.contact_model.naive_forward
        return self._one_step(form, x, timesteps, c_text, c_pc_xyz, c_pc_feat)

    def training_forward(self, x, timesteps, c_text, c_pc_xyz, c_pc_feat=None):
        """`forward` by the backbone's `training_forward`, which has gradients."""
        form = self.contact_model.training_forward
        return self._one_step(form, x, timesteps, c_text, c_pc_xyz, c_pc_feat)

    def _one_step(self, form, x, timesteps, c_text, c_pc_xyz, c_pc_feat):
        """One step on its own, with the backbone in one of its forms."""
        c_text = c_text.flatten(1)
        c_pc_feat = self.point_feat(c_text, c_pc_xyz, self.check(c_pc_feat))
        time_emb = self.timestep_embedder(timesteps)
        with autocast(x.device.type, DTYPES[self.precision]):
            out = form(x, time_emb, c_text, c_pc_xyz, c_pc_feat)
        return self.contact_layer(out.to(x.dtype))

    def condition(self, c_text, c_pc_xyz, c_pc_feat=None):
        """Bind the conditions of a batch, and compute once what stays the same over the steps.

        Args:
            c_text: (batch, text_feat_dim) or (batch, 1, text_feat_dim).
            c_pc_xyz: (batch, num_points, 3), metres.
            c_pc_feat: (batch, num_points, point_feat_dim); ignored if the model sees no point
                features. A model that sees one column also takes features as wide as the text,
                and computes their dot product with it. For a scene model: its colours, or None.
        Returns:
            a `Denoiser`.
        Raises:
            ValueError: the features have a width that the model cannot take.
        """
        return Denoiser(self, c_text, c_pc_xyz, c_pc_feat)

    def check(self, c_pc_feat):
        """The point features that the model takes, None if it takes none.

        Raises:
            ValueError: they have a width that the model cannot take.
        """
        color_dim = None if self.scene_model is None else self.scene_model.color_dim
        taken = columns_taken(self.architecture, color_dim)
        taken.check(None if c_pc_feat is None else c_pc_feat.shape[-1])
        return c_pc_feat if taken.dim else None

    def point_feat(self, c_text, c_pc_xyz, c_pc_feat):
        """The point features that the backbone sees, (batch, num_points, point_feat_dim) or None.

        Args:
            c_text: (batch, text_feat_dim).
            c_pc_xyz, c_pc_feat: as in `condition`, after `check`.
        """
        if self.scene_model is not None:
            return self.scene_model(c_pc_xyz, c_pc_feat)
        if c_pc_feat is None or c_pc_feat.shape[-1] == self.architecture.point_feat_dim:
            return c_pc_feat
        return c_pc_feat @ c_text[:, :, None]  # (batch, num_points, 1)
