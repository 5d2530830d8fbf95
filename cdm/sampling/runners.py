"""Two runners that sample one batch on one device: `Plain` calls the loop of
`cdm.sampling.samplers`, `Captured` replays the CUDA graph of `cdm.sampling.cuda_sampler`.

Both take the same inputs and give the same maps, up to rounding.
"""

from collections.abc import Callable

import torch

from cdm.kernels import philox
from cdm.model.cdm import CDM
from cdm.model.point_order import gather_points
from cdm.sampling.cuda_sampler import CudaSampler
from cdm.sampling.diffusion import GaussianDiffusion
from cdm.sampling.samplers import Update, sample_loop

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]


class Plain:
    """Runs the steps from Python: for CPUs, and for GPUs that cannot run the project's kernels.

    Args:
        model: on its device, in eval mode.
        diffusion: the chain.
        updates: of a sampler for that chain, see `cdm.sampling.samplers`.
    """

    def __init__(self, model: CDM, diffusion: GaussianDiffusion, updates: list[Update]):
        self.model, self.diffusion, self.updates = model, diffusion, updates

    def prepare(self, inputs: Inputs) -> None:
        """Do nothing: the plain loop needs no preparation."""

    def run(self, inputs: Inputs, callback: Callable) -> torch.Tensor:
        """Sample one batch.

        Args:
            inputs: keys (batch, 2) int64, then c_text, c_pc_xyz and c_pc_feat as
                `CDM.condition` takes them; all on the model's device.
            callback: called after each step, see `sample_loop`.
        Returns:
            x_0, (batch, num_points, contact_dim), in the order of the points of c_pc_xyz.
        """
        keys, c_text, c_pc_xyz, c_pc_feat = inputs
        denoise = self.model.condition(c_text, c_pc_xyz, c_pc_feat)
        shape = c_pc_xyz.shape[1], self.model.architecture.contact_dim

        def noise(step: int) -> torch.Tensor:
            values = philox.normal(keys, step, *shape, c_pc_xyz.device)
            return values if denoise.order is None else gather_points(values, denoise.order)

        start = self.diffusion.original_num_steps
        x_0 = sample_loop(self.updates, denoise, noise, start, callback)
        return x_0 if denoise.inverse is None else gather_points(x_0, denoise.inverse)

    def forget(self) -> None:
        """Do nothing: the plain loop holds no memory between batches."""


class Captured:
    """Replays a CUDA graph of one step, which is captured with the first batch.

    Arguments and methods are those of `Plain`. Every batch must have the shapes of the first one,
    until `forget` is called.
    """

    def __init__(self, model: CDM, diffusion: GaussianDiffusion, updates: list[Update]):
        self.model, self.diffusion, self.updates = model, diffusion, updates
        self._captured_sampler: CudaSampler | None = None

    def prepare(self, inputs: Inputs) -> None:
        """Capture the graph for batches of this shape, unless that has been done."""
        if self._captured_sampler is None:
            sampler = CudaSampler(self.model, self.updates, self.diffusion.original_num_steps)
            sampler.capture(*inputs)
            self._captured_sampler = sampler

    def run(self, inputs: Inputs, callback: Callable) -> torch.Tensor:
        """Sample one batch; returns before the device has computed it. See `Plain.run`."""
        self.prepare(inputs)
        assert self._captured_sampler is not None
        return self._captured_sampler(*inputs, callback=callback)

    def forget(self) -> None:
        """Release the graph and its memory, so that a batch of another shape can be captured."""
        self._captured_sampler = None
