"""What every backbone inherits, and the helpers of its forms."""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from golden import assert_close
from small_models import fast_step, make_inputs, small_model

from cdm.model.backbones.base import head_product, join_columns, map_tensors


@pytest.mark.parametrize("arch", ["PointMamba", "Perceiver"])
@torch.no_grad()
def test_eq_3_the_head_takes_in_the_last_layer(arch):
    """With the default `forward_head`, and with one of the backbone's own."""
    backbone = small_model(arch, 5, torch.float64).contact_model
    x, _, *given = make_inputs(2, 33, 5, torch.float64)
    time_proj_t, state, _ = fast_step(backbone, given)
    weight, bias = backbone.last_linear
    H, k = torch.randn(6, len(weight)).double(), torch.randn(6).double()
    expected = F.linear(backbone(x, time_proj_t, state), H, k)
    out = backbone.forward_head(x, time_proj_t, state, (H @ weight, H @ bias + k))
    assert_close("head", expected, out, 1e-12, 1e-12)


class Kernels:
    """Stands for fused kernels; unavailable for a backbone with a `problem`."""

    def __init__(self, backbone, dtype):
        self.arguments = backbone, dtype

    @staticmethod
    def unavailable(backbone):
        return getattr(backbone, "problem", None)


def test_fused_kernels_are_taken_where_they_are_available(monkeypatch):
    backbone = small_model("MLP").contact_model
    assert backbone.compile_fused(torch.float32) is None  # MLP has none
    monkeypatch.setattr(type(backbone), "kernels", Kernels)
    fused = backbone.compile_fused(torch.bfloat16)
    assert isinstance(fused, Kernels) and fused.arguments == (backbone, torch.bfloat16)
    backbone.problem = "it is too small"
    assert backbone.compile_fused(torch.bfloat16) is None


def test_columns_of_a_sample_are_joined_to_every_point():
    x, text = torch.arange(12.0).view(2, 3, 2), torch.tensor([[7.0], [8.0]])
    out = join_columns(x, None, text)
    assert torch.equal(out[..., :2], x)
    assert out[..., 2].tolist() == [[7, 7, 7], [8, 8, 8]]


def test_a_head_accumulates_in_its_own_dtype_under_autocast():
    features, weight = torch.randn(2, 5, 64).bfloat16(), torch.randn(6, 64)
    with torch.autocast("cpu", torch.bfloat16):
        out = head_product(features, weight)
    assert out.dtype == torch.float32 and torch.equal(out, F.linear(features.float(), weight))


class Pair(NamedTuple):
    left: object
    right: object


def test_a_tree_keeps_its_form_and_what_is_no_tensor():
    tree = Pair((torch.ones(2), "name"), Pair(None, torch.zeros(1)))
    out = map_tensors(torch.add, tree, Pair((torch.ones(2), 0), Pair(0, torch.ones(1))))
    assert isinstance(out, Pair) and isinstance(out.right, Pair)
    assert out.left[0].tolist() == [2, 2] and out.left[1] == "name"
    assert out.right.left is None and out.right.right.tolist() == [1]
    with pytest.raises(ValueError, match="zip"):
        map_tensors(torch.add, (tree.left[0],), ())
