"""Draw a study of samplers with several processes; `snakemake compare_samplers` then sums it up.

    python benchmarks/few_steps/draw.py --process 0 --of 4 --config exp_name=study

Each process draws its share of all settings and draws: the largest first, each to the process that
has least to do so far. What is finished is kept, so a killed process is simply started again.

No setting is dropped early. For that, let the study have one round: compare.first_items null.

The processes lease no GPU, so several may share one. Say which one by CUDA_VISIBLE_DEVICES.
Seconds per map are then those of a shared GPU.
"""

import argparse
import os
import time
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # each thread measures maps by itself; before numpy

import torch

from cdm.commands.config_files import read_config
from cdm.evaluation.study import Setting, num_draws, rounds, study_settings
from cdm.evaluation.study_run import Study
from cdm.run.planning import make_plan

Task = tuple[Setting, int, range]


def tasks(config, available: int) -> list[Task]:
    """Every setting, draw and round, the largest first."""
    found = [
        (setting, draw, positions)
        for setting in study_settings(config)
        for draw in range(num_draws(config, setting))
        for positions in rounds(config, available)
    ]
    return sorted(found, key=cost, reverse=True)


def cost(task: Task) -> int:
    """Evaluations of the model for a map of each sample."""
    setting, _, positions = task
    return setting.steps * len(positions)


def share(found: list[Task], process: int, of: int) -> list[Task]:
    """The tasks of one process: each task goes to the process that has least to do so far."""
    loads, mine = [0] * of, []
    for task in found:
        least = loads.index(min(loads))
        loads[least] += cost(task)
        if least == process:
            mine.append(task)
    return mine


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--configfile", nargs="+", default=[], help="as for snakemake")
    parser.add_argument("--config", nargs="+", default=[], help="as for snakemake")
    parser.add_argument("--process", type=int, required=True, help="0 to --of minus 1")
    parser.add_argument("--of", type=int, required=True, help="number of processes")
    parser.add_argument("--threads", type=int, default=4, help="that measure maps")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    def log(line: str) -> None:
        print(f"[{options.process}] {line}", flush=True)

    config = read_config(options.configfile, options.config)
    plan, _ = make_plan(config)
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    study = Study(plan, log, options.threads, device)
    mine = share(tasks(config, len(study.samples)), options.process, options.of)
    log(f"{len(mine)} draws, {sum(map(cost, mine)) * config.compare.k_samples} evaluations")
    started = time.perf_counter()
    for task in mine:
        study.finished(Path(config.run_dir, "compare_samplers"), *task)
    log(f"done in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
