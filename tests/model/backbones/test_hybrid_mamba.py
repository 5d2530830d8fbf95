"""HybridMamba: its forms, and what weights do not tell of it."""

import pytest
import torch
from golden import assert_close
from small_models import check_forms, shapes_and_config

from cdm.errors import CheckpointError
from cdm.model.backbones.hybrid_mamba import Bottleneck, FilmBlock
from cdm.model.checkpoint import infer_architecture


@pytest.mark.parametrize("case", ["03_hybridmamba", "03b_hybridmamba_singlescan"])
def test_fast_and_naive_forms_match_afford_motion(parity, parity_index, case):
    check_forms(parity, parity_index, case)


@pytest.mark.parametrize("length", [1, 2, 63])
@torch.no_grad()
def test_eq_21_film_of_both_directions_is_a_scale_and_twice_the_shift(length):
    torch.manual_seed(0)
    block = FilmBlock(20, d_inner=40, d_state=8, d_conv=4, dt_rank=2).double()
    s, cond = torch.randn(2, length, 20).double(), torch.randn(2, 20).double()
    assert_close("block", block.naive_forward(s, cond), block(s, block.film(cond)), 1e-12, 1e-12)


@torch.no_grad()
def test_the_bottleneck_is_torchs_attention():
    torch.manual_seed(0)
    bottleneck, points = Bottleneck(24, 5, 4).eval().double(), torch.randn(2, 63, 24).double()
    assert_close("bottleneck", bottleneck.naive_forward(points), bottleneck(points), 1e-12, 1e-12)


def test_heads_that_weights_do_not_tell_are_the_eight_of_afford_motion():
    shapes, config = shapes_and_config("HybridMamba", num_heads=None)
    assert infer_architecture(shapes, config, "x.pt").sizes["num_heads"] == 8


def test_heads_that_do_not_divide_the_channels_are_refused():
    shapes, config = shapes_and_config("HybridMamba", num_heads=5)
    with pytest.raises(CheckpointError, match=r"5 does not divide its 32 .*set model\.arch_hybrid"):
        infer_architecture(shapes, config, "x.pt")
