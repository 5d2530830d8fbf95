"""The Mamba block against afford-motion, and the shared-weight bidirectional block."""

import pytest
import torch
from golden import assert_close, load_arrays

from cdm.model.mamba import BidirectionalBlock, Mamba


def load_unit(parity):
    arrays = load_arrays(parity / "01_pointmamba/mamba_unit.npz")
    weights = {key[2:]: value for key, value in arrays.items() if key.startswith("w.")}
    d_inner, d_state = weights["A_log"].shape
    mamba = Mamba(
        d_model=weights["out_proj.weight"].shape[0],
        d_inner=d_inner,
        d_state=d_state,
        d_conv=weights["conv1d.weight"].shape[-1],
        dt_rank=weights["dt_proj.weight"].shape[1],
    )
    mamba.load_state_dict(weights)
    return mamba.eval(), arrays


@pytest.mark.parametrize("backend", ["auto", "naive", "chunked", "numba"])
@torch.no_grad()
def test_mamba_matches_afford_motion(parity, parity_index, backend):
    mamba, arrays = load_unit(parity)
    mamba.backend = backend
    names = [key[3:] for key in arrays if key.startswith("in_")]
    assert names
    for name in names:
        output = mamba(arrays["in_" + name])
        tolerance = parity_index["tolerances"]["forward_fp32"]
        assert_close(name, arrays["out_" + name], output, **tolerance)


def make_block(d_model=20, d_state=8, dtype=torch.float32):
    torch.manual_seed(0)
    block = BidirectionalBlock(d_model, d_inner=40, d_state=d_state, d_conv=4, dt_rank=2)
    return block.eval().to(dtype)


@pytest.mark.parametrize("length", [1, 2, 3, 63, 200])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@torch.no_grad()
def test_eq_20_both_directions_share_all_projections(length, dtype, tolerance):
    block = make_block(dtype=dtype)
    s = torch.randn(2, length, 20, dtype=dtype)
    assert_close("block", block.naive_forward(s), block(s), tolerance, tolerance)


@torch.no_grad()
def test_bidirectional_block_treats_both_directions_alike():
    block, s = make_block(dtype=torch.float64), torch.randn(2, 63, 20, dtype=torch.float64)
    assert_close("flipped", block(s).flip(1), block(s.flip(1)), 1e-12, 1e-12)


def test_bidirectional_block_learns():
    block, s = make_block(), torch.randn(2, 9, 20)
    block(s).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in block.parameters())
