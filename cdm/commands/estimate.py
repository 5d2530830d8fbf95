"""What a run will cost, estimated from a trial of its parts on this machine (no torch here).

A chunk job is tried out in a process of its own (`cdm.commands.trial`): a few maps, a few steps.
What the whole run takes follows from the seconds of the parts (`cdm.commands.run_time`).
"""

import hashlib
import math
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cdm.commands.pace import fast_steps
from cdm.commands.run_time import JobTimes, Work, cut, device_s, run_s, size_for
from cdm.commands.trial import TrialTimes
from cdm.commands.try_out import try_out
from cdm.datasets import Sample
from cdm.errors import ConfigError
from cdm.jobs.log import Log
from cdm.jobs.machine import device_text
from cdm.jobs.progress import duration
from cdm.jobs.standby import Share, count_devices, share_out
from cdm.run.dataset import open_dataset
from cdm.run.plan import Plan
from cdm.run.sizes import CHUNK_SIZE, bytes_per_sample, choose_chunk_size

SNAKEMAKE_S = 0.5  # of Snakemake from the plan to the first job, and from the last one to its end
IMPORTED = (  # by Snakemake, and by rules/common.smk
    "snakemake.cli",
    "snakemake.workflow",
    "snakemake.dag",
    "cdm.commands.config_files",
    "cdm.commands.hints",
    "cdm.commands.live",
    "cdm.evaluation.evaluate",
    "cdm.evaluation.study",
    "cdm.run.planning",
)
READ_SHARE = (
    1.25  # of these imports' seconds until a dry run is over (measured: 2.2 s, 3.0 s with a plan)
)
MERGE_THREADS = 8  # at most
HASHED = 2**25  # bytes, to see how fast they are hashed


@dataclass(frozen=True)
class Estimate:
    """The estimate, and what it was made from.

    Attributes:
        device: that the trial ran on.
        cores, gpus: as Snakemake would be told.
        jobs, turns, threads: chunk jobs at a time, how many compute, with how many threads each.
        num_samples, num_maps, num_chunks, chunk_size, batch_size, num_steps: of the plan.
        ready_s, device_s, write_s: seconds of a job before it needs the device, there before the
            first map, and after the last one of a whole chunk.
        map_s, step_s: seconds of a map besides its steps, and of a step of a map.
        item_s: seconds until the next item is read.
        own_s, merge_s: of Snakemake before the first job, and of the merge.
        seconds: of the whole run, from the start of the command to its end.
        seconds_on_four: the same on four GPUs with four times the cores; None on a CPU.
        device_hours: that the run computes on devices.
        fast_steps, fast_seconds, fast_device_hours: with config/fast.yaml; None if the trained
            chain is too short for it.
        archive_bytes: of the archive's arrays.
        minutes_per_chunk: of one chunk job, from its start to its end.
        suggested_chunk_size, suggested_minutes: for the wanted length of a job, if one was given.
        took_s: what the estimate itself took.
    """

    device: str
    cores: int
    gpus: int
    jobs: int
    turns: int
    threads: int
    num_samples: int
    num_maps: int
    num_chunks: int
    chunk_size: int
    batch_size: int
    num_steps: int
    ready_s: float
    device_s: float
    write_s: float
    map_s: float
    step_s: float
    item_s: float
    own_s: float
    merge_s: float
    seconds: float
    seconds_on_four: float | None
    device_hours: float
    fast_steps: int | None
    fast_seconds: float | None
    fast_device_hours: float | None
    archive_bytes: int
    minutes_per_chunk: float
    suggested_chunk_size: int | None
    suggested_minutes: float | None
    took_s: float


