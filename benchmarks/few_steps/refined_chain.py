"""Is the full chain itself too coarse? The same model, asked at fractions of a step.

    python benchmarks/few_steps/refined_chain.py draw --configfile mine.yaml --process 0 --of 1
    python benchmarks/few_steps/refined_chain.py judge --configfile mine.yaml

A chain of T steps is one way to compute the reverse process of a model, with an error of its own.
This draws the same model with a chain of R T steps, so that its error is R times smaller where the
steps are R times finer. Step j of the fine chain is t = (j + 1) / R - 1 of the training's chain:
the noise level is that of the schedule at t, and the row of the sinusoidal time table is computed
at t. The model was trained on whole t only, so `draw` first prints how the error of one prediction
goes from one whole t to the next.

The fine chain steps by 1 / R from t = T - 1 down to `--fine-from`, and by 1 below. It is drawn
three times and pooled, and the rule of the study holds the others against it: the training's own
chain, and the fast samplers, on their own time grids. All draws have noise of their own.

Processes share the draws and may share a GPU. What is finished is kept, round by round.
"""

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from draw import share
from held_out import judge, read

from cdm.commands.config_files import read_config
from cdm.evaluation.study import Setting
from cdm.evaluation.study_rule import ENERGY
from cdm.evaluation.study_run import Study
from cdm.model.point_order import gather_points
from cdm.run.planning import make_plan
from cdm.sampling.diffusion import GaussianDiffusion, get_named_beta_schedule
from cdm.sampling.grids import choose_timesteps
from cdm.sampling.map_sampler import MapSampler
from cdm.sampling.samplers import sampler_updates

FINE, WHOLE = "fine", "whole"  # the fine chain, and the training's own
CHECKED = (0.99, 0.95, 0.9, 0.8)  # fractions of T at which single predictions are looked at


@dataclass(frozen=True)
class Chains:
    """The steps of each setting, as rows of the fine chain.

    Attributes:
        betas: (T,) of the training's chain.
        fine_betas: (R T,).
        times: (R T,) float64, t of each row; rows below t = 0 stand for t = 0.
    """

    betas: np.ndarray
    fine_betas: np.ndarray
    times: np.ndarray
    parts: int
    fine_from: int

    @classmethod
    def of(cls, config, parts: int, fine_from: int) -> "Chains":
        steps, schedule = config.diffusion.steps, config.diffusion.noise_schedule
        fine = get_named_beta_schedule(schedule, parts * steps)
        times = np.maximum(0, (np.arange(parts * steps) + 1) / parts - 1)
        return cls(get_named_beta_schedule(schedule, steps), fine, times, parts, fine_from)

    def rows(self, respacing: str) -> list[int]:
        """The rows of a setting, cleanest first."""
        if respacing == FINE:
            whole = self.whole(range(self.fine_from))
            return whole + list(range(whole[-1] + 1, len(self.times)))
        if respacing == WHOLE:
            return self.whole(range(len(self.betas)))
        return self.whole(sorted(choose_timesteps(self.betas, respacing)))

    def whole(self, steps) -> list[int]:
        """The rows of whole steps t."""
        return [self.parts * (t + 1) - 1 for t in steps]

    def diffusion(self, respacing: str) -> GaussianDiffusion:
        return GaussianDiffusion(self.fine_betas, self.rows(respacing))


def time_table(table: np.ndarray, times: np.ndarray) -> np.ndarray:
    """A model's sinusoidal time table between its rows: (len(times), dim) from (T, dim).

    A model that began with the weights of a longer chain has a table whose positions are not t, but
    those of the same noise in that chain. They are read off the slowest sinusoid.
    """
    dim = table.shape[1]
    rates = np.exp(np.arange(0, dim, 2) * (-np.log(1e4) / dim))

    def rows(positions):
        angle = positions[:, None] * rates
        return np.stack((np.sin(angle), np.cos(angle)), axis=-1).reshape(len(angle), dim)

    slowest = np.arctan2(table[:, -2].astype(np.float64), table[:, -1])
    positions = np.round(slowest / rates[-1])
    np.testing.assert_allclose(rows(positions), table, atol=1e-3)
    return rows(np.interp(times, np.arange(len(table)), positions))


