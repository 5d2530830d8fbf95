"""The sampling loop on a CUDA device: one step is captured as a CUDA graph and replayed for all.

`cdm.sampling.runners.Captured` calls this; the table of updates comes from
`cdm.sampling.samplers`. The graph works in place on three things: the noisy maps, the conditions
of the batch, and a position in the table, which the graph itself moves on. A batch is sampled by
filling these in and replaying the graph. Between the steps Python has nothing to compute and
nothing to wait for.
"""

import torch

from cdm.kernels import nvrtc
from cdm.kernels.cuda_graph import capture
from cdm.kernels.sampling_step import sampling_step
from cdm.model.point_order import gather_points
from cdm.sampling.samplers import Update

# The host submits this many steps, then waits until the device has done the ones submitted before,
# also where these were of the batch before.
# A smaller number could leave the device without work; a larger one makes the reported progress
# run further ahead of the device.
AHEAD = 16


def unavailable(device) -> str | None:
    """Why a device cannot run this loop, or None if it can."""
    device = torch.device(device)
    if device.type != "cuda":
        return "it is no CUDA device"
    return nvrtc.unavailable(nvrtc.device_index(device))


class CudaSampler:
    """Samples batches of one shape; gives the numbers of `sample_loop`, up to rounding.

    Args:
        model: `cdm.model.cdm.CDM` on a CUDA device.
        updates: of a sampler, see `cdm.sampling.samplers`.
        start: step number of the noise that the chain starts from.
    """

    def __init__(self, model, updates, start: int):
        self.device = device = model.contact_layer.weight.device
        self.model = model
        self.steps = [update.t for update in updates]
        # Row 0 of the table is the start of the chain: x <- noise(start).
        begin = Update(start, x0_coef=0.0, x_coef=0.0, noise_coef=1.0)
        rows = [begin, *updates]
        self._noise_steps = torch.tensor([row.t for row in rows], device=device)
        self._table = torch.tensor([row[1:] for row in rows], dtype=torch.float32, device=device)
        # Row 0 does not call the model, and the model's time table may have no row `start`.
        self._model_steps = self._noise_steps.clone()
        self._model_steps[0] = 0
        self._position = torch.zeros(1, dtype=torch.int64, device=device)
        self._second_order = any(update.prev_x0_coef for update in updates)
        self._submitted = 0  # steps
        self._mark: torch.cuda.Event | None = (
            None  # reached after the last AHEAD steps that are whole
        )

    def __call__(self, keys, c_text, c_pc_xyz, c_pc_feat=None, callback=None):
        """Sample a batch; its shapes must be those of `capture`.

        Args:
            keys: (batch, 2) int64 on the device, see `cdm.kernels.philox.device_keys`.
            c_text, c_pc_xyz, c_pc_feat: as `CDM.condition`.
            callback: callback(t, None, None) is called once per step, at most 2 AHEAD steps before
                the device has done it.
        Returns:
            x_0, (batch, num_points, contact_dim) float32 on the device, in the order of the
            points of c_pc_xyz. The values are complete once the current stream has reached this
            point.
        """
        with torch.cuda.device(self.device):
            self._denoise.rebind(c_text, c_pc_xyz, c_pc_feat)
            self._keys.copy_(keys)
            self._start()
            self._replay(callback)
            if self._denoise.inverse is None:
                return self._x.clone()
            return gather_points(self._x, self._denoise.inverse)

    def capture(self, keys, c_text, c_pc_xyz, c_pc_feat=None) -> None:
        """Capture the graph for inputs of these shapes; arguments as those of a call."""
        with torch.cuda.device(self.device):
            self._keys = keys.clone()
            # Copy the conditions: later batches overwrite what a backbone keeps of them.
            copies = [None if c is None else c.clone() for c in (c_text, c_pc_xyz, c_pc_feat)]
            self._denoise = self.model.condition(*copies)
            contact_dim = self.model.architecture.contact_dim
            self._x = c_pc_xyz.new_empty(*c_pc_xyz.shape[:2], contact_dim)
            self._previous = torch.empty_like(self._x) if self._second_order else None
            self._start()
            self._graph, _ = capture(self._step, self.device)
            # Run once what every later batch allocates, so that running out of memory shows now
            # and not in the middle of a chunk.
            self._denoise.rebind(c_text, c_pc_xyz, c_pc_feat)

    def _start(self):
        """Fill x with the noise that the chain starts from."""
        self._position.zero_()
        self._update(self._x)
        self._position.fill_(1)

    def _replay(self, callback):
        """Replay the graph once per step, staying at most 2 AHEAD steps ahead of the device."""
        for t in self.steps:
            self._graph.replay()
            self._submitted += 1
            if self._submitted % AHEAD == 0:
                before, self._mark = self._mark, torch.cuda.Event()
                self._mark.record()
                if before is not None:
                    before.synchronize()  # the device still has AHEAD steps to do
            if callback is not None:
                callback(t, None, None)

    def _step(self):
        """One step of the chain, which the graph records."""
        pred_xstart = self._denoise(self._x, self._model_steps[self._position])
        self._update(pred_xstart)
        self._position += 1

    def _update(self, pred_xstart):
        sampling_step(
            self._x, pred_xstart, self._previous, self._denoise.order, self._keys, self._table,
            self._noise_steps, self._position, backend="cuda",
        )  # fmt: skip
