"""What does precision do to maps? The same sampler in fp32 and in bf16 or fp16, side by side.

    python benchmarks/few_steps/precisions.py draw --configfile mine.yaml
    python benchmarks/few_steps/precisions.py judge --configfile mine.yaml

fp32 is drawn three times and pooled: it stands where the full chain stands in a study. The other
is drawn --draws times, with noise of its own, and the rule of the study says whether it is told
apart. The demo's rooms must lie on disk: `snakemake demo_data --configfile mine.yaml` writes them.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from held_out import judge, read

from cdm.commands.config_files import read_config
from cdm.evaluation.study import Setting
from cdm.evaluation.study_rule import DIVERSITY, ENERGY
from cdm.evaluation.study_run import Study
from cdm.run.planning import make_plan

FIRST_DRAW = {"fp32": 0, "bf16": 100, "fp16": 200}  # numbers that no other precision has
REFERENCE_DRAWS = 3


def draws_of(precision: str, options) -> range:
    """The numbers of a precision's draws; a map's noise depends on them."""
    count = REFERENCE_DRAWS if precision == "fp32" else options.draws
    return range(FIRST_DRAW[precision], FIRST_DRAW[precision] + count)


def draw(config, precision: str, setting: Setting, folder: Path, options) -> None:
    """Draw and measure every item, as often as `draws_of` says."""
    config = replace(config, sampling=replace(config.sampling, precision=precision))
    plan, _ = make_plan(config)
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    study = Study(plan, lambda line: print(line, flush=True), options.threads, device)
    for number in draws_of(precision, options):
        study.finished(folder / precision, setting, number, range(len(study.samples)))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["draw", "judge"])
    parser.add_argument("--configfile", nargs="+", default=[], help="as for snakemake")
    parser.add_argument("--config", nargs="+", default=[], help="as for snakemake")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp16"])
    parser.add_argument("--draws", type=int, default=2, help="of bf16 or fp16")
    parser.add_argument("--steps", type=int, default=20, help="N of snrN")
    parser.add_argument("--threads", type=int, default=4, help="that measure maps")
    parser.add_argument("--json", type=Path, help="judge: also write the numbers to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = read_config(options.configfile, options.config)
    config = replace(config, compare=replace(config.compare, draws=options.draws))
    setting = Setting("dpmpp_2m_sde", f"snr{options.steps}", options.steps)
    folder = Path(config.run_dir, "precisions")
    precisions = "fp32", options.precision
    if options.action == "draw":
        for precision in precisions:
            draw(config, precision, setting, folder, options)
        return

    # Each gets a name of its own, so that the rule sees two settings.
    draws = {}
    for precision in precisions:
        [found] = read(sorted((folder / precision / "settings").iterdir())).values()
        draws[setting._replace(method=precision)] = found
    chains, judged = judge(draws, range(len(found[0].items)), config)
    [row] = judged.values()
    numbers = {
        "items": chains.num_items,
        "told_apart_by": row["told_apart_by"],
        "diversity": row[DIVERSITY],
        "energy_distance": row[ENERGY]["value"],
        "detectable_diversity": chains.rule.detectable_diversity(),
        "detectable_energy_distance": chains.rule.detectable_energy(),
    }
    print(json.dumps(numbers, indent=1))
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
