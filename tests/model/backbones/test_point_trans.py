"""PointTrans and PointTransV2 against afford-motion, and their folded form against the unfolded."""

import pytest
import torch
from golden import assert_close, check_slots_and_threads, conditions, forward_files, load_case

from cdm.model.point_transformer import BatchNorm, folded

CASES = ["06_pointtrans", "06b_pointtransv2"]
cases = pytest.mark.parametrize("case", CASES)


def inputs_of(arrays, points=slice(None)):
    """Arguments of the CDM, of some of the points."""
    per_point = ("x", "c_pc_xyz", "c_pc_feat")
    arrays = {k: v[:, points] if k in per_point else v for k, v in arrays.items()}
    return [arrays["x"], arrays["timesteps"], *conditions(arrays)]


@cases
@pytest.mark.parametrize("scan_backend", ["auto", "naive"], ids=["folded", "unfolded"])
@torch.no_grad()
def test_forward_matches_afford_motion(parity, parity_index, case, scan_backend):
    cdm = load_case(parity, case, scan_backend=scan_backend)
    [arrays] = forward_files(parity, case)
    tolerance = parity_index["tolerances"]["forward_fp32"]
    assert_close(case, arrays["out"], cdm(*inputs_of(arrays)), **tolerance)


@cases
@torch.no_grad()
def test_backbone_matches_afford_motion(parity, parity_index, case):
    cdm = load_case(parity, case)
    [arrays] = forward_files(parity, case)
    backbone, (x, _, *given) = cdm.contact_model, inputs_of(arrays)
    state = backbone.prepare(*given)
    out = backbone(x, backbone.time_proj(arrays["time_emb"][:, 0]), state)
    tolerance = parity_index["tolerances"]["forward_fp32"]
    assert_close(case, arrays["contact_model_out_b0"], out[0], **tolerance)


@cases
@pytest.mark.parametrize("num_points", [5, 101])
@torch.no_grad()
def test_folded_batch_norms_change_nothing(parity, case, num_points):
    """In float64, so that rounding does not hide a fault."""
    cdm = load_case(parity, case).double()
    [arrays] = forward_files(parity, case)
    x, timesteps, *given = inputs_of(arrays, slice(0, num_points))
    backbone = cdm.contact_model
    state = backbone.prepare(*[c.double() for c in given])
    shares = backbone.time_proj(cdm.timestep_embedder(timesteps))
    expected = backbone(x.double(), shares, state)
    twin = folded(backbone)
    assert sum(isinstance(part, BatchNorm) for part in twin.modules()) < 0.7 * sum(
        isinstance(part, BatchNorm) for part in backbone.modules()
    )
    assert_close(case, expected, twin(x.double(), shares, state), 1e-11, 1e-11)


@cases
def test_output_does_not_depend_on_batch_or_threads(parity, case):
    [arrays] = forward_files(parity, case)
    check_slots_and_threads(load_case(parity, case), inputs_of(arrays, slice(0, 101)), (1, 2))


@cases
@torch.no_grad()
def test_bf16_stays_near_fp32(parity, case):
    cdm = load_case(parity, case)
    inputs = inputs_of(forward_files(parity, case)[0], slice(0, 128))
    fp32 = cdm(*inputs)
    cdm.precision = "bf16"
    bf16 = cdm(*inputs)
    assert bf16.dtype == torch.float32 and not torch.equal(bf16, fp32)
    assert (bf16 - fp32).norm() < 0.03 * fp32.norm()


@pytest.mark.gpu
@cases
@torch.no_grad()
def test_cuda_matches_afford_motion(parity, parity_index, case):
    cdm = load_case(parity, case).cuda()
    [arrays] = forward_files(parity, case)
    inputs = [x.cuda() for x in inputs_of(arrays)]
    tolerance = parity_index["tolerances"]["forward_fp32"]
    assert_close(case, arrays["out"], cdm(*inputs).cpu(), **tolerance)
    for precision, limit in (("bf16", 0.03), ("fp16", 0.00375)):
        cdm.precision = precision
        out = cdm(*inputs).cpu()
        assert (out - arrays["out"]).norm() < limit * arrays["out"].norm()
