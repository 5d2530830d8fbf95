"""Tries chunk jobs out on this machine, in processes of their own (no torch here).

The process itself is `cdm.commands.trial`. What is measured is that of a job as Snakemake starts
it, because the same function makes the chunk, in a run folder that is removed in the end.
"""

import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from cdm import errors
from cdm.commands.trial import FEW, Trial, TrialTimes
from cdm.datasets import Dataset, FileReader, Sample
from cdm.errors import BadItem, ConfigError, DataError
from cdm.files import digest, read_json, typed
from cdm.jobs.log import Log
from cdm.run.dataset import open_dataset
from cdm.run.plan import Chunk, Plan, base_fingerprint
from cdm.run.plan_files import save_plan
from cdm.run.table import table_header

TRIED = 64  # samples of a trial; more if a batch has more maps
READABLE = 8  # of them that must be readable, if there are so many


def try_out(
    plan: Plan, samples: list[Sample], threads: int, num_processes: int, log: Log
) -> TrialTimes:
    """The means of what so many processes measure at the same time.

    Args:
        plan, samples: of the run that is to be estimated.
        threads: CPU threads of a chunk job.
    Raises:
        CDMError: what a chunk job would end with.
    """
    dataset = open_dataset(plan.config, plan.architecture.point_feat_dim)
    rows = _readable_first(plan, dataset, samples)
    with contextlib.ExitStack() as stack:
        folders = [stack.enter_context(_trial_folder(plan)) for _ in range(num_processes)]
        for folder in folders:
            quiet = folder != folders[0]
            trial = make_trial(plan, dataset, rows, folder, threads, quiet)
            (folder / "trial.pickle").write_bytes(pickle.dumps(trial))
        log(f"trying {num_processes} chunk job(s) out, with {threads} thread(s) each")
        found = _run_trials(folders)
        times = _mean_times(found)
        if times.device_s + times.first_s > times.ready_s:
            # Longer than to import torch: kernels were compiled. Later jobs find them in a cache.
            log("once more, from the start to the first batch")
            again = _mean_times(_run_trials(folders, "--start-only"))
            first_s = max(0.0, again.first_s - times.batch_s - FEW * times.step_s)
            times = replace(
                times,
                ready_s=min(times.ready_s, again.ready_s),
                device_s=min(times.device_s, again.device_s),
                first_s=min(times.first_s, first_s),
            )
    return times


def make_trial(
    plan: Plan,
    dataset: Dataset,
    rows: list[Sample],
    folder: Path,
    threads: int,
    quiet: bool = False,
) -> Trial:
    """A plan of one chunk, in a run folder of its own, with one map of each sample."""
    config = replace(
        plan.config,
        exp_name=folder.name,
        exp_dir=plan.config.checkpoint_dir,
        dataset=replace(plan.config.dataset, on_bad_item="skip"),
        sampling=replace(plan.config.sampling, k_samples=1),
    )
    files = [dataset.files(sample) for sample in rows]
    base = base_fingerprint(digest(plan.identity), rows, files)
    chunk = Chunk(0, 0, len(rows), base, base, len(table_header()))
    statistics = plan.statistics
    if statistics.computed and not Path(statistics.path).exists():  # a rule will compute them
        shape = (1, plan.architecture.contact_dim)
        path = folder / "statistics.npz"
        np.savez(path, mean=np.zeros(shape, np.float32), std=np.ones(shape, np.float32))
        statistics = replace(statistics, path=str(path))
    trial = replace(
        plan, config=config, chunks=(chunk,), statistics=statistics, file_hashes={}, motions={}
    )
    save_plan(trial, rows)
    rows_with_files = list(zip(rows, files, strict=True))
    return Trial(trial, rows_with_files, plan.identity["diffusion"][2], threads, quiet)


@contextlib.contextmanager
def _trial_folder(plan: Plan) -> Iterator[Path]:
    """A run folder beside the run's own, on the same disk, removed in the end."""
    outputs = Path(plan.config.run_dir).parent
    was_there = outputs.exists()
    outputs.mkdir(parents=True, exist_ok=True)
    try:
        with TemporaryDirectory(prefix="estimate-", dir=outputs) as folder:
            if plan.config.is_demo_data:  # the rooms lie in the run's folder
                Path(folder, "data").symlink_to(Path(plan.config.run_dir, "data").resolve())
            yield Path(folder)
    finally:
        if not was_there:
            with contextlib.suppress(OSError):
                outputs.rmdir()


def _readable_first(plan: Plan, dataset: Dataset, samples: list[Sample]) -> list[Sample]:
    """Samples spread over the plan; the first ones can be read.

    Raises:
        DataError: no sample can be read.
    """
    config = plan.config
    wanted = min(len(samples), max(TRIED, config.sampling.batch_size))
    spread = [i * len(samples) // wanted for i in range(wanted)]
    others = sorted(set(range(len(samples))) - set(spread))
    reader, problem = FileReader(config.data_dir), None
    readable: list[int] = []
    unread: list[int] = []
    for number in [*spread, *others]:
        if len(readable) >= min(READABLE, wanted):
            break
        try:
            dataset.load(samples[number], reader)
            readable.append(number)
        except BadItem as error:
            problem = error
    if not readable and config.is_demo_data:
        raise DataError(
            f"{config.data_dir}: the demo's rooms of phase {config.dataset.phase} are not there "
            "yet; type\n  snakemake --cores 1 demo_data"
        )
    if not readable:
        raise DataError(f"none of {len(samples)} samples can be read; the last: {problem}")
    unread = [number for number in spread if number > max(readable)]
    return [samples[number] for number in [*readable, *unread]]


def _run_trials(folders: list[Path], *options: str) -> list[TrialTimes]:
    """What the trials in these folders measured, side by side."""
    # All run at the same time; none is left behind.
    command = [sys.executable, "-m", "cdm.commands.trial"]
    environment = dict(os.environ)
    parts = [str(Path(__file__).parents[2]), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, parts))
    with contextlib.ExitStack() as stack:
        processes = [
            subprocess.Popen(
                [*command, str(folder / "trial.pickle"), str(folder / "result.json"), *options],
                env=environment,
            )
            for folder in folders
        ]
        for process in processes:
            stack.callback(_end, process)
        for process in processes:
            process.wait()

    # What each wrote.
    results = []
    for folder, process in zip(folders, processes, strict=True):
        path = folder / "result.json"
        if not path.exists():
            raise ConfigError(
                f"the trial of a chunk job ended with exit status {process.returncode}; what it "
                "said stands above"
            )
        content = read_json(path)
        if "error" in content:
            raise getattr(errors, content["kind"])(content["error"])
        results.append(typed(TrialTimes, content))
        path.unlink()
    return results


def _end(process: subprocess.Popen) -> None:
    """End a trial that is left because of an error or Ctrl-C."""
    if process.poll() is None:
        process.terminate()
        process.wait()


def _mean_times(found: list[TrialTimes]) -> TrialTimes:
    """The means of the seconds of several trials."""
    columns = {name: [asdict(each)[name] for each in found] for name in asdict(found[0])}
    fixed: dict[str, Any] = {name: columns.pop(name)[0] for name in ("device", "batch_maps")}
    return TrialTimes(**fixed | {name: _mean(values) for name, values in columns.items()})


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)
