"""The sampling loop on a CUDA device: one step captured as a CUDA graph, replayed for all.

The graph works in place: on the noisy maps, on the conditions of the batch, and on a position in
the table of updates, which it moves on by itself. So a batch is sampled by filling these in and
replaying the graph, with no work for Python between the steps and no wait for the device.
"""

import torch

from cdm.kernels import nvrtc
from cdm.kernels.cuda_graph import capture
from cdm.kernels.sampling_step.gpu import sampling_step
from cdm.model.point_order import gather_points
from cdm.sampling.samplers import Update

AHEAD = 16  # steps the host may be ahead of the device: keeps it busy, and progress true


def unavailable(device) -> str | None:
    """Why a device cannot run this loop, or None if it can."""
    device = torch.device(device)
    return "it is no CUDA device" if device.type != "cuda" else nvrtc.unavailable(device.index or 0)


class CudaSampler:
    """Samples batches of one shape; the numbers of `cdm.sampling.samplers`, rounded.

    Args:
        model: `cdm.model.cdm.CDM` on a CUDA device.
        updates: of `cdm.sampling.samplers`.
        start: step number of the noise the chain starts from.
    """

    def __init__(self, model, updates, start: int):
        device = model.contact_layer.weight.device
        self.model = model
        self.steps = [update.t for update in updates]
        # Row 0 is the start, x = noise(start).
        rows = [Update(start, 0.0, 0.0, 1.0), *updates]
        self._noise_steps = torch.tensor([row[0] for row in rows], device=device)
        self._table = torch.tensor([row[1:] for row in rows], dtype=torch.float32, device=device)
        self._model_steps = self._noise_steps.clone()
        self._model_steps[0] = 0  # the start asks no model, and `start` may have no row there
        self._position = torch.zeros(1, dtype=torch.int64, device=device)
        self._looks_back = any(update.c for update in updates)

    def __call__(self, keys, c_text, c_pc_xyz, c_pc_feat=None, callback=None):
        """x_0 of a batch, points in their given order; shapes as they were captured.

        Args:
            keys: (batch, 2) int64 on the device, see `cdm.kernels.philox.device_keys`.
            c_text, c_pc_xyz, c_pc_feat: as `CDM.condition`.
            callback: callback(t, None, None) after each step that the device is about to do or
                has done, at most AHEAD steps early.
        Returns:
            (batch, num_points, contact_dim) float32, on the device; its values are there once
            the current stream has come so far.
        """
        self._denoise.rebind(c_text, c_pc_xyz, c_pc_feat)
        self._keys.copy_(keys)
        self._start()
        done = []
        for i, t in enumerate(self.steps):
            self._graph.replay()
            if i % AHEAD == AHEAD - 1:
                done.append(torch.cuda.Event())
                done[-1].record()
                if len(done) > 1:
                    done[-2].synchronize()  # the device still has AHEAD steps to do
            if callback is not None:
                callback(t, None, None)
        if self._denoise.inverse is None:
            return self._x.clone()
        return gather_points(self._x, self._denoise.inverse)

    def capture(self, keys, c_text, c_pc_xyz, c_pc_feat=None) -> None:
        """Capture the graph for inputs of these shapes; arguments as those of a call."""
        self._keys = keys.clone()
        # Copies, as later batches are written over what a backbone keeps of these.
        own = [None if c is None else c.clone() for c in (c_text, c_pc_xyz, c_pc_feat)]
        self._denoise = self.model.condition(*own)
        contact_dim = self.model.architecture.contact_dim
        self._x = c_pc_xyz.new_empty(*c_pc_xyz.shape[:2], contact_dim)
        self._previous = torch.empty_like(self._x) if self._looks_back else None
        self._start()
        self._graph, _ = capture(self._step)
        # What every batch allocates, once now: memory that does not suffice is found out here.
        self._denoise.rebind(c_text, c_pc_xyz, c_pc_feat)

    def _start(self):
        self._position.zero_()
        self._update(self._x)
        self._position.fill_(1)

    def _step(self):
        pred_xstart = self._denoise(self._x, self._model_steps[self._position])
        self._update(pred_xstart)
        self._position += 1

    def _update(self, pred_xstart):
        sampling_step(
            self._x, pred_xstart, self._previous, self._denoise.order, self._keys, self._table,
            self._noise_steps, self._position,
        )  # fmt: skip
