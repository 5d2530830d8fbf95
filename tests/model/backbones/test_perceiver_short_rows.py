"""Each equation of docs/exact-short-rows.md on the Perceiver, by the function that uses it."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from golden import assert_close
from small_models import fast_step, make_inputs, small_model
from torch import nn

from cdm.model.backbones.perceiver_short_rows import (
    EPS,
    added_by_attention,
    attention_gates,
    by_head,
    fold,
    inverse_std,
    make_basis,
    normalised_rows,
    on_coordinates,
    residual_head,
)


def close(name, expected, out):
    assert expected.std() > 1e-3 or expected.numel() == 1  # not a constant
    assert_close(name, expected, out, 1e-11, 1e-11)


def centred(x):
    return x - x.mean(dim=-1, keepdim=True)


@pytest.fixture(scope="module")
@torch.no_grad()
def decoder():
    """A small decoder's inputs and results, by the formula and as short rows, in float64."""
    backbone = small_model("Perceiver", 5, torch.float64).contact_model
    x, _, c_text, xyz, feat = make_inputs(2, 40, 5, torch.float64)
    _, state, _ = fast_step(backbone, [c_text, xyz, feat])
    layer, mlp = backbone.decoder_cross_attn
    tokens = torch.randn(2, 2, 40, generator=torch.Generator().manual_seed(3)).double()
    rows = backbone.decoder_adapter(
        backbone.encoder_adapter(torch.cat([x, feat, xyz], dim=-1))
    )  # (2, 40, channels)
    module = layer.module
    normed = module.kv_norm(tokens)
    k = module.attention.k_proj(normed).unflatten(-1, (module.heads, -1))
    v = module.attention.v_proj(normed).unflatten(-1, (module.heads, -1))
    y = state.decoder.coordinates(x)
    gates = attention_gates(y, k, state.decoder.Q, state.folded)
    added = added_by_attention(module.attention.o_proj, v, state.decoder.Q)
    P = torch.cat([gates, torch.ones_like(gates[..., :1])], dim=-1)
    return SimpleNamespace(
        module=module, mlp=mlp.module, state=state, Q=state.decoder.Q, tokens=tokens,
        rows=rows, after=layer(rows, tokens), k=k, y=y, gates=gates, P=P, added=added,
        y2=y + P @ added.in_basis,
    )  # fmt: skip


@torch.no_grad()
def test_eq_2_scale_and_shift_go_into_the_linear_layer():
    torch.manual_seed(0)
    norm, linear = nn.LayerNorm(9).double(), nn.Linear(9, 5).double()
    for weight in norm.parameters():
        nn.init.normal_(weight)
    a = 3 * torch.randn(20, 9, dtype=torch.float64) + 1
    weight, bias = fold(norm, linear)
    close("linear", linear(norm(a)), F.linear(F.layer_norm(a, [9], eps=norm.eps), weight, bias))


@pytest.mark.parametrize("channels", [24, 6])
def test_eq_8_features_are_coordinates_in_an_orthonormal_basis(channels):
    """With 24 channels, and with fewer than the 11 columns."""
    torch.manual_seed(0)
    weight = torch.randn(channels, 11, dtype=torch.float64)
    x, static = torch.randn(2, 30, 6).double(), torch.randn(2, 30, 5).double()
    basis = make_basis(weight, static)
    features = F.linear(torch.cat([x, static], dim=-1), weight)
    close("features", centred(features), basis.coordinates(x) @ basis.Q.t())
    identity = torch.eye(basis.Q.shape[1], dtype=torch.float64)
    assert_close("Q", identity, basis.Q.t() @ basis.Q, 1e-12, 1e-12)
    assert basis.Q.shape[1] == min(channels, 11)


def test_eq_9_layer_norm_divides_by_the_length_of_coordinates(decoder):
    expected = F.layer_norm(decoder.rows, decoder.rows.shape[-1:], eps=EPS)
    y = decoder.y * inverse_std(decoder.y, len(decoder.Q))
    close("normalised", expected, y @ decoder.Q.t())


