"""A contact diffusion model with its conditions bound, as the sampling loop calls it."""

import torch

from cdm.kernels.threads import map_threads
from cdm.model.backbones.base import autocast, map_tensors

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class WholeBatch:
    """Calls a function once for a whole batch: the way of GPUs, and of gradients."""

    def split(self, tree, batch):
        """The parts that each call works on: one, the whole tree of tensors."""
        return [tree]

    def map(self, function, *columns):
        """function(*parts) for the parts that stand in the same place of the columns."""
        return list(map(function, *columns))

    def once(self, function):
        """function(), for what is the same for all samples."""
        return function()

    def join(self, parts):
        """One tensor of the parts' results, or None if they are None."""
        [whole] = parts
        return whole


class PerSample:
    """Calls a function for each sample by itself, on one thread each: the way of CPUs.

    A sample's result is then the same bit for bit at any place in a batch and with any number of
    threads. There are no gradients.
    """

    def split(self, tree, batch):
        """The tree's tensors as `batch` trees of one sample each.

        Each is copied: vectorised sums may differ with memory alignment, and a map must not depend
        on its place in the batch.
        """
        return [map_tensors(lambda x, i=i: x[i : i + 1].clone(), tree) for i in range(batch)]

    def map(self, function, *columns):
        """function(*parts) for the parts that stand in the same place of the columns."""
        return map_threads(torch.no_grad()(function), *columns)

    def once(self, function):
        """function(), on one thread like the others, for what is the same for all samples."""
        [result] = self.map(lambda _: function(), [None])
        return result

    def join(self, parts):
        """One tensor of the parts' results, or None if they are None."""
        if len(parts) == 1 or parts[0] is None:
            return parts[0]
        return torch.cat(parts)


class Denoiser:
    """A model with its conditions bound: x_t and t in, pred_xstart out, in the state's order.

    Attributes:
        order, inverse: (batch, num_points) int64, the point at each place and the place of each
            point; None when the backbone keeps the order.
    """

    def __init__(self, cdm, c_text, c_pc_xyz, c_pc_feat=None):
        self._cdm = cdm
        on_cpu = c_pc_xyz.device.type == "cpu"
        self._calls = PerSample() if on_cpu and not torch.is_grad_enabled() else WholeBatch()

        # What stays the same over the steps: for each sample, and for all of them.
        self._states = self._prepare(c_text, c_pc_xyz, c_pc_feat)
        self._time_proj, self._head = self._calls.once(self._tables)
        self.order, self.inverse = (
            self._calls.join([getattr(state, name, None) for state in self._states])
            for name in ("order", "inverse")
        )

        if cdm.precision == "fp16":  # also where cuBLAS adds up parts of a sum: never in half
            torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
        # The backbone in fused kernels, where there are any and no gradients are wanted.
        self._fused = None
        if cdm.scan_backend == "auto" and not torch.is_grad_enabled():
            self._fused = cdm.contact_model.compile_fused(DTYPES[cdm.precision])

    @property
    def fused(self) -> bool:
        """Whether the backbone runs in fused kernels."""
        return self._fused is not None

    def __call__(self, x_t, t):
        """Predict x_start.

        Args:
            x_t: (batch, num_points, contact_dim), in the state's order.
            t: original step number, one for all or (1,) or (batch,) int64.
        Returns:
            pred_xstart, shape and order of x_t.
        """
        batch = len(x_t)

        def row_for_each(table):
            row = table[t] if torch.is_tensor(t) else table[t : t + 1]
            return row.expand(batch, *row.shape[1:])

        time_proj_t = map_tensors(row_for_each, self._time_proj)
        parts = (self._calls.split(tree, batch) for tree in (x_t, time_proj_t))
        return self._calls.join(self._calls.map(self._denoise, *parts, self._states))

    def rebind(self, c_text, c_pc_xyz, c_pc_feat=None) -> None:
        """Take other conditions of the same shapes, in place.

        A CUDA graph that was captured with this denoiser then works on them.
        """
        states = self._prepare(c_text, c_pc_xyz, c_pc_feat)
        map_tensors(torch.Tensor.copy_, tuple(self._states), tuple(states))

    def _prepare(self, c_text, c_pc_xyz, c_pc_feat):
        """The backbone's states, one for each call of it."""

        def prepare(c_text, c_pc_xyz, c_pc_feat=None):
            c_pc_feat = self._cdm.point_feat(c_text, c_pc_xyz, c_pc_feat)
            return self._cdm.contact_model.prepare(c_text, c_pc_xyz, c_pc_feat)

        conditions = c_text.flatten(1), c_pc_xyz, self._cdm.check(c_pc_feat)
        given = [x for x in conditions if x is not None]
        return self._calls.map(prepare, *(self._calls.split(x, len(c_pc_xyz)) for x in given))

    def _tables(self):
        """The backbone's time projection for every timestep, and its head.

        The head is the product of the backbone's last linear layer and the contact layer.
        """
        backbone, contact = self._cdm.contact_model, self._cdm.contact_layer
        weight, bias = backbone.last_linear
        head = contact.weight @ weight, contact.weight @ bias + contact.bias
        return backbone.time_proj(self._cdm.timestep_embedder()), head

    def _denoise(self, x_t, time_proj_t, state):
        """pred_xstart of one part."""
        if self._fused:
            return self._fused(x_t, time_proj_t, state, self._head)
        with autocast(x_t.device.type, DTYPES[self._cdm.precision]):
            return self._cdm.contact_model.forward_head(x_t, time_proj_t, state, self._head)
