"""Settings chosen on one half of the items and confirmed on the other, over many random halves.

    python benchmarks/few_steps/held_out.py outputs/study/compare_samplers/settings/KEY

Takes the folders of a study's finished draws: one, or those of all of its rounds. For each split,
the rule of the study chooses on one half: the fewest steps that are not told apart from the full
chain. The other half confirms the choice if it does not tell it apart either. With half of the
items, both see less than the study does; the differences that they would have seen are printed.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from cdm.commands.config_files import read_config
from cdm.config import Config
from cdm.evaluation.study import FULL_METHOD, Setting, SettingResult, join_rounds, read_result
from cdm.evaluation.study_looks import Chains
from cdm.evaluation.study_rule import DIVERSITY, ENERGY, fewest_steps

Draws = dict[Setting, list[SettingResult]]


def read(folders: list[Path]) -> Draws:
    """Every setting that was drawn in all rounds: its draws over all of them, full chain first."""
    rounds = defaultdict(list)
    for folder in folders:
        for path in sorted(folder.glob("*.json")):
            result = read_result(path)
            rounds[result.setting, result.draw].append(result)
    draws = defaultdict(list)
    for (setting, _), results in rounds.items():
        if len(results) == len(folders):
            draws[setting].append(join_rounds(results))
    is_full = {s: (s.method, s.respacing) == (FULL_METHOD, "") for s in draws}
    order = sorted(draws, key=lambda s: (not is_full[s], s.steps, s.name))
    return {setting: draws[setting] for setting in order}


def judge(draws: Draws, samples: list[int], config: Config) -> tuple[Chains, dict[Setting, dict]]:
    """What some samples say of every setting."""
    part = {setting: [each.take(samples) for each in found] for setting, found in draws.items()}
    full, *compared = part
    chains, found = Chains(part[full], config), {}
    for setting in compared:
        judged = chains.judge(part[setting])
        pooled = np.nanmean(chains.rule.pooled[:, chains.rule.diversity])
        found[setting] = {
            "setting": setting,
            "steps": setting.steps,
            "told_apart_by": judged.told_apart_by,
            ENERGY: {"value": float(judged.energy.mean())},
            DIVERSITY: float(1 + judged.shift[chains.rule.diversity] / pooled),
        }
    return chains, found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    draws = read(options.folders)
    full, *compared = draws
    counts = {len(draws[setting]) for setting in compared}
    if len(counts) != 1:
        parser.error(f"the settings have {sorted(counts)} draws, expected as many of each")
    config = read_config([], [f"compare={{draws: {counts.pop()}}}"])

    # Each split both ways: every half chooses once and confirms once.
    items = list(dict.fromkeys(draws[full][0].items))
    rng = np.random.default_rng(0)
    chosen, passed, seen = [], defaultdict(int), []
    for _ in range(options.splits):
        first = {items[i] for i in rng.permutation(len(items))[: len(items) // 2]}
        halves = [
            [i for i, item in enumerate(draws[full][0].items) if (item in first) == side]
            for side in (True, False)
        ]
        both = [judge(draws, half, config) for half in halves]
        for (chains, here), (_, there) in (both, both[::-1]):
            seen.append(chains.rule.detectable_diversity())
            best = fewest_steps(list(here.values()))
            if best:
                chosen.append((best, there[best["setting"]]))
            for setting, found in here.items():
                passed[setting] += not found["told_apart_by"]
    report(full, compared, chosen, passed, seen, options)


def report(full, compared, chosen, passed, seen, options) -> None:
    """Print how often each setting was chosen and confirmed, and write the numbers."""
    total, rows = 2 * options.splits, []
    for setting in compared:
        confirming = [there for here, there in chosen if here["setting"] == setting]
        confirmed = sum(not there["told_apart_by"] for there in confirming)
        ratio, energy = (
            float(np.mean(values)) if values else None
            for values in (
                [there[DIVERSITY] for there in confirming],
                [there[ENERGY]["value"] for there in confirming],
            )
        )
        rows.append(
            {
                "setting": setting.name,
                "steps": setting.steps,
                "not_told_apart": passed[setting],
                "chosen": len(confirming),
                "confirmed": confirmed,
                "held_out_diversity_ratio": ratio,
                "held_out_energy_distance": energy,
            }
        )
    confirmed = sum(row["confirmed"] for row in rows)
    print(
        f"{total} halves of {options.splits} splits; each would have seen a difference of "
        f"{np.mean(seen):.1%} in diversity. The full chain: {full.steps} steps.\n"
        f"{len(chosen)} chose a setting; the other half confirmed {confirmed}.\n"
    )
    print(
        f"{'setting':28}{'not told apart':>15}{'chosen':>8}{'confirmed':>10}  held-out div., energy"
    )
    for row in rows:
        held_out = ""
        if row["chosen"]:
            held_out = (
                f"{row['held_out_diversity_ratio']:.3f}, {row['held_out_energy_distance']:.5f}"
            )
        print(
            f"{row['setting']:28}{row['not_told_apart']:>15}{row['chosen']:>8}"
            f"{row['confirmed']:>10}  {held_out}"
        )
    if options.json:
        content = {
            "halves": total,
            "chose": len(chosen),
            "confirmed": confirmed,
            "detectable_diversity": float(np.mean(seen)),
            "settings": rows,
        }
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
