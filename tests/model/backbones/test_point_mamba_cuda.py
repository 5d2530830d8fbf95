"""The fused form of PointMamba, with the naive form of every kernel in its place, on the CPU."""

import torch
from helpers import relative_error
from small_models import fast_step, make_inputs, small_model

from cdm.kernels.pointwise import naive
from cdm.model.backbones import point_mamba_cuda


@torch.no_grad()
def test_the_fused_form_is_made_of_the_right_pieces(monkeypatch):
    """Packed weights and order of the kernels."""
    monkeypatch.setattr(point_mamba_cuda, "Pointwise", lambda *sizes: naive)
    backbone = small_model("PointMamba", 5).contact_model
    x, _, *given = make_inputs(2, 33, 5)
    step = fast_step(backbone, given)
    fused = point_mamba_cuda.CudaPointMamba(backbone, torch.float32)
    assert relative_error(fused(x, *step), backbone.forward_head(x, *step)) < 1e-5


def test_a_cpu_has_no_fused_kernels_and_the_reason_is_given():
    backbone = small_model("PointMamba").contact_model
    assert backbone.compile_fused(torch.float32) is None
    reason = point_mamba_cuda.CudaPointMamba.unavailable(backbone)
    assert reason == "it is not on a CUDA device"
