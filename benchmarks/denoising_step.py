"""Time one denoising step on a GPU, ours beside afford-motion's composition of mamba_ssm's blocks.

    python benchmarks/denoising_step.py                       # 32 maps of 8192 points
    python benchmarks/denoising_step.py --batch 64 --profile  # and where the time goes

The baseline does what afford-motion does at every step: it concatenates the conditions of every
point, sorts the points, and runs `mamba_ssm.Mamba` twice per layer, once on the flipped sequence.
It needs the package mamba-ssm with its CUDA kernels; without it the ratio is left out.
"""

import argparse
import statistics

import torch
import torch.nn.functional as F
from torch import nn

from cdm.kernels import philox
from cdm.model.architecture import Architecture
from cdm.model.cdm import CDM
from cdm.model.denoiser import DTYPES
from cdm.model.point_order import gather_points, hilbert_order
from cdm.noise import stream_key
from cdm.sampling.cuda_sampler import CudaSampler
from cdm.sampling.diffusion import create_diffusion
from cdm.sampling.samplers import ddpm_updates
from cdm.training.initial_weights import initial_state_dict

TEXT_FEAT_DIM, TIME_EMB_DIM, CONTACT_DIM = 512, 128, 6


def architecture(trans_dim: int, depth: int) -> Architecture:
    """A PointMamba of afford-motion's proportions, conditioned on text alone."""
    return Architecture(
        arch="PointMamba",
        contact_dim=CONTACT_DIM,
        time_emb_dim=TIME_EMB_DIM,
        text_feat_dim=TEXT_FEAT_DIM,
        point_feat_dim=0,
        last_dim=trans_dim,
        sizes={
            "trans_dim": trans_dim,
            "depth": depth,
            "hidden_dim": 128,
            "d_inner": 2 * trans_dim,
            "d_state": 16,
            "d_conv": 4,
            "dt_rank": -(-trans_dim // 16),
        },
    )


class ReferenceComposition(nn.Module):
    """The whole step as afford-motion composes it, with the weights of a CDM.

    Args:
        cdm: its modules are used, all but the Mamba blocks.
        mamba: class of the blocks, `mamba_ssm.Mamba`.
    """

    def __init__(self, cdm, mamba):
        super().__init__()
        sizes = cdm.architecture.sizes
        self.cdm, self.blocks = cdm, nn.ModuleList()
        for layer in cdm.contact_model.layers:
            block = mamba(sizes["trans_dim"], d_state=sizes["d_state"], d_conv=4, expand=2)
            block.load_state_dict(layer.mamba.state_dict(), strict=True)
            self.blocks.append(block.to(layer.norm.weight.device))

    def forward(self, x, timesteps, c_text, c_pc_xyz):
        """pred_xstart, points in their given order."""
        backbone = self.cdm.contact_model
        time_emb = self.cdm.timestep_embedder(timesteps)
        everywhere = [c[:, None].expand(-1, x.shape[1], -1) for c in (c_text, time_emb)]
        s = backbone.embedding.net(torch.cat([x, *everywhere, c_pc_xyz], dim=-1))
        _, order, inverse = hilbert_order(c_pc_xyz)
        s = gather_points(s, order)
        for layer, block in zip(backbone.layers, self.blocks, strict=True):
            forward = block(layer.norm(s))
            backward = block(layer.norm(s.flip(1))).flip(1)
            s = s + forward + backward
        return self.cdm.contact_layer(backbone.out_proj(gather_points(s, inverse)))


def milliseconds(function, repeats: int) -> float:
    """Median time of a call on the device."""
    for _ in range(min(3, repeats)):
        function()
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        function()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def baselines(cdm, inputs, repeats):
    """Rows of afford-motion's composition: fp32, with TF32, and with bf16 autocast."""
    try:
        from mamba_ssm import Mamba
    except ImportError as error:
        print(f"no baseline: mamba_ssm cannot be imported ({error})")
        return
    model = ReferenceComposition(cdm, Mamba).eval()
    for name, tf32, bf16 in (("fp32", 0, 0), ("fp32, TF32", 1, 0), ("bf16 autocast", 0, 1)):
        torch.backends.cuda.matmul.allow_tf32 = bool(tf32)
        torch.cuda.reset_peak_memory_stats()
        with torch.autocast("cuda", torch.bfloat16, enabled=bool(bf16)):
            out = model(*inputs)
            ms = milliseconds(lambda: model(*inputs), repeats)
        yield f"mamba_ssm, {name}", ms, torch.cuda.max_memory_allocated(), out.float()
    torch.backends.cuda.matmul.allow_tf32 = False


def ours(cdm, inputs, precision, repeats):
    """One row: a step of the sampler as chunk jobs run it, noise and update included."""
    x, _, c_text, c_pc_xyz = inputs
    cdm.precision = precision
    torch.cuda.reset_peak_memory_stats()
    out = cdm(*inputs)
    diffusion = create_diffusion(500)
    sampler = CudaSampler(cdm, ddpm_updates(diffusion), diffusion.original_num_steps)
    keys = philox.device_keys([stream_key(0, "noise", "", i) for i in range(len(x))], "cuda")
    sampler.capture(keys, c_text, c_pc_xyz)
    steps = sampler.steps
    sampler.steps = steps[:10]  # a chain of ten steps is timed, from its start
    ms = milliseconds(lambda: sampler(keys, c_text, c_pc_xyz), repeats) / 10
    return f"ours, {precision}", ms, torch.cuda.max_memory_allocated(), out


def profile(cdm, inputs, precision):
    """Print the kernels of one step in bf16 or fp16 with their rates."""
    x, timesteps, c_text, c_pc_xyz = inputs
    cdm.precision = precision
    denoise = cdm.condition(c_text, c_pc_xyz)
    denoise(x, timesteps)
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities, acc_events=True) as trace:
        denoise(x, timesteps)
        torch.cuda.synchronize()
    sizes = cdm.architecture.sizes
    points, d, e = x.shape[0] * x.shape[1], sizes["trans_dim"], sizes["d_inner"]
    row = sizes["d_state"] * 2 + -(-sizes["dt_rank"] // 16) * 16
    # Bytes of a number that is added to the stream, of one of a norm, and of one of z.
    term, norm, gate = (4, 6, 4) if precision == "fp16" else (2, 2, 2)
    # Bytes that must be moved, and what else bounds a call; products go by their columns.
    work = {
        "bidirectional_scan": (points * (2 * (2 * e + 2 * row) + 4 * e + gate * e), "2 directions"),
        "conv_projection": (points * 2 * (e + 2 * e + 2 * row), ""),
        "bidirectional_conv": (points * 2 * (e + 2 * e), ""),
        "residual_norm": (points * (term * d + 4 * d + 4 * d + norm * d), ""),
        "embedding_norm": (points * (term * d + 4 * d + norm * d), ""),
        "residual_head": (points * (term * d + 4 * d + 4 * x.shape[2]), ""),
        "embed": (points * (4 * 128 + term * 128 + 4 * x.shape[2]), ""),
    }
    print(f"\n{precision + ', kernel':52}{'calls':>6}{'ms a call':>11}{'ms a step':>11}{'TB/s':>7}")
    events = sorted(trace.key_averages(), key=lambda event: -event.self_device_time_total)
    for event in events:
        if event.self_device_time_total < 10:
            continue
        ms = event.self_device_time_total / 1e3
        moved = work.get(event.key, (0, ""))[0] * event.count
        rate = f"{moved / ms / 1e9:.2f}" if moved else ""
        print(f"{event.key[:50]:52}{event.count:6}{ms / event.count:11.3f}{ms:11.3f}{rate:>7}")
    exps = 2 * points * e * sizes["d_state"]
    print(f"exponentials of the states: {exps / 1e9:.2f}e9 a block; 16 a clock and multiprocessor")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[32], help="maps; several to sweep")
    parser.add_argument("--points", type=int, default=8192)
    parser.add_argument("--trans-dim", type=int, default=256)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--precision", nargs="+", default=["bf16", "fp16", "fp32"], choices=DTYPES)
    parser.add_argument("--no-baseline", action="store_true")
    parser.add_argument("--error", action="store_true", help="against float64, on the CPU: slow")
    parser.add_argument("--memory-gb", type=float, help="pretend that the GPU has only so much")
    parser.add_argument("--profile", action="store_true", help="the kernels of one step in 16 bits")
    options = parser.parse_args()
    if options.memory_gb:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(options.memory_gb * 2**30 / total)

    torch.manual_seed(0)
    cdm = CDM(architecture(options.trans_dim, options.depth))
    state = initial_state_dict(cdm.architecture)
    cdm.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    cdm = cdm.cuda().eval()
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}; {options.points} points, "
        f"trans_dim {options.trans_dim}, depth {options.depth}"
    )
    columns = f"{'batch':>6}{'ms/step':>9}{'ms/map':>8}{'ratio':>7}{'peak GB':>9}{'rel. error':>12}"
    print(f"{'':26}{columns}")
    for batch in options.batch:
        inputs = (
            torch.randn(batch, options.points, CONTACT_DIM, device="cuda"),
            torch.full((batch,), 250, device="cuda"),
            F.normalize(torch.randn(batch, TEXT_FEAT_DIM, device="cuda"), dim=1),
            4 * torch.rand(batch, options.points, 3, device="cuda"),
        )
        with torch.inference_mode():
            rows = []
            if not options.no_baseline:
                rows += baselines(cdm, inputs, options.repeats)
            rows += [ours(cdm, inputs, p, options.repeats) for p in options.precision]
            exact = _exact(cdm, inputs) if options.error else None
            for name, ms, peak, out in rows:
                ratio = f"{rows[0][1] / ms:.1f}" if rows[0][0].startswith("mamba") else ""
                error = ""
                if exact is not None:
                    error = f"{float((out[:1].double().cpu() - exact).norm() / exact.norm()):.1e}"
                print(
                    f"{name:26}{batch:6}{ms:9.2f}{ms / batch:8.3f}{ratio:>7}{peak / 2**30:9.2f}"
                    f"{error:>12}",
                    flush=True,
                )
            if options.profile:
                for precision in options.precision:
                    if precision != "fp32":
                        profile(cdm, inputs, precision)


def _exact(cdm, inputs):
    """The first map in float64 on the CPU, by the naive form."""
    with torch.inference_mode(False), torch.no_grad():
        double = CDM(cdm.architecture, scan_backend="chunked").double()
        double.load_state_dict(cdm.state_dict())
        first = [x[:1].clone().cpu() for x in inputs]
        first = [x.double() if x.is_floating_point() else x for x in first]
        return double.naive_forward(*first)


if __name__ == "__main__":
    main()
