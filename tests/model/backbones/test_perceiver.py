"""The Perceiver: its forms, and what weights do not tell of it."""

from dataclasses import replace

import pytest
import torch
from golden import assert_close
from small_models import check_forms, fast_step, make_inputs, shapes_and_config, small_model

from cdm.errors import CheckpointError
from cdm.model.checkpoint import infer_architecture


@pytest.mark.parametrize("case", ["04_perceiver_small", "04b_perceiver_default"])
def test_fast_and_naive_forms_match_afford_motion(parity, parity_index, case):
    check_forms(parity, parity_index, case)


@torch.no_grad()
def test_eq_12_tokens_read_a_weighted_mean_of_short_rows():
    """The encoder's latents in both forms."""
    backbone = small_model("Perceiver", 5, torch.float64).contact_model
    x, _, c_text, xyz, feat = make_inputs(2, 40, 5, torch.float64)
    _, state, _ = fast_step(backbone, [c_text, xyz, feat])
    time_emb = torch.randn(2, 22, dtype=torch.float64)
    out = backbone._encode(x, backbone.time_proj(time_emb), state)

    points = backbone.encoder_adapter(torch.cat([x, feat, xyz], dim=-1))
    tokens = backbone.language_adapter(c_text), backbone.time_embedding_adapter(time_emb)
    attention, mlp = backbone.encoder_cross_attn
    expected = backbone.encoder_self_attn(mlp(attention(torch.stack(tokens, dim=1), points)))
    assert_close("latents", expected, out, 1e-11, 1e-11)


def test_heads_that_weights_do_not_tell_must_be_configured():
    shapes, config = shapes_and_config("Perceiver", encoder_num_heads=7)
    with pytest.raises(CheckpointError, match=r"set model\.arch_perceiver\.encoder_num_heads"):
        infer_architecture(shapes, config, "x.pt")


def test_heads_of_a_perceiver_are_the_eight_of_afford_motion_by_default():
    shapes, config = shapes_and_config("Perceiver", encoder_num_heads=None, decoder_num_heads=None)
    sizes = infer_architecture(shapes, config, "x.pt").sizes
    assert sizes["encoder_num_heads"] == sizes["decoder_num_heads"] == 8


def test_positions_or_features_must_be_configured_where_weights_do_not_tell():
    shapes, config = shapes_and_config("Perceiver", 5, point_pos_emb=None)
    assert infer_architecture(shapes, config, "x.pt").sizes["point_pos_emb"]
    scene_model = replace(config.model.scene_model, point_feat_dim=None)
    config = replace(config, model=replace(config.model, scene_model=scene_model))
    with pytest.raises(CheckpointError, match=r"(?s)8 point features, or 5 .*point_pos_emb"):
        infer_architecture(shapes, config, "x.pt")


def test_features_of_the_scene_model_leave_the_positions():
    shapes, config = shapes_and_config("Perceiver", 32, point_pos_emb=None)
    scene_model = replace(config.model.scene_model, point_feat_dim=None, use_openscene=False)
    config = replace(config, model=replace(config.model, scene_model=scene_model))
    found = infer_architecture(shapes, config, "x.pt")
    assert found.sizes["point_pos_emb"] and found.point_feat_dim == 32


@pytest.mark.parametrize("point_pos_emb", [True, None])
def test_features_that_weights_do_not_have_are_told(point_pos_emb):
    shapes, config = shapes_and_config("Perceiver", 5, point_pos_emb=point_pos_emb)
    scene_model = replace(config.model.scene_model, use_scene_model=False, point_feat_dim=None)
    config = replace(config, model=replace(config.model, scene_model=scene_model))
    with pytest.raises(CheckpointError, match=r"30 \+ 5 columns .* configuration 30 \+ 0"):
        infer_architecture(shapes, config, "x.pt")
