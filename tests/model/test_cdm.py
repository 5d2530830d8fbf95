"""The whole CDM against the reference, and each shortcut against the naive form."""

import pytest
import torch
from golden import (
    POINT_MAMBA_CASES,
    assert_close,
    check_slots_and_threads,
    conditions,
    forward_files,
    load_case,
)
from torch import nn

from cdm.model.architecture import Architecture
from cdm.model.cdm import CDM
from cdm.model.point_order import gather_points


def make_cdm(point_feat_dim=0, dtype=torch.float32, **options):
    """A small CDM with odd sizes; its last layers spread enough to see errors."""
    torch.manual_seed(0)
    architecture = Architecture(
        arch="PointMamba",
        contact_dim=6,
        time_emb_dim=22,
        text_feat_dim=30,
        point_feat_dim=point_feat_dim,
        last_dim=18,
        sizes={
            "trans_dim": 20, "depth": 2, "hidden_dim": 36,
            "d_state": 8, "d_conv": 4, "d_inner": 40, "dt_rank": 3,
        },
    )  # fmt: skip
    return CDM(architecture, **options).eval().to(dtype)


def make_inputs(batch=4, num_points=63, point_feat_dim=0, dtype=torch.float32):
    """x, timesteps, c_text, c_pc_xyz and, unless the width is 0, c_pc_feat."""
    generator = torch.Generator().manual_seed(1)
    widths = [6, 3] + [point_feat_dim] * (point_feat_dim > 0)
    x, xyz, *feat = (
        torch.randn(batch, num_points, width, generator=generator).to(dtype) for width in widths
    )
    timesteps = torch.randint(0, 1000, (batch,), generator=generator)
    return x, timesteps, torch.randn(batch, 30, generator=generator).to(dtype), xyz, *feat


@pytest.mark.parametrize("case", POINT_MAMBA_CASES)
@torch.no_grad()
def test_forward_matches_reference(parity, parity_index, case):
    cdm = load_case(parity, case)
    for arrays in forward_files(parity, case):
        out = cdm(arrays["x"], arrays["timesteps"], *conditions(arrays))
        assert_close(case, arrays["out"], out, **parity_index["tolerances"]["forward_fp32"])


@pytest.mark.parametrize("case", POINT_MAMBA_CASES)
@torch.no_grad()
def test_denoise_matches_reference(parity, parity_index, case):
    """One step number for the batch and points in sorted order, as the sampler calls it."""
    cdm = load_case(parity, case)
    for arrays in forward_files(parity, case):
        denoise = cdm.condition(*conditions(arrays))
        assert torch.equal(denoise.order, arrays["sort_idx"])
        assert torch.equal(denoise.inverse, arrays["unsort_idx"])
        x_t = gather_points(arrays["x"], denoise.order)
        for i, t in enumerate(arrays["timesteps"].tolist()):
            out = gather_points(denoise(x_t, t), denoise.inverse)
            tolerance = parity_index["tolerances"]["forward_fp32"]
            assert_close(case, arrays["out"][i], out[i], **tolerance)


@pytest.mark.parametrize("case", POINT_MAMBA_CASES)
@torch.no_grad()
def test_intermediates_match_reference(parity, parity_index, case):
    tolerance = parity_index["tolerances"]["forward_fp32"]
    cdm = load_case(parity, case)
    backbone = cdm.contact_model
    for arrays in forward_files(parity, case):
        time_emb = cdm.timestep_embedder(arrays["timesteps"])
        assert_close("time_emb", arrays["time_emb"][:, 0], time_emb, **tolerance)

        order, inverse = arrays["sort_idx"][:1], arrays["unsort_idx"][:1]
        first = {}
        hook = backbone.layers[0].register_forward_pre_hook(
            lambda _module, args, first=first: first.update(s=args[0])
        )
        c_text, xyz, *feat = conditions(arrays)
        feat = [cdm.point_feat(c_text, xyz, f) for f in feat if cdm.architecture.point_feat_dim]
        state = backbone.prepare(c_text[:1], xyz[:1], *(f[:1] for f in feat))
        x_t = gather_points(arrays["x"][:1], order)
        out = backbone(x_t, backbone.time_proj(time_emb[:1]), state)
        hook.remove()
        embedding = gather_points(first["s"], inverse)[0]
        assert_close("embedding", arrays["embedding_out_b0"], embedding, **tolerance)
        out = gather_points(out, inverse)[0]
        assert_close("contact_model", arrays["contact_model_out_b0"], out, **tolerance)

        block = backbone.layers[0]
        s = gather_points(arrays["embedding_out_b0"][None], order)
        for key, s_k in (("fwd_delta_b0", s), ("bwd_delta_scanorder_b0", s.flip(1))):
            delta = block.mamba(block.norm(s_k))[0]
            assert_close(key, arrays["layer0_" + key], delta, **tolerance)


