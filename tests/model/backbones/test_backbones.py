"""Every backbone of the registry: one function in every form, and what the sampler relies on."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from golden import assert_close, check_slots_and_threads
from helpers import (
    SMALL,
    demo_config,
    model_section,
    raw_config,
    relative_error,
    small_architecture,
)
from small_models import (
    every_backbone,
    every_layout,
    fast_step,
    layout,
    make_inputs,
    shapes_and_config,
    small_model,
)

from cdm.errors import CheckpointError
from cdm.kernels import philox
from cdm.model.backbones import BACKBONES, load_backbone
from cdm.model.backbones.base import map_tensors
from cdm.model.cdm import CDM
from cdm.model.checkpoint import expected_shapes, infer_architecture
from cdm.model.point_order import gather_points
from cdm.noise import stream_key
from cdm.sampling.cuda_sampler import CudaSampler
from cdm.sampling.diffusion import create_diffusion
from cdm.sampling.samplers import ddpm_updates, sample_loop
from cdm.training.initial_weights import initial_state_dict


def test_every_backbone_is_tested_and_may_be_configured():
    assert sorted(SMALL) == sorted(BACKBONES)
    sections = {load_backbone(arch).section for arch in BACKBONES} - {None}
    assert sections <= set(raw_config()["model"])


@every_layout
@pytest.mark.parametrize(("num_points", "point_feat_dim"), [(1, 0), (63, 0), (2, 5), (64, 40)])
@torch.no_grad()
def test_fast_form_is_the_naive_form(arch, sizes, num_points, point_feat_dim):
    """In float64; 40 features are more than the channels of the small Perceiver."""
    cdm = small_model(arch, point_feat_dim, torch.float64, **sizes)
    inputs = make_inputs(2, num_points, point_feat_dim, torch.float64)
    exact = cdm.naive_forward(*inputs)
    assert exact.std() > 0.1
    assert_close("float64", exact, cdm(*inputs), 1e-11, 1e-11)
    assert_close("training", exact, cdm.training_forward(*inputs), 1e-11, 1e-11)
    inputs = [x.float() if x.is_floating_point() else x for x in inputs]
    assert_close("float32", exact, cdm.float()(*inputs), 2e-5, 2e-5)


@every_backbone
@pytest.mark.parametrize("point_feat_dim", [0, 5])
def test_output_depends_on_neither_batch_nor_threads(arch, point_feat_dim):
    inputs = make_inputs(point_feat_dim=point_feat_dim)
    check_slots_and_threads(small_model(arch, point_feat_dim), inputs, thread_counts=(1, 2))


@every_backbone
@torch.no_grad()
@pytest.mark.parametrize(("precision", "limit"), [("bf16", 0.03), ("fp16", 0.00375)])
def test_16_bits_stay_near_fp32(arch, precision, limit):
    cdm, inputs = small_model(arch, 5), make_inputs(point_feat_dim=5)
    fp32 = cdm(*inputs)
    cdm.precision = precision
    out = cdm(*inputs)
    assert out.dtype == torch.float32 and not torch.equal(out, fp32)
    assert relative_error(out, fp32) < limit


@every_layout
def test_every_weight_learns(arch, sizes):
    cdm, inputs = small_model(arch, 5, **sizes), make_inputs(num_points=40, point_feat_dim=5)
    torch.nn.functional.mse_loss(cdm(*inputs), inputs[0]).backward()
    for key, p in cdm.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), key
        # A shift of keys is the same for all of a softmax.
        assert p.grad.any() or key.endswith("k_proj.bias"), key


@every_backbone
@torch.no_grad()
def test_conditions_can_be_replaced_in_place(arch):
    """As CUDA graphs need it: the same tensors, other numbers."""
    cdm, (x, _, *given) = small_model(arch, 5), make_inputs(point_feat_dim=5)
    denoise = cdm.condition(*given)
    other = [c.flip(0) for c in given]
    denoise.rebind(*other)
    fresh = cdm.condition(*other)
    assert torch.equal(denoise(x, 7), fresh(x, 7))


@every_layout
@torch.no_grad()
def test_a_step_waits_for_no_device(arch, sizes, monkeypatch):
    """As CUDA graphs need it. Meta tensors have no values: a look at one would raise."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: nullcontext())
    cdm, (x, _, *given) = small_model(arch, 5, **sizes), make_inputs(2, 64, 5)
    backbone = cdm.contact_model
    x, *step = map_tensors(lambda t: t.to("meta"), (x, *fast_step(backbone, given)))
    assert backbone.to("meta").forward_head(x, *step).shape == (2, 64, 6)


