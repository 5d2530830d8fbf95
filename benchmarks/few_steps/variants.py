"""Below 14 steps, what is best? Variants of SDE-DPM-Solver++ against the full chain.

    python benchmarks/few_steps/variants.py --out variants.json            # the demo's model
    python benchmarks/few_steps/variants.py --configfile mine.yaml --out variants.json

The variants are in `loops.py`. Each of them asks the model `evaluations` times a map.

The reference are the full chains (DDPM, all steps), drawn `--full-chains` times with seeds of their
own. They are kept in `--reference`, so that a second call need not draw them again. The rows of the
full chains compare each of them with the others. The file has one JSON row for each variant, number
of evaluations and seed; it is written after each row, and rows it holds are not drawn again.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from loops import VARIANTS, Loop, LoopRunner, Variant

from cdm.commands.config_files import read_config
from cdm.datasets import FileReader
from cdm.datasets.base import evenly_spread
from cdm.demo.scenes import write_demo
from cdm.evaluation.bootstrap import bootstrap
from cdm.evaluation.measure import MapMeasures, truth_of
from cdm.evaluation.metrics import energy_distance
from cdm.evaluation.summary import intervals
from cdm.jobs.device import choose_device, device_name
from cdm.run.dataset import open_dataset
from cdm.run.load import encode_texts, load_model, planned_statistics
from cdm.run.planning import make_plan
from cdm.sampling.batches import batches
from cdm.sampling.diffusion import create_diffusion
from cdm.sampling.map_sampler import MapSampler
from cdm.sampling.runners import Captured, Plain
from cdm.sampling.samplers import sampler_updates

PROJECTIONS = 64
FIRST_FULL_SEED = 1_000_000  # of the full chains: no seed that anybody names
MOST_WAITING = 2  # draws that may wait to be measured


class Bench:
    """The model, the items, and processes that measure maps."""

    def __init__(self, config, items: int | None, k: int, processes: int):
        if config.is_demo_data and not Path(config.data_dir).exists():
            write_demo(config.data_dir, config.dataset.phase)
        plan, samples = make_plan(config)
        self.config, self.k = config, k
        self.device = choose_device(config.gpu, print)
        self.model = load_model(plan, self.device)
        samples = evenly_spread(samples, items) if items else samples
        self.features = encode_texts(plan, [sample.text for sample in samples], self.device)
        dataset = open_dataset(config, plan.architecture.point_feat_dim)
        reader = FileReader(config.data_dir)
        self.items = [dataset.load(sample, reader) for sample in samples]
        truths = [truth_of(item, dataset, reader) for item in self.items]
        size = config.dataset.num_points * plan.architecture.contact_dim
        directions = np.random.default_rng(0).standard_normal((size, PROJECTIONS), np.float32)
        measures = MapMeasures(config, planned_statistics(plan).numbers(), chance=False)
        self.pool = ProcessPoolExecutor(
            processes,
            multiprocessing.get_context("spawn"),
            _start_measuring,
            (measures, truths, directions / np.sqrt(np.float32(directions.size))),
        )

    def draw(self, seed: int, make_runner):
        """Maps of all items: futures of (values, projections), one an item; seconds a map.

        Args:
            seed: of the noise.
            make_runner: model -> runner.
        """
        config = replace(self.config, seed=seed)
        sampler = MapSampler(self.model, config, self.features, self.device)
        runner, size = make_runner(self.model), config.sampling.batch_size
        entries = [(item.sample, item, k) for item in self.items for k in range(self.k)]
        seconds, drawn = 0.0, []
        with torch.inference_mode():
            for number, part in enumerate(batches(entries, size)):
                inputs = sampler._inputs(sampler.collate(part))
                if number == 0:  # compiles, captures, allocates
                    runner.prepare(inputs)
                    self._wait()
                started = time.perf_counter()
                x = runner.run(inputs, None)[: len(part)].float()
                self._wait()
                seconds += time.perf_counter() - started
                drawn.append(x.cpu().numpy())
        maps = np.concatenate(drawn).reshape(len(self.items), self.k, *drawn[0].shape[1:])
        if not np.isfinite(maps).all():
            raise SystemExit("the maps hold NaN or infinity")
        futures = [self.pool.submit(_measure, i, x) for i, x in enumerate(maps)]
        return futures, seconds / len(entries)

    def _wait(self):
        if self.device != "cpu":
            torch.cuda.synchronize()


def _start_measuring(*shared) -> None:
    global SHARED
    SHARED = shared
    torch.set_num_threads(1)


def _measure(i: int, maps: np.ndarray) -> tuple[dict, np.ndarray]:
    """Values and projections of the maps of item i."""
    measures, truths, directions = SHARED
    return measures(maps, truths[i]), measures.contact(maps).reshape(len(maps), -1) @ directions


def gather(futures, names=None) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, values (items, names) and projections (items, k, directions) of a draw."""
    entries = [future.result() for future in futures]
    names = names or sorted({name for values, _ in entries for name in values})
    values = [[row.get(name, np.nan) for name in names] for row, _ in entries]
    return names, np.array(values), np.stack([projection for _, projection in entries])


