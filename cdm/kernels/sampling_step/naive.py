"""A sampling step's update, one torch operation after the other, on any device."""

import torch

from cdm.kernels import philox


def sampling_step(x, pred_xstart, previous, order, keys, table, noise_steps, position):
    """Arguments and result as `cdm.kernels.sampling_step.sampling_step`."""
    row = int(position)
    x0_coef, x_coef, noise_coef, prev_x0_coef = table[row].tolist()
    result = x_coef * x if x_coef != 0 else torch.zeros_like(x)
    if x0_coef != 0:
        result = result + x0_coef * pred_xstart
    if prev_x0_coef != 0:
        result = result + prev_x0_coef * previous
    if noise_coef != 0:
        noise = philox.normal(keys, int(noise_steps[row]), x.shape[1], x.shape[2], x.device)
        if order is not None:
            noise = noise.gather(1, order[..., None].expand(x.shape))
        result = result + noise_coef * noise
    if previous is not None and x0_coef != 0:
        previous.copy_(pred_xstart)
    x.copy_(result)