@torch.no_grad()
def test_eq_10_scores_are_products_with_coordinates(decoder):
    """But for a number that all points of a head share."""
    heads, width = 4, 3
    torch.manual_seed(0)
    norm, k_proj = decoder.module.q_norm, nn.Linear(24, heads * width).double()
    query = torch.randn(2, heads * width, dtype=torch.float64)
    keys = k_proj(norm(decoder.rows)).unflatten(-1, (heads, width))
    expected = torch.einsum("bhd,bnhd->bhn", query.unflatten(-1, (heads, width)), keys)

    weight, bias = fold(norm, k_proj)
    u = on_coordinates(query, by_head(weight, heads) @ decoder.Q)
    y = decoder.y * inverse_std(decoder.y, len(decoder.Q))
    constant = (query * bias).unflatten(-1, (heads, width)).sum(-1)
    close("scores", expected, u @ y.mT + constant[..., None])
    assert constant.abs().max() > 0.01


def test_eq_11_a_number_added_to_all_scores_cancels_in_the_softmax():
    torch.manual_seed(0)
    z = torch.randn(3, 9, dtype=torch.float64)
    k = torch.tensor([[-7.0], [0.5], [30.0]], dtype=torch.float64)
    close("softmax", z.softmax(dim=-1), (z + k).softmax(dim=-1))


def scores(decoder):
    """The decoder's scores by its formula, (batch, num_points, heads, 2)."""
    attention, heads = decoder.module.attention, decoder.module.heads
    q = attention.q_proj(decoder.module.q_norm(decoder.rows)).unflatten(-1, (heads, -1))
    return torch.einsum("bnhd,bthd->bnht", q, decoder.k) * q.shape[-1] ** -0.5


def test_eq_13_a_softmax_of_two_is_a_sigmoid_of_the_difference(decoder):
    z = scores(decoder).detach()
    close("gates", z.softmax(dim=-1)[..., 0], (z[..., 0] - z[..., 1]).sigmoid())


def test_eq_14_gates_come_from_coordinates(decoder):
    z = scores(decoder).detach()
    close("difference of scores", z[..., 0] - z[..., 1], decoder.gates.logit())


@torch.no_grad()
def test_eq_15_attention_adds_what_is_linear_in_the_gates(decoder):
    added = decoder.added
    U = added.mean + added.in_basis @ decoder.Q.t() + added.off_basis
    close("added", decoder.module(decoder.rows, decoder.tokens), decoder.P @ U)


def test_eq_16_rows_after_attention_lie_in_the_basis_and_off_it(decoder):
    out = decoder.y2 @ decoder.Q.t() + decoder.P @ decoder.added.off_basis
    close("rows", centred(decoder.after).detach(), out)
    zero = decoder.added.off_basis @ decoder.Q
    assert decoder.added.off_basis.abs().max() > 0.1 and zero.abs().max() < 1e-12


def test_eq_17_lengths_in_the_basis_and_off_it_add_up(decoder):
    off = decoder.added.off_basis
    length = decoder.y2.square().sum(-1) + ((decoder.P @ (off @ off.mT)) * decoder.P).sum(-1)
    expected = decoder.after.detach().var(dim=-1, correction=0)
    close("variance", expected, length / len(decoder.Q))


@torch.no_grad()
def test_eq_18_short_rows_are_norm_and_first_layer_of_the_mlp(decoder):
    rows, weight = normalised_rows(decoder.y2, decoder.P, decoder.added, decoder.state.folded)
    close("hidden", decoder.mlp[:2](decoder.after), torch.bmm(rows, weight))


@torch.no_grad()
def test_eq_19_the_residual_passes_the_head_as_short_rows(decoder):
    torch.manual_seed(0)
    head = torch.randn(6, len(decoder.Q), dtype=torch.float64)
    mean = decoder.after.mean(dim=-1, keepdim=True)
    out = residual_head(mean, decoder.y2, decoder.P, decoder.added, decoder.Q, head)
    close("head", F.linear(decoder.after, head), out)