def compare(names, values, projections, full_values, full_projections, config) -> dict:
    """How a draw differs from full chains.

    Args:
        names: of the measures.
        values: (items, names). projections: (items, k, directions).
        full_values, full_projections: the same of the full chains, in one more axis in front.
    """
    options = {key: getattr(config, key) for key in ("resamples", "confidence", "seed")}
    pooled = full_values.mean(0)
    band = intervals(pooled, names, config)
    found = intervals(values, names, config)
    outside = [name for name in names if found[name].value not in band[name]]
    others = np.concatenate(list(full_projections), axis=1)
    distances = [energy_distance(x, y) for x, y in zip(projections, others, strict=True)]
    [energy] = bootstrap(np.array(distances)[:, None], **options)
    j = names.index("diversity")
    return {
        "diversity_ratio": float(values[:, j].mean() / pooled[:, j].mean()),
        "energy_distance": [energy.value, energy.low, energy.high],
        "num_outside": len(outside),
        "outside": outside,
    }


def describe(row: dict) -> str:
    """A row of the file as one line."""
    energy, low, high = row["energy_distance"]
    return (
        f"{row['name']:28} {row['evaluations']:4} seed {row['seed']}: "
        f"diversity {row['diversity_ratio']:.3f}, energy {energy:.4f} ({low:.4f}, {high:.4f}), "
        f"{row['num_outside']:2} outside, {row['ms_per_map']:.3f} ms"
    )


# ---- the command --------------------------------------------------------------------------------


def full_chains(bench: Bench, path: Path, count: int):
    """Names, values (chains, items, names) and projections of the full chains, kept in a file."""
    kept = dict(np.load(path)) if path.exists() else {}
    d = bench.config.diffusion
    made_with = json.dumps([d.steps, d.noise_schedule, len(bench.items), bench.k])
    if kept and (str(kept["made_with"]) != made_with or len(kept["values"]) < count):
        raise SystemExit(f"{path}: of other settings, items or maps; name another --reference")
    if not kept:
        draws = []
        for chain in range(count):
            futures, seconds = bench.draw(
                FIRST_FULL_SEED + chain, lambda model: _runner(model, bench, "ddpm", "")
            )
            draws.append((*gather(futures, draws and draws[0][0]), seconds))
            print(f"full chain {chain + 1} of {count}: {1000 * seconds:.3f} ms a map", flush=True)
        names, values, projections, seconds = zip(*draws, strict=True)
        kept = {
            "made_with": made_with,
            "names": np.array(names[0]),
            "values": np.stack(values),
            "projections": np.stack(projections),
            "seconds": np.array(seconds),
        }
        np.savez(path, **kept)
    chains = (kept[key][:count] for key in ("values", "projections", "seconds"))
    return kept["names"].tolist(), *chains