class FineStudy(Study):
    """A study whose settings are chains of `Chains`."""

    def __init__(self, plan, log, threads: int, device: str, chains: Chains):
        super().__init__(plan, log, threads, device)
        self.chains = chains
        embedder = self.model.timestep_embedder
        table = embedder.pe[: len(chains.betas), 0].cpu().numpy()
        embedder.pe = torch.from_numpy(time_table(table, chains.times)[:, None]).to(embedder.pe)

    def _sampler_of(self, setting: Setting) -> MapSampler:
        if self._sampler is None or self._sampler[0] != setting:
            self._sampler = None  # frees its memory first
            sampler = MapSampler(self.model, self.config, self.features, self.device)
            diffusion = sampler.diffusion = self.chains.diffusion(setting.respacing)
            updates = sampler_updates(setting.method, diffusion)
            sampler._runner = type(sampler._runner)(self.model, diffusion, updates)
            self._sampler = setting, sampler
        return self._sampler[1]

    def prediction_errors(self, k: int = 4, items: int = 16):
        """(t, RMS error of one prediction of a map) around some t, whole and between."""
        sampler = self._sampler_of(Setting("dpmpp_2m_sde", "snr20", 20))
        loaded = [self.dataset.load(s, self.reader) for s in self.samples[:items]]
        batch = sampler.collate([(item.sample, item, i) for item in loaded for i in range(k)])
        with torch.inference_mode():
            sampler.batch_size = len(batch)
            inputs = sampler._inputs(batch)
            x_0 = sampler._runner.run(inputs, lambda *_: None).float()
            denoise = self.model.condition(*inputs[1:])
            if denoise.order is not None:
                x_0 = gather_points(x_0, denoise.order)
            noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0)).to(x_0)
            alpha_bar = np.cumprod(1 - self.chains.fine_betas)
            for part in CHECKED:
                [row] = self.chains.whole([round(part * len(self.chains.betas))])
                for j in range(row, min(row + self.chains.parts + 1, len(alpha_bar))):
                    signal, spread = float(alpha_bar[j]) ** 0.5, float(1 - alpha_bar[j]) ** 0.5
                    found = denoise(signal * x_0 + spread * noise, j)
                    error = (found.float() - x_0).square().mean().sqrt()
                    yield float(self.chains.times[j]), float(error)


def settings(chains: Chains, options) -> list[tuple[Setting, int]]:
    """Every setting with its number of draws; the fine chain first."""
    each = [("ddpm", FINE, options.fine_draws), ("ddpm", WHOLE, options.draws)]
    each += [(*text.split(), options.draws) for text in options.samplers]
    return [(Setting(m, r, len(chains.rows(r))), draws) for m, r, draws in each]


def draw(config, options, folder: Path) -> None:
    """Draw the share of one process."""
    torch.set_num_threads(options.threads)
    chains = Chains.of(config, options.parts, options.fine_from)
    plan, _ = make_plan(config)
    device = "cuda:0" if torch.cuda.is_available() else "cpu"

    def log(line: str) -> None:
        print(f"[{options.process}] {line}", flush=True)

    study = FineStudy(plan, log, options.threads, device, chains)
    count = len(study.samples)
    tasks = [
        (setting, 10 * number + i, range(first, min(first + options.round, count)))
        for first in range(0, count, options.round)
        for number, (setting, draws) in enumerate(settings(chains, options))
        for i in range(draws)  # the numbers: so that no two settings share their noise
    ]
    tasks.sort(key=lambda task: (task[2].start, -task[0].steps))
    if options.process == 0:
        for t, error in study.prediction_errors():
            log(f"t = {t:.3f}: one prediction is off by {error:.5f}")
    for task in share(tasks, options.process, options.of):
        study.finished(folder, *task)
    log("done")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["draw", "judge"])
    parser.add_argument("--configfile", nargs="+", default=[], help="as for snakemake")
    parser.add_argument("--config", nargs="+", default=[], help="as for snakemake")
    parser.add_argument("--parts", type=int, default=4, help="R, fine steps of a whole one")
    parser.add_argument("--fine-from", type=int, default=440, help="t above which steps are fine")
    parser.add_argument("--fine-draws", type=int, default=3)
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument(
        "--samplers", nargs="+", default=[f"dpmpp_2m_sde snr{n}" for n in (20, 30, 100)]
    )
    parser.add_argument("--round", type=int, default=80, help="items that are drawn at once")
    parser.add_argument("--process", type=int, default=0, help="0 to --of minus 1")
    parser.add_argument("--of", type=int, default=1, help="number of processes")
    parser.add_argument("--threads", type=int, default=4, help="that measure maps")
    parser.add_argument("--json", type=Path, help="judge: also write the numbers to this file")
    options = parser.parse_args()
    config = read_config(options.configfile, options.config)
    config = replace(config, compare=replace(config.compare, draws=options.draws))
    folder = Path(config.run_dir, f"refined_chain-{options.parts}-{options.fine_from}")
    if options.action == "draw":
        draw(config, options, folder)
        return

    draws = read(sorted(folder.glob("settings/*")))
    draws = dict(sorted(draws.items(), key=lambda each: each[0].respacing != FINE))
    found, judged = judge(draws, range(len(next(iter(draws.values()))[0].items)), config)
    print(
        f"{found.num_items} items; would be seen: {found.rule.detectable_diversity():.1%} of "
        f"diversity, {found.rule.detectable_energy():.4f} of energy distance"
    )
    for setting, row in judged.items():
        told = ", ".join(row["told_apart_by"]) or "not told apart"
        values = f"{row['diversity']:.3f}, {row[ENERGY]['value']:.4f}"
        print(f"{setting.name:<24}{setting.steps:>5} steps: {values}: {told}")
    if options.json:
        rows = [row | {"setting": setting.name} for setting, row in judged.items()]
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
