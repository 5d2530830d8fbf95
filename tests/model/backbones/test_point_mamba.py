"""PointMamba: the split of its first layer, and the form that training takes.

Its forms are held against afford-motion's numbers in tests/model/test_cdm.py.
"""

import torch
import torch.nn.functional as F
from golden import assert_close
from small_models import make_inputs, small_model

from cdm.model.backbones.base import join_columns
from cdm.model.point_order import gather_points


@torch.no_grad()
def test_eq_1_the_first_layer_is_a_sum_of_terms_of_its_columns():
    backbone = small_model("PointMamba", 5, torch.float64).contact_model
    x, _, c_text, xyz, feat = make_inputs(2, 33, 5, torch.float64)
    time_emb = torch.randn(2, 22, dtype=torch.float64)
    state = backbone.prepare(c_text, xyz, feat)
    x_t = gather_points(x, state.order)
    out = F.linear(x_t, backbone.embedding.net[0].weight[:, :6]) + state.static_proj
    out = out + backbone.time_proj(time_emb)[:, None]
    expected = backbone.embedding.net[0](join_columns(x, c_text, time_emb, xyz, feat))
    assert_close("first layer", gather_points(expected, state.order), out, 1e-12, 1e-12)


def test_gradients_of_training_are_those_of_the_naive_form():
    cdm = small_model("PointMamba", 5, torch.float64)
    inputs = make_inputs(2, 33, 5, torch.float64)
    gradients = []
    for form in (cdm.training_forward, cdm.naive_forward):
        cdm.zero_grad()
        form(*inputs).square().mean().backward()
        gradients.append({key: p.grad.clone() for key, p in cdm.named_parameters()})
    for key, expected in gradients[1].items():
        assert expected.any()
        assert_close(key, expected, gradients[0][key], 1e-9, 1e-12)
