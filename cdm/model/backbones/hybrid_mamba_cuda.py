"""The fused form of HybridMamba, for CUDA devices: its blocks run as PointMamba's do.

Both scans run as one batch. FiLM costs no pass over the points (docs/exact-short-rows.md, eq. 22):
the scale is multiplied into out_proj, which then is one weight per sample, and the same matrix
product adds the shift.
"""

import torch
import torch.nn.functional as F

from cdm.kernels.pointwise.gpu import Pointwise, term_dtype
from cdm.model.backbones.base import autocast, head_product
from cdm.model.backbones.point_mamba_cuda import mix, no_kernels, pack
from cdm.model.point_order import gather_points


class CudaHybridMamba:
    """A HybridMamba's weights packed for one precision.

    Args:
        backbone: `HybridMamba` on its CUDA device.
        dtype: of the matrix products, torch.float32, torch.bfloat16 or torch.float16.
    """

    def __init__(self, backbone, dtype):
        self.backbone, self.dtype, self.term_dtype = backbone, dtype, term_dtype(dtype)
        norm = backbone.embedding[3]
        self.x_weight = backbone.embedding[0].weight[:, : backbone.columns[0]].t().contiguous()
        self.norm = norm.weight.float(), norm.bias.float()
        self.blocks = [pack(block, dtype) for block in backbone.blocks]
        self.pointwise = Pointwise(
            norm.weight.device, dtype, norm.weight.numel(), backbone.columns[0]
        )
        second = backbone.embedding[2].weight, backbone.embedding[2].bias
        self.second = [p.to(self.term_dtype) for p in second]

    @staticmethod
    def unavailable(backbone) -> str | None:
        """Why a backbone cannot run in these kernels on its device; None if it can."""
        return no_kernels(backbone.blocks[0])

    def __call__(self, x_t, time_proj_t, state, head):
        """Arguments and result as `Backbone.forward_head`."""
        backbone = self.backbone
        films = backbone.films(time_proj_t, state)
        # Embedding of the points. It does not depend on t, so the kernel's term of t is 0.
        no_time_proj = x_t.new_zeros(time_proj_t.shape)
        h = self.pointwise.embed(x_t, self.x_weight, state.static_proj, no_time_proj)
        y = F.linear(h, *self.second)
        # Both scans as one batch.
        if backbone.multi_scan:
            y = torch.cat([y, gather_points(y, state.to_z)])
            films = [[f.repeat(2, 1) for f in film] for film in films]
        # Mamba blocks, with FiLM inside their last product (eq. 22).
        stream, s = self.pointwise.embedding_norm(y, self.norm, self.blocks[0].norm)
        for i, (block, (gamma, beta)) in enumerate(zip(self.blocks, films, strict=True)):
            if i > 0:
                stream, s = self.pointwise.residual_norm(stream, y, block.norm)
            out_proj = gamma[:, None] * block.out_proj.t()  # (batch, d_inner, d_model)
            y = torch.baddbmm(
                (2 * beta).to(self.dtype)[:, None], mix(block, s), out_proj.to(self.dtype)
            ).to(self.term_dtype)
        # Fusion of the scans, bottleneck, and head.
        with autocast("cuda", self.dtype):
            features = backbone.finish(stream + y, state)
        return head_product(features, head[0]) + head[1]