def _runner(model, bench: Bench, method: str, respacing):
    """The project's own runner of one of its samplers."""
    d = bench.config.diffusion
    diffusion = create_diffusion(d.steps, d.noise_schedule, respacing)
    runner = Plain if bench.device == "cpu" else Captured
    return runner(model, diffusion, sampler_updates(method, diffusion))


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the rows")
    parser.add_argument("--reference", type=Path, help="the full chains; default: OUT.full.npz")
    parser.add_argument("--configfile", nargs="*", default=[], help="default: the demo")
    parser.add_argument(
        "--config", nargs="*", default=["dataset={phase: test}"], help="default: phase test"
    )
    parser.add_argument("--items", type=int, help="spread over the split; default: all")
    parser.add_argument("--k", type=int, default=16, help="maps of an item")
    parser.add_argument("--evaluations", type=int, nargs="*", default=[8, 10])
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--full-chains", type=int, default=3)
    parser.add_argument("--gpu-batches", type=int, default=256, help="maps of one batch")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="that measure")
    parser.add_argument("--only", nargs="*", help="names of variants; default: all")
    return parser.parse_args()


def main():
    """Draw, measure and write every row that is not there."""
    options = parse()
    config = read_config(options.configfile, options.config)
    config = replace(config, sampling=replace(config.sampling, batch_size=options.gpu_batches))
    bench = Bench(config, options.items, options.k, options.processes)
    d = config.diffusion
    diffusion, device = create_diffusion(d.steps, d.noise_schedule), device_name(bench.device)

    # The full chains, each against the others.
    reference = options.reference or options.out.with_suffix(".full.npz")
    names, full_values, full_projections, full_s = full_chains(
        bench, reference, options.full_chains
    )
    rows = json.loads(options.out.read_text()) if options.out.exists() else []
    done = {(row["name"], row["evaluations"], row["seed"]) for row in rows}

    def write(name: str, evaluations: int, seed: int, measured, seconds: float, full=slice(None)):
        known = full_values[full], full_projections[full]
        row = {"name": name, "evaluations": evaluations, "seed": seed}
        row |= compare(names, *measured, *known, config.evaluation)
        rows.append(row | {"ms_per_map": 1000 * float(seconds), "device": device})
        options.out.write_text(json.dumps(rows, indent=1) + "\n")
        print(describe(rows[-1]), flush=True)

    for chain in range(len(full_values)):
        others = [i for i in range(len(full_values)) if i != chain]
        if others and ("full chain", d.steps, chain) not in done:
            measured = full_values[chain], full_projections[chain]
            write("full chain", d.steps, chain, measured, full_s[chain], others)

    # The project's own sampler, whose steps are one CUDA graph, and the variants.
    waiting = deque()

    def finish(most: int):
        while len(waiting) > most:
            name, evaluations, seed, futures, seconds = waiting.popleft()
            write(name, evaluations, seed, gather(futures, names)[1:], seconds)

    for seed in options.seeds:
        for evaluations in options.evaluations:
            for name in ["dpmpp_2m_sde", *VARIANTS]:
                if (name, evaluations, seed) in done or name not in (options.only or [name]):
                    continue
                loop = Loop(VARIANTS.get(name, Variant()), diffusion, evaluations)

                def make_runner(model, name=name, loop=loop, evaluations=evaluations):
                    if name in VARIANTS:
                        return LoopRunner(model, diffusion, loop)
                    return _runner(model, bench, name, f"snr{evaluations}")

                futures, seconds = bench.draw(seed, make_runner)
                assert name not in VARIANTS or loop.evaluations == evaluations, loop.evaluations
                waiting.append((name, evaluations, seed, futures, seconds))
                finish(MOST_WAITING)
    finish(0)


if __name__ == "__main__":
    main()
