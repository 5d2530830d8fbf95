"""The Mamba-1 block (Gu and Dao 2023) and its bidirectional use with shared weights.

Names and the keys of the weights are those of state-spaces/mamba
(`mamba_ssm/modules/mamba_simple.py`).
"""

import torch
import torch.nn.functional as F
from torch import nn

from cdm.kernels.causal_conv import causal_conv_silu
from cdm.kernels.selective_scan import selective_scan


class Mamba(nn.Module):
    """One Mamba-1 block. The caller adds the norm before it and the residual after it.

    Args:
        d_model: width of input and output.
        d_inner: width between in_proj and out_proj.
        d_state: size of the scan's state, for each of the d_inner channels.
        d_conv: width of the causal convolution.
        dt_rank: rank of the projection that makes the step sizes delta.
        backend: of `cdm.kernels.selective_scan`.
    """

    def __init__(self, d_model, d_inner, d_state, d_conv, dt_rank, backend="auto"):
        super().__init__()
        self.backend = backend
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.conv1d = nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner, padding=d_conv - 1)
        self.x_proj = nn.Linear(d_inner, dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(dt_rank, d_inner)
        A = torch.arange(1, d_state + 1, dtype=torch.float32).repeat(d_inner, 1)
        self.A_log = nn.Parameter(A.log())
        self.D = nn.Parameter(torch.ones(d_inner))
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

    def forward(self, s):
        """(batch, length, d_model) to the same shape, from the first point to the last."""
        x, z = self.in_proj(s).chunk(2, dim=-1)
        return self.out_proj(self.mix(x, z=z))

    def mix(self, x, reverse=False, z=None):
        """Convolution and selective scan, between in_proj and out_proj.

        Args:
            x: (batch, length, d_inner), the first half of in_proj's output.
            reverse: run both from the last point to the first.
            z: shape of x, gates the result by SiLU(z); None for no gate.
        Returns:
            shape of x.
        """
        x = causal_conv_silu(x, self.conv1d.weight.squeeze(1), self.conv1d.bias, reverse)
        d_state = self.A_log.shape[1]
        sizes = self.dt_proj.in_features, d_state, d_state
        dt, B, C = self.x_proj(x).split(sizes, dim=-1)
        delta = F.linear(dt, self.dt_proj.weight)  # (batch, length, d_inner)
        return selective_scan(
            x, delta, -self.A_log.exp(), B, C, self.D, z, self.dt_proj.bias,
            delta_softplus=True, reverse=reverse, backend=self.backend,
        )  # fmt: skip


class BidirectionalBlock(nn.Module):
    """s + f(s) + flip(f(flip(s))) with f(s) = Mamba(LayerNorm(s)) and one set of weights."""

    def __init__(self, d_model, **sizes):
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.mamba = Mamba(d_model, **sizes)

    def naive_forward(self, s):
        """The formula: (batch, length, d_model) to the same shape."""

        def f(s):
            return self.mamba(self.norm(s))

        return s + f(s) + f(s.flip(1)).flip(1)

    def forward(self, s):
        """The fast form of the same."""
        return s + self.mix(s)

    def mix(self, s):
        """f(s) + flip(f(flip(s))), with all projections once (docs/exact-short-rows.md, eq. 20).

        The norm, in_proj and the gate act on each point alone, and out_proj is linear. So only
        convolution and scan depend on the direction.
        """
        x, z = self.mamba.in_proj(self.norm(s)).chunk(2, dim=-1)
        y = self.mamba.mix(x) + self.mamba.mix(x, reverse=True)
        return self.mamba.out_proj(y * F.silu(z))
