"""PointTransV2: attention at its coarsest level, and text and time at three.

Its forms are held against afford-motion's numbers in test_point_trans.py.
"""

import torch
from golden import assert_close
from small_models import small_model


@torch.no_grad()
def test_the_coarsest_points_attend_to_each_other_alone():
    """Attention keeps no order: points that change places take their features with them."""
    backbone = small_model("PointTransV2").contact_model
    x = torch.randn(2, 9, 96, generator=torch.Generator().manual_seed(0))
    moved = torch.arange(8, -1, -1)
    out = backbone.mix(x)
    assert (out - x).abs().max() > 0.1
    assert_close("moved", out[:, moved], backbone.mix(x[:, moved]), 1e-5, 1e-5)
    x[0] += 1
    assert torch.equal(backbone.mix(x)[1], out[1])


def test_text_and_time_join_at_the_three_coarsest_levels():
    backbone = small_model("PointTransV2").contact_model
    assert [context[0].out_features for context in backbone.contexts()] == [32, 64, 96]
