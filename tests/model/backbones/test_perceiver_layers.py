"""The Perceiver's layers against torch's."""

import torch
from golden import assert_close
from torch import nn

from cdm.model.backbones.perceiver_layers import Attention, Residual, SelfAttention, residual_mlp


@torch.no_grad()
def test_attention_is_torchs_with_wider_queries_than_keys():
    torch.manual_seed(0)
    ours, theirs = Attention(24, 10, 4), nn.MultiheadAttention(24, 4, kdim=10, vdim=10)
    for name in "qkv":
        getattr(theirs, f"{name}_proj_weight").copy_(getattr(ours, f"{name}_proj").weight)
    theirs.in_proj_bias.copy_(torch.cat([getattr(ours, f"{n}_proj").bias for n in "qkv"]))
    theirs.out_proj.load_state_dict(ours.o_proj.state_dict())
    q, kv = torch.randn(2, 7, 24), torch.randn(2, 9, 10)
    expected, _ = theirs(q.transpose(0, 1), *[kv.transpose(0, 1)] * 2, need_weights=False)
    for training in (True, False):  # the formula itself, and torch's fused attention
        out = ours.train(training)(q, kv)
        assert_close("attention", expected.transpose(0, 1), out, 1e-5, 1e-6)


@torch.no_grad()
def test_dropout_takes_attention_weights_in_training_alone():
    """Of values that are all 1, what is left of the weights shows; they are scaled to mean 1."""
    torch.manual_seed(0)
    layer = Attention(8, 8, 2)
    for name in ("v_proj", "o_proj"):
        getattr(layer, name).weight.copy_(torch.eye(8))
        getattr(layer, name).bias.zero_()
    layer.k_proj.weight.zero_()  # all weights alike, 1 / 1000
    q, kv = torch.randn(50, 1, 8), torch.ones(50, 1000, 8)
    layer.dropout = 0.25
    dropped = layer(q, kv)
    assert 0.005 < dropped.std() < 0.05 and abs(dropped.mean() - 1) < 0.01
    torch.testing.assert_close(layer.eval()(q, kv), torch.ones(50, 1, 8))


@torch.no_grad()
def test_residuals_are_added_to_what_comes_in():
    torch.manual_seed(0)
    x = torch.randn(2, 5, 8)
    inner = SelfAttention(8, 2)
    assert torch.equal(Residual(inner)(x), x + inner.attention(inner.norm(x), inner.norm(x)))
    mlp = residual_mlp(8, 3)
    assert mlp.module[1].out_features == 24
    assert torch.equal(mlp(x), x + mlp.module(x))