@every_layout
def test_a_training_step_waits_for_no_device(arch, sizes, monkeypatch):
    """Its gradients are one CUDA graph, too. Kernels that find neighbours have no meta form."""

    def farthest(xyz, count):
        return torch.zeros(len(xyz), count, dtype=torch.int64, device="meta")

    def nearest(xyz, queries, k):
        index = torch.zeros(*queries.shape[:2], k, dtype=torch.int64, device="meta")
        return index, index.float()

    monkeypatch.setattr(torch, "autocast", lambda *args, **options: nullcontext())
    monkeypatch.setattr("cdm.model.point_transformer.farthest_points", farthest)
    monkeypatch.setattr("cdm.model.point_transformer.nearest_neighbours", nearest)
    cdm = small_model(arch, 5, **sizes).train().to("meta")
    inputs = map_tensors(lambda t: t.to("meta"), tuple(make_inputs(2, 64, 5)))
    cdm.training_forward(*inputs).square().mean().backward()
    assert all(p.grad is not None and p.grad.is_meta for p in cdm.parameters())


@every_layout
@pytest.mark.parametrize("point_feat_dim", [0, 5])
def test_an_architecture_is_read_off_its_own_weights(arch, sizes, point_feat_dim):
    architecture = layout(arch, point_feat_dim, **sizes)
    shapes = {key: value.shape for key, value in initial_state_dict(architecture).items()}
    assert shapes == expected_shapes(architecture)
    config = demo_config(model=model_section(architecture))
    assert infer_architecture(shapes, config, "x.pt") == architecture
    # the same with nothing configured but what weights cannot tell
    section = dict.fromkeys(raw_config()["model"][load_backbone(arch).section])
    section |= {k: v for k, v in architecture.sizes.items() if k.endswith("num_heads")}
    model = model_section(architecture) | {load_backbone(arch).section: section}
    config = demo_config(model=model)
    assert infer_architecture(shapes, config, "x.pt") == architecture


@every_backbone
def test_default_sizes_are_a_models(arch):
    last_dim, sizes = (backbone := load_backbone(arch)).defaults["last_dim"], backbone.defaults
    architecture = replace(
        small_architecture(arch, 32),
        last_dim=last_dim,
        sizes={key: value for key, value in sizes.items() if key != "last_dim"},
    )
    shapes, config = expected_shapes(architecture), demo_config(model=model_section(architecture))
    assert infer_architecture(shapes, config, "x.pt") == architecture


@every_backbone
def test_seeded_weights_are_a_sane_start(arch):
    architecture = small_architecture(arch, 5)
    state = {k: torch.from_numpy(v.copy()) for k, v in initial_state_dict(architecture).items()}
    cdm = CDM(architecture)
    cdm.load_state_dict(state)
    with torch.no_grad():
        out = cdm.eval()(*make_inputs(point_feat_dim=5))
    assert out.isfinite().all() and 0.05 < out.std() < 20
    again = initial_state_dict(architecture)
    assert all((again[key] == value.numpy()).all() for key, value in state.items())


@every_backbone
@pytest.mark.parametrize("point_feat_dim", [0, 5])
def test_the_configuration_decides_between_text_models_of_equal_width(arch, point_feat_dim):
    architecture = replace(small_architecture(arch, point_feat_dim), text_feat_dim=768)
    shapes = expected_shapes(architecture)

    def infer(version):
        told = model_section(architecture) | {"text_model": {"version": version}}
        return infer_architecture(shapes, demo_config(model=told), "x.pt")

    assert infer("ViT-L/14@336px") == infer("bert-base-uncased") == architecture
    with pytest.raises(CheckpointError, match=r"check model\.text_model\.version \(ViT-B/32\)"):
        infer("ViT-B/32")


