"""One update of a sampling chain in place, with its noise drawn where it is added."""

from cdm.kernels import nvrtc
from cdm.kernels.sampling_step import gpu, naive

BACKENDS = ("naive", "cuda")


def sampling_step(
    x, pred_xstart, previous, order, keys, table, noise_steps, position, backend="auto"
):
    """x <- x0_coef pred_xstart + x_coef x + noise_coef noise + prev_x0_coef previous.

    The coefficients are row `position` of `table`. A term whose coefficient is 0 is left out, so
    it may be NaN. The noise of a row is `cdm.noise.normal` of `keys` at step
    `noise_steps[position]`; it belongs to the point, wherever `order` puts that point. After the
    update, previous <- pred_xstart, unless x0_coef is 0: such a row (the start of a chain) uses
    no prediction.

    Args:
        x: (batch, num_points, contact_dim) float32, changed in place.
        pred_xstart: shape and dtype of x, the model's prediction of x_0.
        previous: shape and dtype of x, the prediction of the step before, changed in place; None
            for samplers of first order.
        order: (batch, num_points) int64, the original point at each place; None if the points are
            in their original order.
        keys: (batch, 2) int64, see `cdm.kernels.philox.device_keys`.
        table: (rows, 4) float32: x0_coef, x_coef, noise_coef, prev_x0_coef.
        noise_steps: (rows,) int64, the step number of each row's noise.
        position: (1,) int64, the row to use; a tensor, so that a CUDA graph can be replayed.
        backend: "auto", "naive", or "cuda" (CUDA devices).
    Raises:
        ValueError: unknown backend, or one that cannot run this input.
    """
    # Choose the backend, and run it.
    arguments = x, pred_xstart, previous, order, keys, table, noise_steps, position
    if backend == "auto":
        fits = x.is_cuda and nvrtc.unavailable(x.device.index) is None
        backend = "cuda" if fits else "naive"
    if backend == "naive":
        return naive.sampling_step(*arguments)
    if backend != "cuda":
        raise ValueError(f"sampling_step: backend is {backend!r}, expected auto or {BACKENDS}")
    if not x.is_cuda:
        raise ValueError(
            f"sampling_step: backend cuda cannot run on {x.device}; use backend='auto'"
        )
    return gpu.sampling_step(*arguments)
