"""Layers of the Point Transformer: each fast form against the formula."""

import pytest
import torch
from golden import assert_close
from torch import nn

from cdm.model.point_transformer import (
    NEIGHBOURS,
    BatchNorm,
    PointTransformerUNet,
    TransitionDown,
    fold,
    folded,
    read_unet,
)


def random_norm(channels):
    """A batch norm whose statistics and weights are all of its own."""
    norm = BatchNorm(channels).eval()
    for values in (norm.weight.data, norm.bias.data, norm.running_mean):
        values.normal_()
    norm.running_var.uniform_(0.2, 2)
    return norm.double()


@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_eq_23_a_batch_norm_goes_into_the_linear_layer_before_it(bias):
    torch.manual_seed(0)
    linear, norm = nn.Linear(7, 5, bias=bias).double(), random_norm(5)
    x = torch.randn(2, 30, 7, dtype=torch.float64)
    expected = nn.functional.batch_norm(
        linear(x).mT, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
    ).mT
    assert_close("unfolded", expected, norm(linear(x)), 1e-12, 1e-12)
    assert_close("folded", expected, nn.functional.linear(x, *fold(linear, norm)), 1e-12, 1e-12)


@pytest.fixture(scope="module")
def unet():
    """A small U-Net in float64 with the statistics of batch norms drawn too."""
    torch.manual_seed(0)
    unet = PointTransformerUNet(3, (32, 64), (2, 2)).eval().double()
    for part in unet.modules():
        if isinstance(part, BatchNorm):
            part.load_state_dict(random_norm(len(part.weight)).state_dict())
    return unet.requires_grad_(False)


def test_eq_24_features_may_be_multiplied_before_they_are_grouped(unet):
    xyz = torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(1)).double()
    _, level = unet.geometry(xyz)
    x = torch.randn(2, 40, 32, generator=torch.Generator().manual_seed(2)).double()
    down = unet.encoders()[1][0]
    assert isinstance(down, TransitionDown)
    expected = down.naive_forward(x, level)
    assert expected.shape == (2, 10, 64) and (expected > 0).any()
    assert_close("unfolded", expected, down(x, level), 1e-12, 1e-12)
    assert_close("folded", expected, folded(down)(x, level), 1e-12, 1e-12)


def test_a_folded_unet_has_one_function_with_the_naive_one(unet):
    xyz = torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(1)).double()
    levels = unet.geometry(xyz)
    naive = unet.decode(unet.encode(unet.input_proj(xyz), levels, naive=True), levels)
    twin = folded(unet)
    levels = twin.geometry(xyz)
    out = twin.decode(twin.encode(twin.input_proj(xyz), levels), levels)
    assert naive.std() > 0.01
    assert_close("features", naive, out, 1e-11, 1e-11)


def test_levels_list_neighbours_of_the_same_cloud(unet):
    xyz = torch.randn(3, 17, 3, generator=torch.Generator().manual_seed(1)).double()
    fine, coarse = unet.geometry(xyz)
    assert fine.neighbours.shape == (3, 17, NEIGHBOURS[0]) and fine.group is None
    assert coarse.up.shape == (3, 17, 3) and coarse.group.shape[1] == 17 // 4
    for index, num_points in ((fine.neighbours, 17), (coarse.group, 17), (coarse.up, 4)):
        cloud = index // num_points
        assert (cloud == torch.arange(3)[:, None, None]).all()
    assert torch.equal(fine.neighbours[..., 0], torch.arange(51).view(3, 17))  # itself


def test_sizes_are_read_off_the_shapes(unet):
    shapes = {f"model.{key}": tuple(value.shape) for key, value in unet.state_dict().items()}
    assert read_unet(shapes, "model.") == (3, [32, 64], [2, 2])
    with pytest.raises(KeyError, match=r"enc1\.0\.linear"):
        read_unet(shapes)
