"""The bidirectional scan as two selective scans and a gate, on any device."""

import torch.nn.functional as F

from cdm.kernels.selective_scan import selective_scan


def bidirectional_scan(u, x_dbl, dt_weight, dt_bias, A, D, z, backend="naive"):
    """Arguments and result as `cdm.kernels.bidirectional_scan.bidirectional_scan`.

    Args:
        backend: that of the selective scan.
    """
    (_, dt_rank), d_state = dt_weight.shape, A.shape[1]
    y = 0
    for direction in (0, 1):
        dt, B, C = x_dbl[direction].split((dt_rank, d_state, d_state), dim=-1)
        y = y + selective_scan(
            u[direction], F.linear(dt, dt_weight), A, B, C, D, delta_bias=dt_bias,
            delta_softplus=True, reverse=bool(direction), backend=backend,
        )  # fmt: skip
    return (y * F.silu(z)).to(u.dtype)