def test_what_the_dataset_says_of_features_is_part_of_what_is_remembered():
    shapes, config = shapes_and_config("PointMamba", 32)
    scene_model = replace(config.model.scene_model, point_feat_dim=None, use_openscene=None)
    config = replace(config, model=replace(config.model, scene_model=scene_model))
    assert infer_architecture(shapes, config, "x.pt").point_feat_dim == 32
    config = replace(config, dataset=replace(config.dataset, use_openscene=True))
    with pytest.raises(CheckpointError, match=r"model\.scene_model\.point_feat_dim"):
        infer_architecture(shapes, config, "x.pt")  # with "hashing", any width could be text


@pytest.mark.gpu
@every_layout
@pytest.mark.parametrize(
    ("precision", "limit"), [("fp32", 1e-4), ("bf16", 3e-2), ("fp16", 3.75e-3)]
)
@pytest.mark.parametrize("num_points", [65, 512])
@torch.inference_mode()
def test_a_gpu_gives_the_cpus_numbers(arch, sizes, precision, limit, num_points):
    cdm = small_model(arch, 5, torch.float64, **sizes)
    inputs = make_inputs(num_points=num_points, point_feat_dim=5)
    exact = cdm.naive_forward(*(x.double() if x.is_floating_point() else x for x in inputs))
    cdm = cdm.float().cuda()
    cdm.precision = precision
    out = cdm(*(x.cuda() for x in inputs))
    assert out.dtype == torch.float32
    assert relative_error(out, exact) < limit


@pytest.mark.gpu
@every_backbone
@pytest.mark.parametrize(("precision", "steps"), [("fp32", "10"), ("bf16", "3"), ("fp16", "3")])
@torch.inference_mode()
def test_a_cuda_graph_matches_the_loop_of_samplers_batch_after_batch(arch, precision, steps):
    cdm = small_model(arch, 5).cuda()
    cdm.precision = precision
    _, _, *given = (x.cuda() for x in make_inputs(point_feat_dim=5, num_points=128))
    diffusion = create_diffusion(500, "cosine", steps)
    updates, start = ddpm_updates(diffusion), diffusion.original_num_steps
    sampler = CudaSampler(cdm, updates, start)
    for turn, inputs in enumerate([given, [c.flip(0).contiguous() for c in given], given]):
        keys = [stream_key(1, "noise", "s", f"{turn % 2} {i}") for i in range(3)]
        keys = philox.device_keys(keys, "cuda")
        if turn == 0:
            sampler.capture(keys, *inputs)
        out = sampler(keys, *inputs)
        denoise = cdm.condition(*inputs)

        def noise(step, keys=keys, denoise=denoise):
            values = philox.normal(keys, step, 128, 6, "cuda")
            return values if denoise.order is None else gather_points(values, denoise.order)

        def loop(precision, inputs=inputs, noise=noise):
            cdm.precision = precision
            denoise = cdm.condition(*inputs)
            x_0 = sample_loop(updates, denoise, noise, start)
            return x_0 if denoise.inverse is None else gather_points(x_0, denoise.inverse)

        # Untrained weights magnify what bf16 rounds, from step to step: so few steps, and a limit
        # from how much the loop itself differs.
        exact, expected = loop("fp32"), loop(precision)
        limit = max(1e-4, 2 * relative_error(expected, exact))
        assert relative_error(out, expected) < limit < 0.3
        if turn == 0:
            first = out
    assert torch.equal(out, first)  # the third batch is the first one again


@pytest.mark.gpu
@every_backbone
@torch.inference_mode()
def test_a_map_does_not_depend_on_its_place_in_a_gpus_batch(arch):
    cdm = small_model(arch, 5).cuda()
    inputs = [x.cuda() for x in make_inputs(4, 128, 5)]
    out = cdm(*inputs)
    for shift in (1, 2, 3):
        moved = cdm(*[x.roll(shift, dims=0) for x in inputs])
        assert torch.equal(moved, out.roll(shift, dims=0))
