"""Hilbert and Z-order codes and orders against afford-motion, and the laws they obey."""

import pytest
import torch
from golden import POINT_MAMBA_CASES, forward_files, load_arrays

from cdm.model.point_order import (
    gather_points,
    hilbert_decode,
    hilbert_encode,
    hilbert_order,
    quantise,
    z_encode,
    z_order,
)


def _bits(key):
    return 3 if "3bit" in key else int(key.rsplit("_", 1)[-1])


def test_codes_match_afford_motion(parity):
    arrays = load_arrays(parity / "08_hilbert/codes.npz")
    keys = [key for key in arrays if key.startswith("ints")]
    assert keys
    for key in keys:
        codes = arrays["codes" + key.removeprefix("ints")]
        assert torch.equal(hilbert_encode(arrays[key], _bits(key)), codes), key
        assert torch.equal(hilbert_decode(codes, arrays[key].shape[-1], _bits(key)), arrays[key])


def test_orders_of_clouds_match_afford_motion(parity):
    arrays = load_arrays(parity / "08_hilbert/clouds.npz")
    names = {key.split(".")[0] for key in arrays}
    assert names
    for name in names:
        cloud = {key.split(".")[1]: arrays[key] for key in arrays if key.startswith(name + ".")}
        assert torch.equal(quantise(cloud["xyz"]), cloud["ints"]), name
        code, order, inverse = hilbert_order(cloud["xyz"][None])
        assert torch.equal(code[0], cloud["codes"]), name
        assert torch.equal(order[0], cloud["sort_idx_stable"]), name
        if not cloud["has_ties"]:
            assert torch.equal(order[0], cloud["sort_idx"]), name
            assert torch.equal(inverse[0], cloud["unsort_idx"]), name


@pytest.mark.parametrize("case", POINT_MAMBA_CASES)
def test_orders_of_batches_match_afford_motion(parity, case):
    for arrays in forward_files(parity, case):
        assert torch.equal(quantise(arrays["c_pc_xyz"]), arrays["hilbert_int"])
        code, order, inverse = hilbert_order(arrays["c_pc_xyz"])
        assert torch.equal(code, arrays["hilbert_code"])
        assert torch.equal(order, arrays["sort_idx"])
        assert torch.equal(inverse, arrays["unsort_idx"])


@pytest.mark.parametrize(("dim", "bits"), [(1, 5), (2, 1), (2, 4), (3, 1), (3, 3), (4, 2)])
def test_hilbert_curve_visits_neighbours(dim, bits):
    code = torch.arange(2 ** (dim * bits))
    ints = hilbert_decode(code, dim, bits)
    assert torch.equal(hilbert_encode(ints, bits), code)
    assert (ints.diff(dim=0).abs().sum(-1) == 1).all()


def test_decode_inverts_encode_at_full_width():
    generator = torch.Generator().manual_seed(0)
    ints = torch.randint(0, 2**16, (4, 500, 3), generator=generator)
    assert torch.equal(hilbert_decode(hilbert_encode(ints, 16), 3, 16), ints)


@pytest.mark.parametrize("num_points", [1, 2, 63])
def test_inverse_undoes_order(num_points):
    xyz = torch.randn(3, num_points, 3, generator=torch.Generator().manual_seed(0))
    code, order, inverse = hilbert_order(xyz)
    assert torch.equal(gather_points(gather_points(xyz, order), inverse), xyz)
    assert (code.gather(1, order).diff(dim=1) >= 0).all()


def test_equal_points_keep_their_order():
    _, order, inverse = hilbert_order(torch.ones(2, 17, 3))
    assert torch.equal(order, torch.arange(17).expand(2, -1))
    assert torch.equal(inverse, order)


@torch.no_grad()
def test_z_order_matches_afford_motion(parity):
    [arrays] = forward_files(parity, "03_hybridmamba")
    _, order, inverse = z_order(arrays["c_pc_xyz"])
    assert torch.equal(order, arrays["zorder_sort_idx"])
    assert torch.equal(inverse, arrays["zorder_unsort_idx"])


def test_z_order_interleaves_bits():
    ints = torch.tensor([[0b101, 0b011, 0b110], [1, 0, 0], [0, 1, 0], [0, 0, 1], [7, 7, 7]])
    assert z_encode(ints, 3).tolist() == [0b101_110_011, 1, 2, 4, 511]


@pytest.mark.gpu
def test_hilbert_order_is_the_same_on_cuda():
    xyz = torch.randn(3, 8192, 3, generator=torch.Generator().manual_seed(0))
    xyz[:, 100:200] = xyz[:, :1]
    for cpu, cuda in zip(hilbert_order(xyz), hilbert_order(xyz.cuda()), strict=True):
        assert torch.equal(cpu, cuda.cpu())
