"""Small models of every backbone with random weights, their inputs, and their configurations."""

from dataclasses import replace

import pytest
import torch
from golden import assert_close, conditions, forward_files, load_case
from helpers import demo_config, model_section, small_architecture

from cdm.kernels.pointwise import naive
from cdm.model.backbones import BACKBONES
from cdm.model.cdm import CDM
from cdm.model.checkpoint import expected_shapes

# Other layouts of a backbone than its usual small one.
VARIANTS = [
    *((arch, {}) for arch in BACKBONES),
    ("HybridMamba", {"use_multi_scan": False}),
    ("HybridMamba", {"use_perceiver": False}),
    ("HybridMamba", {"use_multi_scan": False, "use_perceiver": False}),
    ("Perceiver", {"point_pos_emb": False}),
    ("MLP", {"point_mlp_bias": False}),
    ("MLP", {"point_mlp_dims": [20]}),
]
every_backbone = pytest.mark.parametrize("arch", BACKBONES)
every_layout = pytest.mark.parametrize(("arch", "sizes"), VARIANTS)


def layout(arch, point_feat_dim=0, **sizes):
    """`small_architecture`, without the bottleneck's sizes where there is none."""
    architecture = small_architecture(arch, point_feat_dim, **sizes)
    if sizes.get("use_perceiver") is False:
        kept = {
            k: v for k, v in architecture.sizes.items() if k not in ("num_latents", "num_heads")
        }
        return replace(architecture, sizes=kept)
    return architecture


def small_model(arch, point_feat_dim=0, dtype=torch.float32, **sizes):
    """A small CDM with random weights, none of them zero or one."""
    with torch.random.fork_rng(devices=[]):  # the same model whatever was drawn before
        torch.manual_seed(0)
        cdm = CDM(layout(arch, point_feat_dim, **sizes))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, value in cdm.state_dict().items():
            if value.is_floating_point() and not key.endswith(("A_log", "pe")):
                noise = torch.randn(value.shape, generator=generator)
                fan_in = value[0].numel() if value.dim() > 1 else 10
                value.copy_(value * (value.dim() == 1) + noise * fan_in**-0.5)
                if key.endswith("running_var"):
                    value.abs_().add_(0.1)
    return cdm.eval().to(dtype)


def make_inputs(batch=3, num_points=64, point_feat_dim=0, dtype=torch.float32):
    """x, timesteps, c_text, c_pc_xyz and, unless the width is 0, c_pc_feat."""
    generator = torch.Generator().manual_seed(1)
    widths = [6, 3] + [point_feat_dim] * (point_feat_dim > 0)
    x, xyz, *feat = (
        torch.randn(batch, num_points, width, generator=generator).to(dtype) for width in widths
    )
    c_text = torch.randn(batch, 30, generator=generator).to(dtype)
    return x, torch.randint(0, 1000, (batch,), generator=generator), c_text, xyz, *feat


def shapes_and_config(arch, point_feat_dim=0, **section):
    """Shapes of a small model's weights, and a configuration with some of its sizes changed."""
    architecture = small_architecture(arch, point_feat_dim)
    told = model_section(architecture)
    told[f"arch_{arch.lower()}"] |= section
    return expected_shapes(architecture), demo_config(model=told)


@torch.no_grad()
def check_forms(parity, parity_index, case):
    """The fast and the naive form give afford-motion's numbers."""
    cdm = load_case(parity, case)
    tolerance = parity_index["tolerances"]["forward_fp32"]
    for arrays in forward_files(parity, case):
        inputs = [arrays["x"], arrays["timesteps"], *conditions(arrays)]
        assert_close(f"{case}, fast", arrays["out"], cdm(*inputs), **tolerance)
        assert_close(f"{case}, naive", arrays["out"], cdm.naive_forward(*inputs), **tolerance)


def fast_step(backbone, given):
    """What `forward_head` takes after x_t, of conditions: time_proj_t, state, a random head."""
    generator = torch.Generator().manual_seed(2)
    state, dtype = backbone.prepare(*given), given[0].dtype
    time_emb = torch.randn(len(given[0]), 22, generator=generator).to(dtype)
    width = backbone.last_linear[0].shape[1]
    head = torch.randn(6, width, generator=generator).to(dtype)
    bias = torch.randn(6, generator=generator).to(dtype)
    return backbone.time_proj(time_emb), state, (head, bias)


class HalfPointwise:
    """`cdm.kernels.pointwise.gpu.Pointwise` in float16, made of the naive forms, on the CPU."""

    embed, residual_head = naive.embed, naive.residual_head

    def embedding_norm(*inputs):
        return HalfPointwise.in_parts(naive.embedding_norm(*inputs))

    def residual_norm(*inputs):
        return HalfPointwise.in_parts(naive.residual_norm(*inputs))

    def in_parts(stream_and_norm):
        stream, norm = stream_and_norm
        high = norm.half()
        return stream, torch.cat([high, (norm - high.float()).half(), high], dim=-1)


def product_on_cpu(x, weight, dtype):
    """`point_mamba_cuda.product`, which has no such torch.mm on the CPU."""
    return torch.nn.functional.linear(x.to(dtype), weight.to(dtype))
