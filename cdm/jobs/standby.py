"""Standby: while one chunk job computes on a GPU, the next one gets ready and waits for its turn.

A job starts Python, imports torch, reads the plan, the weights and its first items before it needs
a GPU. Snakemake therefore starts twice as many chunk jobs as may compute at a time (`share_out`).
Each takes its turn (`wait_for_turn`) and then a GPU (`cdm.jobs.device`) before it puts anything
there, and gives both back when its last map has left the GPU. The one after it goes on at once.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdm.errors import CDMError
from cdm.files import digest
from cdm.jobs.device import lease, visible_devices


@dataclass(frozen=True)
class Share:
    """How the chunk jobs of a run share one machine.

    Attributes:
        jobs: chunk jobs that Snakemake may run at a time.
        turns: how many of them may compute at a time; the others stand by.
        threads: CPU threads of each job that computes.
    """

    jobs: int
    turns: int
    threads: int


def share_out(
    cores: int,
    gpus: int | None,
    num_devices: int,
    threads: int | Any = "auto",
    num_chunks: int = 1,
    standby: bool = True,
) -> Share:
    """Share a machine among chunk jobs.

    Args:
        cores: of Snakemake's --cores.
        gpus: of --resources gpu=N; None if it was not given.
        num_devices: GPUs that the jobs can use; 0 if they compute on the CPU.
        threads: of `workflow.threads`.
        num_chunks: of the run.
        standby: of `workflow.standby`.
    Returns:
        On GPUs as many turns as `gpus`, each with an even share of the cores, and for every GPU
        one job that stands by. It has no core of its own, because it waits nearly all its time.
        On the CPU no job stands by. There, several jobs of few threads are faster than one of
        many, but each needs memory of its own: about the square root of `cores` jobs.
    """
    if num_devices:
        each = max(1, cores // (gpus or 1)) if threads == "auto" else threads
        turns = max(1, min(gpus or cores, cores // each))
        return Share(max(turns, 2 * min(turns, num_devices)) if standby else turns, turns, each)
    if threads == "auto":
        jobs = max(1, min(num_chunks, math.ceil(math.sqrt(cores))))
        return Share(jobs, jobs, max(1, cores // jobs))
    jobs = max(1, cores // threads)
    return Share(jobs, jobs, threads)


def count_devices(gpu: int | str | None) -> int:
    """GPUs of this machine that chunk jobs can use; 0 if they will compute on the CPU.

    Args:
        gpu: as configured, see `cdm.jobs.device.choose_device`.
    """
    if gpu is None:
        return 0
    try:
        devices = len(visible_devices())
    except CDMError:
        return 0  # the first job says what is wrong
    return min(1, devices) if gpu != "auto" else devices


def wait_for_turn(run: str | Path, turns: int | None, log: Callable[[str], None]) -> None:
    """Hold one of a run's turns until `give_back`; waits until one is free.

    Args:
        run: the run's folder. Runs in other folders have turns of their own.
        turns: how many there are; None or 0 if the job need not wait.
        log: gets one line when the job waits.
    Raises:
        RunEnded: the run is not there any more.
    """
    if turns:
        run = digest([os.path.realpath(run)])
        lease([f"turn-{run}-{n}" for n in range(turns)], log, "turn(s) of this run")