def estimate(
    plan: Plan,
    samples: list[Sample],
    log: Log,
    cores: int | None = None,
    gpus: int = 1,
    minutes_per_chunk: float | None = None,
    plan_s: float = 0.0,
) -> Estimate:
    """Try a chunk job out, and tell what the whole run takes.

    Args:
        plan, samples: as `cdm.run.planning.make_plan` returns them.
        log: gets lines on how far it is.
        cores: of Snakemake's --cores; None for all that this process may use.
        gpus: of --resources gpu=N.
        minutes_per_chunk: wanted length of a chunk's job, to suggest a chunk size.
        plan_s: seconds that the plan took.
    Raises:
        ConfigError: minutes_per_chunk, cores or gpus is none.
        DataError: no item can be read.
    """
    began = time.perf_counter()
    cores = len(os.sched_getaffinity(0)) if cores is None else cores
    _check_options(cores, gpus, minutes_per_chunk)
    times, share, num_devices = _try_out_and_share(plan, samples, cores, gpus, log)
    job = job_times(times)
    own_s = _snakemake_s() + SNAKEMAKE_S + plan_s
    work = work_of(plan, times, own_s, min(MERGE_THREADS, cores))

    # The whole run; the same on four GPUs and with few steps; and chunks of the wanted length.
    four = None
    if num_devices:
        four = run_s(job, work, share_of(plan, 4 * cores // gpus, 4, 4))
    suggested = None
    if minutes_per_chunk:
        suggested = min(plan.num_samples, size_for(job, work, 60 * minutes_per_chunk))
    return Estimate(
        device=device_text(times.device),
        cores=cores,
        gpus=gpus if num_devices else 0,
        **asdict(share),
        **_numbers_of_plan(plan),
        **_seconds_of_parts(job, work),
        own_s=own_s,
        seconds=run_s(job, work, share),
        seconds_on_four=four,
        device_hours=device_s(job, work) / 3600,
        **_with_few_steps(plan, job, work, share),
        minutes_per_chunk=_chunk_minutes(job, work, max(work.sizes)),
        suggested_chunk_size=suggested,
        suggested_minutes=suggested and _chunk_minutes(job, work, suggested),
        took_s=time.perf_counter() - began + plan_s,
    )


def _check_options(cores: int, gpus: int, minutes_per_chunk: float | None) -> None:
    """Raise ConfigError where an option is a number that means nothing."""
    if minutes_per_chunk is not None and not 0 < minutes_per_chunk < math.inf:
        raise ConfigError(
            f"--minutes-per-chunk is {minutes_per_chunk}, expected a number of minutes above 0"
        )
    for name, number in (("--cores", cores), ("--gpus", gpus)):
        if number < 1:
            raise ConfigError(f"{name} is {number}, expected a number from 1 on")


def _try_out_and_share(
    plan: Plan, samples: list[Sample], cores: int, gpus: int, log: Log
) -> tuple[TrialTimes, Share, int]:
    """What the trial measured; how the run shares the machine; the GPUs that torch can use.

    On a CPU as many processes try it out as would compute at a time, because they slow each other.
    """
    num_devices = count_devices(plan.config.gpu)
    share = share_of(plan, cores, gpus, num_devices)
    times = try_out(plan, samples, share.threads, 1 if num_devices else share.jobs, log)
    if times.device["kind"] != "cuda" and num_devices:  # a GPU that torch cannot use
        num_devices = 0
        share = share_of(plan, cores, gpus, num_devices)
    return times, share, num_devices


def _numbers_of_plan(plan: Plan) -> dict[str, Any]:
    """The attributes of `Estimate` that the plan alone decides."""
    return {
        "num_samples": plan.num_samples,
        "num_maps": plan.num_samples * plan.config.sampling.k_samples,
        "num_chunks": len(plan.chunks),
        "chunk_size": plan.config.workflow.chunk_size,
        "batch_size": plan.config.sampling.batch_size,
        "num_steps": plan.num_steps,
        "archive_bytes": archive_bytes(plan),
    }


def _seconds_of_parts(job: JobTimes, work: Work) -> dict[str, Any]:
    """The attributes of `Estimate` that are seconds of one part of the run."""
    return {
        "ready_s": job.ready_s,
        "device_s": job.device_s,
        "write_s": job.write_s + max(work.sizes) * work.sample_bytes * job.byte_s,
        "map_s": job.batch_s / job.batch_maps,
        "step_s": job.step_s / job.batch_maps,
        "item_s": job.item_s,
        "merge_s": work.merge_s,
    }


def _with_few_steps(plan: Plan, job: JobTimes, work: Work, share: Share) -> dict[str, Any]:
    """The attributes of `Estimate` that are about config/fast.yaml."""
    steps = fast_steps(plan)
    if not steps:
        return {"fast_steps": steps, "fast_seconds": None, "fast_device_hours": None}
    faster = replace(work, num_steps=steps, sizes=fast_sizes(plan, steps))
    return {
        "fast_steps": steps,
        "fast_seconds": run_s(job, faster, share),
        "fast_device_hours": device_s(job, faster) / 3600,
    }


def _chunk_minutes(job: JobTimes, work: Work, size: int) -> float:
    """A job of a chunk of so many samples, from its start to its end."""
    return job.job_s(size, work.k, work.num_steps, work.sample_bytes) / 60


def share_of(plan: Plan, cores: int, gpus: int, num_devices: int) -> Share:
    """How the run's chunk jobs would share a machine of so many cores and GPUs."""
    workflow = plan.config.workflow
    return share_out(
        cores,
        gpus,
        max(gpus, num_devices) if num_devices else 0,
        workflow.threads,
        len(plan.chunks),
        workflow.standby,
    )


def job_times(times: TrialTimes) -> JobTimes:
    """A chunk job by what a trial measured: each job pays for its process's first batch."""
    return JobTimes(
        ready_s=times.ready_s,
        device_s=times.device_s + times.first_s,
        batch_maps=times.batch_maps,
        batch_s=times.batch_s,
        step_s=times.step_s,
        item_s=times.item_s,
        write_s=times.write_s,
        byte_s=times.byte_s,
    )


def fast_sizes(plan: Plan, num_steps: int) -> tuple[int, ...]:
    """Samples of each chunk with so many steps: with `auto`, other chunks than with all of them."""
    size = plan.config.workflow.chunk_size
    if CHUNK_SIZE in plan.auto:
        size = choose_chunk_size(plan.asked, plan.architecture, num_steps, plan.num_samples)
    return cut(plan.num_samples, size)


def work_of(plan: Plan, times: TrialTimes, own_s: float, merge_threads: int) -> Work:
    """What the run has to do: its chunks as planned; statistics and the merge besides."""
    num_bytes = archive_bytes(plan)
    if plan.statistics.computed and not Path(plan.statistics.path).exists():
        dataset = open_dataset(plan.config, plan.architecture.point_feat_dim)
        own_s += times.ready_s / 2 + len(dataset.statistics_samples()) * times.item_s
    return Work(
        sizes=cut(plan.num_samples, plan.config.workflow.chunk_size),
        k=plan.config.sampling.k_samples,
        num_steps=plan.num_steps,
        sample_bytes=num_bytes // plan.num_samples,
        own_s=own_s,
        merge_s=times.merge_s + num_bytes * _hash_s() / merge_threads,
    )


def archive_bytes(plan: Plan) -> int:
    """Bytes of the archive's sharded arrays, in which nothing is compressed."""
    return plan.num_samples * bytes_per_sample(plan.config, plan.architecture)


# --- what is no chunk job -------------------------------------------------------------------------


def _snakemake_s() -> float:
    """Seconds until Snakemake has imported what it needs and read the Snakefile, without the plan.

    0 where Snakemake is not installed.
    """
    began = time.perf_counter()
    code = f"import {', '.join(IMPORTED)}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    return 0.0 if ended.returncode else READ_SHARE * (time.perf_counter() - began)


def _hash_s() -> float:
    """Seconds per byte in which one thread hashes what it merges."""
    content, began = bytes(HASHED), time.perf_counter()
    hashlib.sha256(content).digest()
    return (time.perf_counter() - began) / HASHED


# --- for people ----------------------------------------------------------------------------------


def describe_estimate(found: Estimate) -> str:
    """The estimate as text."""
    at_a_time = f"{found.turns} chunk job(s) compute at a time, with {found.threads} thread(s) each"
    standby = f", {found.jobs - found.turns} stand by" if found.jobs > found.turns else ""
    gpus = f" --resources gpu={found.gpus}" if found.gpus else ""
    four = found.seconds_on_four
    on_four = f"; {duration(four)} on four GPUs" if four and found.gpus != 4 else ""
    fast = suggestion = ""
    if found.fast_steps and found.fast_seconds is not None:
        fast = (
            f"fast.yaml     {found.fast_steps} steps in place of {found.num_steps}, with "
            f"config/fast.yaml: about {duration(found.fast_seconds)} "
            f"({found.fast_device_hours:.3g} device-hours)\n"
        )
    if found.suggested_chunk_size:
        suggestion = (
            f"suggestion    --config 'workflow={{chunk_size: {found.suggested_chunk_size}}}' takes "
            f"{found.suggested_minutes:.3g} minutes a chunk; changing it in a run that has begun "
            "makes all chunks anew\n"
        )
    each_s = found.map_s + found.num_steps * found.step_s
    return (
        f"device        {found.device}; with --cores {found.cores}{gpus}: {at_a_time}{standby}\n"
        f"measured      {1000 * found.step_s:.3g} ms a step of a map, {1 / each_s:.3g} maps/s of "
        f"{found.num_steps} steps; {found.ready_s + found.device_s:.1f} s for a job's start, "
        f"{found.write_s:.1f} s for its end\n"
        f"whole run     {found.num_maps} maps in {found.num_chunks} chunks: about "
        f"{duration(found.seconds)} from the command's start to its end{on_four} "
        f"({found.device_hours:.3g} device-hours)\n{fast}"
        f"archive       {_bytes(found.archive_bytes)}\n"
        f"chunk_size    {found.chunk_size} takes {found.minutes_per_chunk:.3g} minutes a chunk\n"
        f"{suggestion}estimated in {found.took_s:.0f} s\n"
    )


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
