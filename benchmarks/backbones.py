"""Time one denoising step of every backbone, ours beside the naive form.

    python benchmarks/backbones.py                     # on a GPU: 32 maps of 8192 points
    python benchmarks/backbones.py --device cpu        # on one map; --threads N

Sizes are afford-motion's defaults (each backbone's `defaults`), weights are untrained. On a GPU
ours is a step as chunk jobs run it, captured as a CUDA graph, noise and update included. The
baseline is the backbone's naive form, in which nothing is hoisted: columns repeated for every
point, torch's attention, flipped sequences, and whatever depends on the points alone (orders,
neighbours) made anew at each step. Needs no network and no package beside the project's own.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from denoising_step import milliseconds

from cdm.kernels import philox
from cdm.kernels.selective_scan import resolve_backend
from cdm.model.architecture import Architecture
from cdm.model.backbones import BACKBONES, load_backbone
from cdm.model.cdm import CDM
from cdm.model.point_order import gather_points
from cdm.noise import stream_key
from cdm.sampling.cuda_sampler import CudaSampler
from cdm.sampling.diffusion import create_diffusion
from cdm.sampling.samplers import ddpm_updates
from cdm.training.initial_weights import initial_state_dict

TEXT_FEAT_DIM, TIME_EMB_DIM, CONTACT_DIM = 512, 128, 6
POINT_FEAT_DIM = {"MLP": 32}  # afford-motion's MLP cannot do without
STEPS = 5  # of a chain that is timed


def default_model(arch: str) -> CDM:
    """afford-motion's default model with weights from a seed."""
    sizes = dict(load_backbone(arch).defaults)
    architecture = Architecture(
        arch=arch,
        contact_dim=CONTACT_DIM,
        time_emb_dim=TIME_EMB_DIM,
        text_feat_dim=TEXT_FEAT_DIM,
        point_feat_dim=POINT_FEAT_DIM.get(arch, 0),
        last_dim=sizes.pop("last_dim"),
        sizes=sizes,
    )
    cdm = CDM(architecture)
    state = initial_state_dict(architecture)
    cdm.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    return cdm.eval()


def make_inputs(cdm, batch: int, num_points: int, device: str) -> list[torch.Tensor]:
    """x, timesteps, c_text, c_pc_xyz and c_pc_feat where the model has features."""
    torch.manual_seed(0)
    inputs = [
        torch.randn(batch, num_points, CONTACT_DIM),
        torch.full((batch,), 250),
        F.normalize(torch.randn(batch, TEXT_FEAT_DIM), dim=1),
        4 * torch.rand(batch, num_points, 3),
    ]
    if cdm.architecture.point_feat_dim:
        inputs.append(torch.randn(batch, num_points, cdm.architecture.point_feat_dim))
    return [x.to(device) for x in inputs]


def gpu_step(cdm, inputs, repeats: int) -> float:
    """Milliseconds of a step of the captured sampling loop."""
    _, _, *given = inputs
    diffusion = create_diffusion(500)
    sampler = CudaSampler(cdm, ddpm_updates(diffusion), diffusion.original_num_steps)
    batch = len(given[0])
    keys = philox.device_keys([stream_key(0, "noise", "", i) for i in range(batch)], "cuda")
    sampler.capture(keys, *given)
    every = sampler.steps

    def run(steps):
        sampler.steps = every[:steps]
        return milliseconds(lambda: sampler(keys, *given), repeats)

    return (run(3 * STEPS) - run(STEPS)) / (2 * STEPS)  # without what is done once per batch


def measure(arch: str, options) -> dict:
    """One row of the table."""
    cdm = default_model(arch).to(options.device)
    inputs = make_inputs(cdm, options.batch, options.points, options.device)
    row = {
        "backbone": arch,
        "sizes": cdm.architecture.sizes,
        "point_feat_dim": cdm.architecture.point_feat_dim,
        "parameters": sum(p.numel() for p in cdm.parameters()),
    }
    for precision in options.precision:
        cdm.precision = precision
        both = (on_cpu if options.device == "cpu" else on_gpu)(cdm, inputs, options)
        row |= dict(zip((precision, f"{precision}, naive"), both, strict=False))
    row["fused kernels"] = cdm.condition(*inputs[2:]).fused
    return row


def on_gpu(cdm, inputs, options) -> list[float | None]:
    """Milliseconds of our step and of the naive form."""
    both = [_within_memory(lambda: gpu_step(cdm, inputs, options.repeats))]
    if not options.no_baseline:
        repeats = min(3, options.repeats)
        both.append(
            _within_memory(lambda: milliseconds(lambda: cdm.naive_forward(*inputs), repeats))
        )
    return both


def on_cpu(cdm, inputs, options) -> list[float]:
    """Milliseconds of our step and of the naive form, which take turns; the first turn warms up."""
    denoise, x = cdm.condition(*inputs[2:]), inputs[0]
    if denoise.order is not None:
        x = gather_points(x, denoise.order)
    both = [lambda: denoise(x, 250)]
    if not options.no_baseline:
        both.append(lambda: cdm.naive_forward(*inputs))
    times = [[_seconds(function) for function in both] for _ in range(1 + options.repeats)]
    return [1e3 * statistics.median(column) for column in zip(*times[1:], strict=True)]


def _seconds(function) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def _within_memory(function) -> float | None:
    """function(), or None where the GPU's memory does not suffice."""
    try:
        return function()
    except torch.OutOfMemoryError:
        return None
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def table(rows: list[dict], options) -> str:
    """Markdown."""
    per = f"{options.batch} map{'s' * (options.batch > 1)} of {options.points} points"
    heads = ["backbone", "parameters"]
    for precision in options.precision:
        heads += [f"{precision}, ms/step", f"naive {precision}, ms/step", "ratio"]
    lines = [f"{per}:", "", "| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    for row in rows:
        cells = [row["backbone"], f"{row['parameters'] / 1e6:.2f} M"]
        for precision in options.precision:
            ours, other = row[precision], row.get(f"{precision}, naive")
            cells += ["-" if ms is None else f"{ms:.{1 + (ms < 10)}f}" for ms in (ours, other)]
            cells.append(f"{other / ours:.1f}" if ours and other else "-")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES), choices=list(BACKBONES))
    parser.add_argument("--batch", type=int, help="maps; 32 on a GPU, 1 on a CPU")
    parser.add_argument("--points", type=int, default=8192)
    parser.add_argument("--precision", nargs="+", help="bf16 and fp32 on a GPU, fp32 on a CPU")
    parser.add_argument("--repeats", type=int, help="5 on a GPU, 1 on a CPU")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--no-baseline", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    options.batch = options.batch or (32 if on_gpu else 1)
    options.repeats = options.repeats or (5 if on_gpu else 1)
    options.precision = options.precision or (["bf16", "fp32"] if on_gpu else ["fp32"])
    torch.set_num_threads(options.threads)

    device = torch.cuda.get_device_name() if on_gpu else f"CPU, {options.threads} thread(s)"
    scan = resolve_backend(options.device, torch.float32)
    about = {"device": device, "torch": torch.__version__, "scan of the naive forms": scan}
    print(json.dumps(about), flush=True)
    rows = []
    with torch.inference_mode():
        for arch in options.backbones:
            rows.append(measure(arch, options))
            print(json.dumps(rows[-1]), flush=True)
    print(f"\n{table(rows, options)}")
    if options.json:
        content = about | {"batch": options.batch, "points": options.points, "rows": rows}
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
