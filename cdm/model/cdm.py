"""The contact diffusion model: conditions and a noisy contact map in, the clean map out.

After "Move as You Say, Interact as You Can" (Wang et al., CVPR 2024), `models/cdm.py`.
"""

import torch
from torch import nn

from cdm.kernels.threads import map_threads
from cdm.model.backbones import load_backbone
from cdm.model.backbones.base import map_tensors
from cdm.model.point_features import columns_taken
from cdm.model.point_order import gather_points

NUM_TIME_ROWS = 1000  # original diffusion steps the time table has rows for
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def resolve_precision(precision: str, device: str) -> str:
    """What "auto" means on a device: bf16 on GPUs, fp32 on CPUs; others stay as they are."""
    if precision != "auto":
        return precision
    return "fp32" if device == "cpu" else "bf16"


class TimestepEmbedder(nn.Module):
    """A row of the sinusoidal table for each step, then an MLP."""

    def __init__(self, time_emb_dim):
        super().__init__()
        position = torch.arange(NUM_TIME_ROWS, dtype=torch.float32)[:, None]
        columns = torch.arange(0, time_emb_dim, 2, dtype=torch.float32)
        angle = position * torch.exp(columns * (-torch.log(torch.tensor(1e4)) / time_emb_dim))
        pe = torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)  # (rows, time_emb_dim)
        self.register_buffer("pe", pe[:, None, :time_emb_dim].clone())
        self.time_embed = nn.Sequential(
            nn.Linear(time_emb_dim, time_emb_dim),
            nn.SiLU(),
            nn.Linear(time_emb_dim, time_emb_dim),
        )

    def forward(self, timesteps=slice(None)):
        """Original step numbers, (rows,) int64, to (rows, time_emb_dim); all rows by default."""
        return self.time_embed(self.pe[timesteps, 0])


class CDM(nn.Module):
    """Contact diffusion model, for inference.

    On the CPU every sample is computed on its own, on one thread: its map is the same bit for
    bit at any place in a batch and with any number of threads.

    Args:
        architecture: `cdm.model.architecture.Architecture`.
        precision: "fp32", or "bf16" for the backbone's matrix products in bfloat16.
        scan_backend: of `cdm.kernels.selective_scan`; "auto" also takes fused kernels for the
            whole backbone where there are any.

    Attributes:
        scene_model: a frozen `cdm.model.scene_model.PointTransformerSeg` that makes the point
            features of points and colours; None where they are given.
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
        """Predict x_start, all points in their given order; with gradients by `training_forward`.

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
        bf16 = self.precision == "bf16"
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            out = form(x, time_emb, c_text, c_pc_xyz, c_pc_feat)
        return self.contact_layer(out.to(x.dtype))

    def condition(self, c_text, c_pc_xyz, c_pc_feat=None):
        """Bind the conditions of a batch and compute all that stays the same over the steps.

        Args:
            c_text: (batch, text_feat_dim) or (batch, 1, text_feat_dim).
            c_pc_xyz: (batch, num_points, 3), metres.
            c_pc_feat: (batch, num_points, point_feat_dim); ignored when the model sees no point
                features. A model that sees one column takes the dot product of wider features
                with the text. With a scene model these are its inputs: colours, or None.
        Returns:
            `Denoiser`
        """
        return Denoiser(self, c_text, c_pc_xyz, c_pc_feat)

    def check(self, c_pc_feat):
        """The point features, None for a model that takes none; a ValueError if they do not fit."""
        color_dim = None if self.scene_model is None else self.scene_model.color_dim
        taken = columns_taken(self.architecture, color_dim)
        taken.check(None if c_pc_feat is None else c_pc_feat.shape[-1])
        return c_pc_feat if taken.dim else None

    def point_feat(self, c_text, c_pc_xyz, c_pc_feat):
        """The point features the backbone sees."""
        if self.scene_model is not None:
            return self.scene_model(c_pc_xyz, c_pc_feat)
        if c_pc_feat is None or c_pc_feat.shape[-1] == self.architecture.point_feat_dim:
            return c_pc_feat
        return c_pc_feat @ c_text[:, :, None]  # (batch, num_points, 1)