@pytest.mark.parametrize("case", POINT_MAMBA_CASES)
@torch.no_grad()
def test_naive_forward_matches_reference(parity, parity_index, case):
    cdm = load_case(parity, case)
    for arrays in forward_files(parity, case):
        out = cdm.naive_forward(arrays["x"], arrays["timesteps"], *conditions(arrays))
        assert_close(case, arrays["out"], out, **parity_index["tolerances"]["forward_fp32"])


@pytest.mark.parametrize("num_points", [1, 2, 63])
@pytest.mark.parametrize(("model_feat", "given_feat"), [(0, 0), (5, 5), (1, 1), (1, 30)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
@torch.no_grad()
def test_forward_is_naive_forward(model_feat, given_feat, num_points, dtype, tolerance):
    cdm = make_cdm(model_feat, dtype)
    inputs = make_inputs(num_points=num_points, point_feat_dim=given_feat, dtype=dtype)
    assert_close("out", cdm.naive_forward(*inputs), cdm(*inputs), tolerance, tolerance)


@torch.no_grad()
def test_text_may_have_a_token_axis():
    cdm, (x, timesteps, c_text, *rest) = make_cdm(), make_inputs()
    assert torch.equal(cdm(x, timesteps, c_text[:, None], *rest), cdm(x, timesteps, c_text, *rest))


@torch.no_grad()
def test_features_are_ignored_by_a_model_without_them():
    cdm = make_cdm()
    *inputs, feat = make_inputs(point_feat_dim=5)
    assert torch.equal(cdm(*inputs, feat), cdm(*inputs))


@torch.no_grad()
def test_wrong_feature_width_says_so():
    with pytest.raises(ValueError, match="4 columns, expected 5"):
        make_cdm(5)(*make_inputs(point_feat_dim=4))
    with pytest.raises(ValueError, match="no columns, expected 5"):
        make_cdm(5)(*make_inputs())


@pytest.mark.parametrize("num_points", [1, 63, 64, 257])
@pytest.mark.parametrize("point_feat_dim", [0, 5])
def test_output_does_not_depend_on_batch_or_threads(num_points, point_feat_dim):
    inputs = make_inputs(num_points=num_points, point_feat_dim=point_feat_dim)
    check_slots_and_threads(make_cdm(point_feat_dim), inputs)


@pytest.mark.parametrize("case", POINT_MAMBA_CASES)
def test_reference_models_do_not_depend_on_batch_or_threads(parity, case):
    cdm = load_case(parity, case)
    for arrays in forward_files(parity, case):
        inputs = [arrays["x"], arrays["timesteps"], *conditions(arrays)]
        check_slots_and_threads(cdm, inputs)


@torch.no_grad()
@pytest.mark.parametrize(("precision", "limit"), [("bf16", 0.02), ("fp16", 0.0025)])
def test_16_bits_stay_near_fp32(precision, limit):
    cdm, inputs = make_cdm(), make_inputs()
    fp32 = cdm(*inputs)
    cdm.precision = precision
    out = cdm(*inputs)
    assert out.dtype == torch.float32
    assert not torch.equal(out, fp32)
    assert_close(precision, fp32, out, limit, limit)


def test_unknown_precision_says_so():
    with pytest.raises(ValueError, match="expected one of fp32, fp16, bf16"):
        make_cdm(precision="tf32")


def test_model_learns():
    cdm, inputs = make_cdm(5), make_inputs(num_points=9, point_feat_dim=5)
    nn.functional.mse_loss(cdm(*inputs), inputs[0]).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in cdm.parameters())


def test_time_table_is_close_to_the_reference(parity):
    for case in POINT_MAMBA_CASES:
        pe = load_case(parity, case).timestep_embedder.pe
        fresh = CDM(load_case(parity, case).architecture).timestep_embedder.pe
        assert_close(case, pe, fresh, 0, 1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("case", POINT_MAMBA_CASES)
@torch.no_grad()
def test_cuda_matches_reference(parity, parity_index, case):
    cdm = load_case(parity, case).cuda()
    for arrays in forward_files(parity, case):
        inputs = [arrays["x"], arrays["timesteps"], *conditions(arrays)]
        out = cdm(*(x.cuda() for x in inputs)).cpu()
        assert_close(case, arrays["out"], out, **parity_index["tolerances"]["forward_fp32"])
