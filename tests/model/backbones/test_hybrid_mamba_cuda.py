"""The fused form of HybridMamba, with the naive form of every kernel in its place, on the CPU."""

import pytest
import torch
from helpers import relative_error
from small_models import HalfPointwise, fast_step, make_inputs, product_on_cpu, small_model

from cdm.kernels.pointwise import naive
from cdm.model.backbones import hybrid_mamba_cuda, point_mamba_cuda
from cdm.model.backbones.base import autocast


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"use_multi_scan": False},
        {"use_perceiver": False},
        {"use_multi_scan": False, "use_perceiver": False},
    ],
)
@torch.no_grad()
def test_eq_22_film_goes_into_the_last_product(sizes, monkeypatch):
    """Packed weights, order of the kernels, and FiLM inside of out_proj; every layout."""
    monkeypatch.setattr(hybrid_mamba_cuda, "Pointwise", lambda *sizes: naive)
    backbone = small_model("HybridMamba", 5, **sizes).contact_model
    x, _, *given = make_inputs(2, 33, 5)
    step = fast_step(backbone, given)
    fused = hybrid_mamba_cuda.CudaHybridMamba(backbone, torch.float32)
    assert relative_error(fused(x, *step), backbone.forward_head(x, *step)) < 1e-5


@torch.no_grad()
def test_the_fused_form_in_half_precision_stays_within_a_thousandth(monkeypatch):
    monkeypatch.setattr(hybrid_mamba_cuda, "Pointwise", lambda *sizes: HalfPointwise)
    monkeypatch.setattr(point_mamba_cuda, "product", product_on_cpu)
    monkeypatch.setattr(hybrid_mamba_cuda, "autocast", lambda _, dtype: autocast("cpu", dtype))
    backbone = small_model("HybridMamba", 5).contact_model
    x, _, *given = make_inputs(2, 33, 5)
    step = fast_step(backbone, given)
    fused = hybrid_mamba_cuda.CudaHybridMamba(backbone, torch.float16)
    assert 1e-5 < relative_error(fused(x, *step), backbone.forward_head(x, *step)) < 1e-3