class Denoiser:
    """A model with its conditions bound: x_t and t in, pred_xstart out, in the state's order.

    Attributes:
        order, inverse: (batch, num_points) int64, the point at each place and the place of each
            point; None when the backbone keeps the order.
    """

    def __init__(self, cdm, c_text, c_pc_xyz, c_pc_feat=None):
        self._cdm = cdm
        self._alone = c_pc_xyz.device.type == "cpu" and not torch.is_grad_enabled()
        self._states = self._prepare(c_text, c_pc_xyz, c_pc_feat)
        [(self._time_proj, *self._head)] = self._map(self._tabulate, [None])
        self.order, self.inverse = self._joined("order"), self._joined("inverse")
        self._fused_output = self._fuse()

    @property
    def fused(self) -> bool:
        """Whether the backbone runs in fused kernels of our own."""
        return self._fused_output is not None

    def __call__(self, x_t, t):
        """Predict x_start.

        Args:
            x_t: (batch, num_points, contact_dim), in the state's order.
            t: original step number, one for all or (1,) or (batch,) int64.
        Returns:
            pred_xstart, shape and order of x_t.
        """
        batch = len(x_t)

        def rows(table):
            share = table[t] if torch.is_tensor(t) else table[t : t + 1]
            return share.expand(batch, *share.shape[1:])

        time_proj_t = map_tensors(rows, self._time_proj)
        pieces = self._pieces(x_t, batch), self._pieces(time_proj_t, batch), self._states
        outputs = self._map(self._denoise, *pieces)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def rebind(self, c_text, c_pc_xyz, c_pc_feat=None) -> None:
        """Take other conditions of the same shapes, in place.

        A CUDA graph that was captured with this denoiser then works on them.
        """
        states = self._prepare(c_text, c_pc_xyz, c_pc_feat)
        map_tensors(torch.Tensor.copy_, tuple(self._states), tuple(states))

    def _prepare(self, c_text, c_pc_xyz, c_pc_feat):
        """The backbone's states, one for each call of the model."""

        def prepare(c_text, c_pc_xyz, c_pc_feat=None):
            c_pc_feat = self._cdm.point_feat(c_text, c_pc_xyz, c_pc_feat)
            return self._cdm.contact_model.prepare(c_text, c_pc_xyz, c_pc_feat)

        columns = c_text.flatten(1), c_pc_xyz, self._cdm.check(c_pc_feat)
        batch = len(c_pc_xyz)
        return self._map(prepare, *[self._pieces(x, batch) for x in columns if x is not None])

    def _joined(self, name):
        parts = [getattr(state, name, None) for state in self._states]
        return parts[0] if len(parts) == 1 else None if parts[0] is None else torch.cat(parts)

    def _tabulate(self, _):
        """The time's share for every step, and the backbone's last layer with the contact layer."""
        backbone, contact = self._cdm.contact_model, self._cdm.contact_layer
        weight, bias = backbone.last_linear
        return (
            backbone.time_proj(self._cdm.timestep_embedder()),
            contact.weight @ weight,
            contact.weight @ bias + contact.bias,
        )

    def _fuse(self):
        if torch.is_grad_enabled() or self._cdm.scan_backend != "auto":
            return None
        return self._cdm.contact_model.compile_fused(DTYPES[self._cdm.precision])

    def _denoise(self, x_t, time_proj_t, state):
        if self._fused_output:
            return self._fused_output(x_t, time_proj_t, state, self._head)
        bf16 = self._cdm.precision == "bf16"
        with torch.autocast(x_t.device.type, torch.bfloat16, enabled=bf16):
            return self._cdm.contact_model.forward_head(x_t, time_proj_t, state, self._head)

    def _pieces(self, tree, batch):
        """One piece for each call of the model; copies, because alignment can change a sum."""
        if not self._alone:
            return [tree]
        return [map_tensors(lambda x, i=i: x[i : i + 1].clone(), tree) for i in range(batch)]

    def _map(self, function, *columns):
        if self._alone:
            return map_threads(torch.no_grad()(function), *columns)
        return list(map(function, *columns))
