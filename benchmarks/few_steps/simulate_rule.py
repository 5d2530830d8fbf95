"""How often a study with the default settings tells a sampler apart whose truth is known.

    python benchmarks/few_steps/simulate_rule.py --studies 1000              # a right sampler
    python benchmarks/few_steps/simulate_rule.py --studies 300 --spread 0.98

No model is sampled. The values of an item are made of normal numbers: 16 maps in 16 dimensions, and
86 measures that depend on each other as those of a map do; one of them is diversity. The sampler's
maps are spread as the full chain's, or --spread times as far. Everything after that is the study's
own: its rounds, looks and rule. All looks are taken, as for a study that never has enough items.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from math import sqrt

import numpy as np

from cdm.commands.config_files import read_config
from cdm.config import Config
from cdm.evaluation.study import Setting, SettingResult
from cdm.evaluation.study_looks import run_looks

NUM_MEASURES, DIMENSIONS = 85, 16  # besides diversity; of a map
WEIGHTS = np.random.default_rng(1).normal(size=(4, NUM_MEASURES))
SAMPLER = "dpmpp_2m_sde snr20"


def simulated() -> Config:
    """The default settings, with one sampler, and no look whose items are enough."""
    return read_config([], [f"compare={{samplers: ['{SAMPLER}'], detect: 0.0001}}"])


def told_apart(config: Config, spread: float, seed: int) -> tuple[bool, float]:
    """Whether one whole study tells the sampler apart at any of its looks; what it would see."""
    rng = np.random.default_rng(seed)
    k = config.compare.k_samples

    def draw(setting: Setting, number: int, positions: range) -> SettingResult:
        maps = rng.normal(size=(len(positions), k, DIMENSIONS))
        if setting.respacing:
            maps *= spread
        common = sqrt(k) * maps.mean(axis=1)[:, :4] @ WEIGHTS
        values = common + rng.normal(size=(len(positions), NUM_MEASURES))
        columns = {f"CPLE_joint_{i}": column for i, column in enumerate(values.T)}
        apart = np.linalg.norm(maps[:, :, None] - maps[:, None], axis=-1)
        columns["diversity"] = apart.sum(axis=(1, 2)) / (k * (k - 1))
        items = [("A", str(position)) for position in positions]
        return SettingResult(setting, number, items, columns, maps, 1.0, "none")

    outcome = run_looks(config, config.compare.max_items, draw)
    return any(look.told_apart for look in outcome.looks), outcome.looks[-1].detectable


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--spread", type=float, default=1.0)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    study = partial(told_apart, simulated(), options.spread)
    with ProcessPoolExecutor(options.processes) as pool:
        found = np.array(list(pool.map(study, range(options.studies), chunksize=4)))
    share, detectable = found.mean(axis=0)
    error = sqrt(share * (1 - share) / len(found))
    print(
        f"spread {options.spread:g}: told apart in {100 * share:.1f} of 100 studies, standard "
        f"error {100 * error:.1f} ({len(found)} studies; they would see {100 * detectable:.2f} % "
        "of diversity)"
    )


if __name__ == "__main__":
    main()
