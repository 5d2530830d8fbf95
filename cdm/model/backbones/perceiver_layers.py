"""The layers of a Perceiver, as afford-motion writes them: attention, residuals, and MLPs."""

import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    """Multi-head attention.

    Queries, keys and values all have the width of the queries' input.

    Attributes:
        dropout: share of the attention weights that training drops.
    """

    def __init__(self, q_channels, kv_channels, heads):
        super().__init__()
        self.heads, self.dropout = heads, 0.0
        self.q_proj = nn.Linear(q_channels, q_channels)
        self.k_proj = nn.Linear(kv_channels, q_channels)
        self.v_proj = nn.Linear(kv_channels, q_channels)
        self.o_proj = nn.Linear(q_channels, q_channels)

    def forward(self, x_q, x_kv):
        q, k, v = self.q_proj(x_q), self.k_proj(x_kv), self.v_proj(x_kv)
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        if self.training:
            # The formula itself. torch's fused attention sums some gradients in any order, and a
            # training that goes on must give the same bits as one that was never stopped.
            weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(dim=-1)
            out = F.dropout(weights, self.dropout) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v)
        return self.o_proj(out.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Attention whose queries, and whose keys and values, are normalised first."""

    def __init__(self, q_channels, kv_channels, heads):
        super().__init__()
        self.heads = heads
        self.q_norm = nn.LayerNorm(q_channels)
        self.kv_norm = nn.LayerNorm(kv_channels)
        self.attention = Attention(q_channels, kv_channels, heads)

    def forward(self, x_q, x_kv):
        return self.attention(self.q_norm(x_q), self.kv_norm(x_kv))


class SelfAttention(nn.Module):
    """Attention of normalised tokens to each other."""

    def __init__(self, channels, heads):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attention = Attention(channels, channels, heads)

    def forward(self, x):
        x = self.norm(x)
        return self.attention(x, x)


class Residual(nn.Module):
    """module(x, ...) added to x."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x, *args):
        return x + self.module(x, *args)


def residual_mlp(channels, widening):
    """x + MLP(LayerNorm(x)), with one hidden layer of `widening * channels`."""
    return Residual(
        nn.Sequential(
            nn.LayerNorm(channels),
            nn.Linear(channels, widening * channels),
            nn.GELU(),
            nn.Linear(widening * channels, channels),
        )
    )
