"""What a batch takes outside of its denoising steps on a GPU, and which part takes it.

    python benchmarks/per_map_work.py                              # every backbone, 18 steps
    python benchmarks/per_map_work.py --backbones PointMamba --batch 32 64 128 256

The parts are timed one by one, by events on the GPU. The whole is a stream of batches as a chunk
job runs them: collated ahead in a thread, sampled by `MapSampler`, turned into distances behind
it. Sizes are afford-motion's defaults (each backbone's `defaults`), weights are untrained, and the
items lie in memory, so that reading them takes no part.
"""

import argparse
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from backbones import CONTACT_DIM, TEXT_FEAT_DIM, default_model, make_inputs
from denoising_step import milliseconds

from cdm.commands.config_files import read_config
from cdm.contact import to_distance
from cdm.datasets import Item, Sample
from cdm.jobs.progress import Progress
from cdm.kernels import philox
from cdm.model.backbones import BACKBONES
from cdm.model.point_order import gather_points, hilbert_order
from cdm.noise import stream_key
from cdm.sampling.batches import batches, prefetch
from cdm.sampling.cuda_sampler import CudaSampler
from cdm.sampling.diffusion import create_diffusion
from cdm.sampling.map_sampler import MapSampler
from cdm.sampling.samplers import sampler_updates

METHOD = "dpmpp_2m_sde"
MEAN, STD = np.full(CONTACT_DIM, 0.2, np.float32), np.full(CONTACT_DIM, 0.3, np.float32)


def parts(cdm, batch: int, options) -> dict[str, float]:
    """Milliseconds of a batch on the GPU: its steps, and each part outside of them."""
    # The sampler as a chunk job has it.
    _, _, *given = make_inputs(cdm, batch, options.points, "cuda")
    diffusion = create_diffusion(500, "cosine", f"snr{options.steps}")
    sampler = CudaSampler(cdm, sampler_updates(METHOD, diffusion), diffusion.original_num_steps)
    keys = philox.device_keys([stream_key(0, "noise", "", i) for i in range(batch)], "cuda")
    sampler.capture(keys, *given)
    every = sampler.steps

    def run(number: int) -> float:
        sampler.steps = every[:number]
        return milliseconds(lambda: sampler(keys, *given), options.repeats)

    # Steps, and the call without them.
    whole, half = run(options.steps), run(options.steps // 2)
    steps = (whole - half) / (options.steps - options.steps // 2) * options.steps
    found = {"steps": steps, "call": whole - steps}

    # Parts of the call.
    def timed(function) -> float:
        return milliseconds(function, options.repeats)

    found["conditions"] = timed(lambda: sampler._denoise.rebind(*given))
    if sampler._denoise.order is not None:
        found["of them, Hilbert order"] = timed(lambda: hilbert_order(given[1]))
        found["un-sorting"] = timed(lambda: gather_points(sampler._x, sampler._denoise.inverse))
    found["first noise"] = timed(sampler._start)

    # What is around the call.
    pinned = [x.cpu().pin_memory() for x in given]
    found["copies in"] = timed(lambda: [x.to("cuda", non_blocking=True) for x in pinned])
    x_0 = torch.empty(batch, options.points, CONTACT_DIM, device="cuda")
    host = torch.empty(x_0.shape, pin_memory=True)
    found["copy out"] = timed(lambda: host.copy_(x_0, non_blocking=True))

    # The processor's part: to submit a batch, to collate it, and to make distances of its maps.
    torch.cuda.synchronize()
    started = time.perf_counter()
    sampler(keys, *given)
    found["processor: to submit it"] = 1e3 * (time.perf_counter() - started)
    torch.cuda.synchronize()
    return found


def stream(cdm, batch: int, options) -> dict[str, float]:
    """Milliseconds per batch of a stream of batches, and what its threads beside the GPU take."""
    config = read_config(
        [],
        [
            "exp_dir=demo",
            f"dataset={{num_points: {options.points}}}",
            f"diffusion={{steps: 500, timestep_respacing: snr{options.steps}}}",
            f"sampling={{method: {METHOD}, batch_size: {batch}}}",
        ],
    )
    rng, dim = np.random.default_rng(0), cdm.architecture.point_feat_dim
    samples = [Sample("H3D", str(i), 0, "walk") for i in range(batch * options.batches)]
    points = [4 * rng.random((options.points, 3), np.float32) for _ in range(batch)]
    features = rng.random((options.points, dim), np.float32)
    identity = np.eye(4, dtype=np.float32)
    items = [Item(s, points[i % batch], features, None, identity) for i, s in enumerate(samples)]
    text = {"walk": torch.randn(TEXT_FEAT_DIM, device="cuda")}
    sampler = MapSampler(cdm, config, text, "cuda")
    progress = Progress(len(samples), "batches", lambda line: None)
    spent = {"processor: to collate it": 0.0, "processor: distances": 0.0}

    def collate(group):
        started = time.perf_counter()
        made = sampler.collate(group)
        spent["processor: to collate it"] += time.perf_counter() - started
        return made

    def store(wait):
        maps = wait()
        started = time.perf_counter()
        for x_0 in maps:
            to_distance(x_0, MEAN, STD, config.dataset.sigma)
        spent["processor: distances"] += time.perf_counter() - started

    maps = zip(samples, items, [0] * len(samples), strict=True)
    with torch.inference_mode(), ThreadPoolExecutor(1) as writer:
        work = prefetch(map(collate, batches(maps, batch)))
        sampler.warm_up(next(work))
        torch.cuda.synchronize()
        started = time.perf_counter()
        stored = [writer.submit(store, sampler.start(made, progress)) for made in work]
        for each in stored:
            each.result()
        seconds = time.perf_counter() - started
    number = options.batches - 1  # the first one warmed up
    found = {name: 1e3 * value / options.batches for name, value in spent.items()}
    return found | {"whole": 1e3 * seconds / number, "GPU busy": sampler.gpu_busy(seconds)}


def report(arch: str, batch: int, found: dict[str, float], options) -> None:
    """Print one batch's parts, and the share of the steps."""
    whole, steps = found.pop("whole"), found.pop("steps")
    busy = found.pop("GPU busy")
    print(
        f"\n{arch} in {options.precision}, {batch} maps of {options.points} points, "
        f"{options.steps} steps: "
        f"{whole:.1f} ms a batch, {whole / batch:.3f} ms a map; steps {steps:.1f} ms, "
        f"{100 * steps / whole:.1f} % of it; GPU busy {100 * busy:.1f} %"
    )
    for name, ms in found.items():
        print(f"  {name:28}{ms:9.2f} ms{100 * ms / whole:7.2f} %", flush=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES), choices=list(BACKBONES))
    parser.add_argument("--batch", type=int, nargs="+", default=[64], help="maps; several to sweep")
    parser.add_argument("--points", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=18)
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--batches", type=int, default=9, help="of the stream")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    for arch in options.backbones:
        cdm = default_model(arch).cuda()
        cdm.precision = options.precision
        for batch in options.batch:
            try:
                with torch.inference_mode():
                    found = parts(cdm, batch, options)
                torch.cuda.empty_cache()
                report(arch, batch, found | stream(cdm, batch, options), options)
            except torch.OutOfMemoryError:
                print(f"\n{arch}, {batch} maps: out of memory")
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
