"""The fused form of PointMamba, with the naive form of every kernel in its place, on the CPU."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers import relative_error, small_architecture
from small_models import HalfPointwise, fast_step, make_inputs, product_on_cpu, small_model

from cdm.kernels.pointwise import naive
from cdm.model.backbones import point_mamba_cuda
from cdm.model.backbones.point_mamba import PointMamba
from cdm.model.cdm import CDM
from cdm.training.initial_weights import initial_state_dict


@torch.no_grad()
def test_the_fused_form_is_made_of_the_right_pieces(monkeypatch):
    """Packed weights and order of the kernels."""
    monkeypatch.setattr(point_mamba_cuda, "Pointwise", lambda *sizes: naive)
    backbone = small_model("PointMamba", 5).contact_model
    x, _, *given = make_inputs(2, 33, 5)
    step = fast_step(backbone, given)
    fused = point_mamba_cuda.CudaPointMamba(backbone, torch.float32)
    assert relative_error(fused(x, *step), backbone.forward_head(x, *step)) < 1e-5


def test_a_product_of_pairs_is_as_exact_as_float32():
    """What a norm of `Pointwise` and in_proj's weight make of each other in half precision."""
    torch.manual_seed(0)
    norm, weight = torch.randn(1, 50, 64), torch.randn(40, 64) / 8
    _, pairs = HalfPointwise.in_parts((None, norm))
    packed = point_mamba_cuda.for_pairs(weight)
    assert pairs.dtype == packed.dtype == torch.float16
    out, exact = F.linear(pairs.double(), packed.double()), F.linear(norm.double(), weight.double())
    assert relative_error(out, exact) < 1e-6
    assert relative_error(F.linear(norm.half().double(), weight.half().double()), exact) > 1e-4


@torch.no_grad()
def test_the_fused_form_in_half_precision_stays_near_a_thousandth(monkeypatch):
    """Eight small models with random weights erred by 6e-4 to 1.6e-3."""
    monkeypatch.setattr(point_mamba_cuda, "Pointwise", lambda *sizes: HalfPointwise)
    monkeypatch.setattr(point_mamba_cuda, "product", product_on_cpu)
    backbone = small_model("PointMamba", 5).contact_model
    x, _, *given = make_inputs(2, 33, 5)
    step = fast_step(backbone, given)
    fused = point_mamba_cuda.CudaPointMamba(backbone, torch.float16)
    assert 1e-5 < relative_error(fused(x, *step), backbone.forward_head(x, *step)) < 2e-3


def test_a_cpu_has_no_fused_kernels_and_the_reason_is_given():
    backbone = small_model("PointMamba").contact_model
    assert backbone.compile_fused(torch.float32) is None
    reason = point_mamba_cuda.CudaPointMamba.unavailable(backbone)
    assert reason == "it is not on a CUDA device"


@pytest.mark.gpu
@torch.no_grad()
def test_a_step_of_full_size_in_half_precision_stays_within_a_thousandth():
    """Untrained, as benchmarks/denoising_step.py; the simulation says 7.7e-4 to 8.2e-4, and 1.2e-2
    in bf16."""
    torch.manual_seed(0)
    architecture = replace(
        small_architecture("PointMamba", **PointMamba.defaults),
        last_dim=256, time_emb_dim=128, text_feat_dim=512,
    )  # fmt: skip
    cdm = CDM(architecture)
    state = initial_state_dict(architecture)
    cdm.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    x, xyz = torch.randn(1, 512, 6), 4 * torch.rand(1, 512, 3)
    text = F.normalize(torch.randn(1, architecture.text_feat_dim), dim=1)
    inputs = x, torch.tensor([250]), text, xyz
    double = [i.double() if i.is_floating_point() else i for i in inputs]
    exact = cdm.double().naive_forward(*double)
    cdm, inputs = cdm.float().cuda(), [i.cuda() for i in inputs]
    errors = {}
    for precision in ("fp16", "bf16"):
        cdm.precision = precision
        assert cdm.condition(*inputs[2:]).fused
        errors[precision] = relative_error(cdm(*inputs), exact)
    assert errors["fp16"] < 1e-3 and 8 * errors["fp16"] < errors["bf16"] < 2e-2
