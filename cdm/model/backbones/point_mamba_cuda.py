"""The fused form of PointMamba, for CUDA devices.

Each block is in_proj (cuBLAS), the convolution with x_proj, the scan, out_proj (cuBLAS), and one
pass for residual and norm. Both directions share each of them. The residual stream, the norms and
the states of the scan are float32 in each precision. In bf16 the matrix products take bfloat16 and
accumulate in float32. fp16 has eight times finer numbers at the same speed. So that a step's error
stays below 1e-3, it leaves out what rounds most and costs little: the embedding, the gate and what
is added to the stream are float32, and in_proj multiplies pairs of numbers (benchmarks/README.md).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from cdm.kernels import nvrtc
from cdm.kernels.bidirectional_scan import bidirectional_scan, fits, gate_dtype
from cdm.kernels.conv_projection import conv_projection, pack_weights
from cdm.kernels.pointwise.gpu import Pointwise, term_dtype

DT_RANK_STEP = 16  # the scan multiplies dt by dt_proj in steps of this many columns


class BlockWeights(NamedTuple):
    """One block's weights in the layouts and dtypes that the kernels take."""

    norm: tuple[torch.Tensor, torch.Tensor]  # (d_model,) each, float32
    in_proj: torch.Tensor  # (2 d_inner, d_model), in fp16 (2 d_inner, 3 d_model): see `for_pairs`
    conv: tuple[torch.Tensor, torch.Tensor]  # (d_inner, width), (d_inner,), float32
    x_proj: torch.Tensor  # (dt_rank + 2 d_state, d_inner), dt_rank padded with zeros
    packed: tuple | None  # conv and x_proj as `conv_projection` reads them
    dt_proj: torch.Tensor  # (d_inner, dt_rank), padded likewise
    dt_bias: torch.Tensor  # (d_inner,) float32
    A: torch.Tensor  # (d_inner, d_state) float32
    D: torch.Tensor  # (d_inner,) float32
    out_proj: torch.Tensor  # (d_model, d_inner)


class CudaPointMamba:
    """A PointMamba's weights packed for one precision.

    Args:
        backbone: `PointMamba` on its CUDA device.
        dtype: of the matrix products, torch.float32, torch.bfloat16 or torch.float16.
    """

    def __init__(self, backbone, dtype):
        first, _, second, norm = backbone.embedding.net
        d_model, contact_dim = second.out_features, backbone.columns[0]
        self.pointwise = Pointwise(second.weight.device, dtype, d_model, contact_dim)
        self.term_dtype = term_dtype(dtype)
        self.x_weight = first.weight[:, : backbone.columns[0]].t().contiguous().float()
        self.second = second.weight.to(self.term_dtype), second.bias.to(self.term_dtype)
        self.norm = norm.weight.float(), norm.bias.float()
        self.blocks = [pack(layer, dtype) for layer in backbone.layers]

    @staticmethod
    def unavailable(backbone) -> str | None:
        """Why a backbone cannot run in these kernels on its device; None if it can."""
        return no_kernels(backbone.layers[0])

    def __call__(self, x_t, time_proj_t, state, head):
        """Arguments and result as `Backbone.forward_head`."""
        h = self.pointwise.embed(x_t, self.x_weight, state.static_proj, time_proj_t.contiguous())
        y = F.linear(h, *self.second)
        stream, s = self.pointwise.embedding_norm(y, self.norm, self.blocks[0].norm)
        for i, block in enumerate(self.blocks):
            if i > 0:
                stream, s = self.pointwise.residual_norm(stream, y, block.norm)
            y = product(mix(block, s), block.out_proj, self.term_dtype)
        return self.pointwise.residual_head(stream, y, *head)


def no_kernels(layer) -> str | None:
    """Why there are no kernels for a `BidirectionalBlock` on its device; None if there are."""
    weight = layer.norm.weight
    if not weight.is_cuda:
        return "it is not on a CUDA device"
    (d_model,), (d_inner, d_state) = weight.shape, layer.mamba.A_log.shape
    if not fits(d_inner, DT_RANK_STEP, d_state) or d_model % 4 or d_model > 1024:
        return f"there are no kernels for trans_dim {d_model} and d_state {d_state}"
    return nvrtc.unavailable(weight.device.index)


def mix(block: BlockWeights, s):
    """The sum of Mamba in both directions, before out_proj (docs/exact-short-rows.md, eq. 20).

    Args:
        s: (batch, num_points, d_model), normalised; in fp16 as `Pointwise` writes it.
    Returns:
        (batch, num_points, d_inner)
    """
    x, z = in_proj(block, s)
    u, x_dbl = conv_projection(x, *block.conv, block.x_proj, block.packed)
    return bidirectional_scan(u, x_dbl, block.dt_proj, block.dt_bias, block.A, block.D, z)


def in_proj(block: BlockWeights, s):
    """x and z, (batch, num_points, d_inner) each. In fp16, z is float32: the scan takes it so."""
    if s.dtype != torch.float16:
        return F.linear(s, block.in_proj).chunk(2, dim=-1)
    x_weight, z_weight = block.in_proj.chunk(2)
    return F.linear(s, x_weight), product(s, z_weight, gate_dtype(s.dtype))


def product(x, weight, dtype):
    """x weight^T for (batch, num_points, width), accumulated in float32 and returned in dtype.

    Args:
        dtype: that of x and weight; with these in 16 bits also torch.float32.
    """
    if x.dtype == dtype:
        return F.linear(x, weight)
    return torch.mm(x.flatten(0, 1), weight.t(), out_dtype=dtype).unflatten(0, x.shape[:2])


def for_pairs(weight):
    """[high, high, low] in float16, where high + low is the weight to 22 bits.

    Times [high, low, high] of a norm this is the product of both pairs but for low times low.
    """
    high = weight.half()
    low = (weight - high.float()).half()
    return torch.cat([high, high, low], dim=1)


def pack(layer, dtype) -> BlockWeights:
    """Convert the weights of a `BidirectionalBlock`; dtype is that of the matrix products."""
    mamba, norm, half = layer.mamba, layer.norm, dtype == torch.float16
    dt_rank, d_state = mamba.dt_proj.in_features, mamba.A_log.shape[1]
    missing = -dt_rank % DT_RANK_STEP
    dt, rest = mamba.x_proj.weight.split([dt_rank, 2 * d_state])
    conv = mamba.conv1d.weight.squeeze(1).float(), mamba.conv1d.bias.float()
    x_proj = torch.cat([F.pad(dt, (0, 0, 0, missing)), rest]).to(dtype)
    return BlockWeights(
        norm=(norm.weight.float(), norm.bias.float()),
        in_proj=for_pairs(mamba.in_proj.weight) if half else mamba.in_proj.weight.to(dtype),
        conv=conv,
        x_proj=x_proj,
        packed=pack_weights(*conv, x_proj),
        dt_proj=F.pad(mamba.dt_proj.weight, (0, missing)).to(dtype).contiguous(),
        dt_bias=mamba.dt_proj.bias.float(),
        A=-mamba.A_log.float().exp(),
        D=mamba.D.float(),
        out_proj=mamba.out_proj.weight.to(dtype),
    )
