#!/usr/bin/env python3
"""Kill a small run at random moments, many times, and hold its archive against an undisturbed one.

    python tests/faults/kill_run.py --kills 100 --seed 1

Each kill picks who (one job, Snakemake, or the whole process group), the signal (SIGKILL, SIGTERM
or SIGINT) and the moment. Then the same command is typed again, after --unlock where Snakemake
left its lock; jobs that outlive a killed Snakemake go on beside the new ones. Whenever the run
comes to its end, its archive must equal the undisturbed one bit for bit; it is then deleted and
made again, until there were enough kills.
"""

import argparse
import collections
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support"), str(HERE.parents[1])]

from runs import Run, arrays, assert_same, stand_ins  # noqa: E402
from waiting import wait_until  # noqa: E402

from cdm.jobs.device import give_back, lease  # noqa: E402

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
FIRST_GUESS_S = 12.0  # how long a run takes; those that end before their kill say better
TARGETS = ("job", "snakemake", "group")


def kill_run(
    folder: Path,
    kills: int,
    seed: int,
    log=print,
    jobs: int = 1,
    gpu: str | None = None,
    devices: int = 0,
) -> collections.Counter:
    """Kill runs in `folder` until there were `kills` kills.

    Args:
        folder: where they work.
        kills: how many signals are sent.
        seed: of targets, signals and moments.
        log: gets a line for each kill and each archive.
        jobs: chunk jobs at a time.
        gpu: what the configuration says; None computes on the CPU.
        devices: GPUs that are not there, on which jobs compute and stand by (`runs.stand_ins`).
    Returns:
        How often each (target, signal) struck; `archives`: how many were compared.
    Raises:
        AssertionError: something half-written was accepted, or an archive differs.
    """
    run, arguments, environment, expected = _prepare(folder, jobs, gpu, devices)
    log(f"undisturbed: {len(expected['sample'])} samples")
    pick, counts, struck = random.Random(seed), collections.Counter(), 0
    duration, groups = FIRST_GUESS_S, []
    try:
        while struck < kills or not counts["archives"]:
            # Start it, and strike unless there were enough kills: then it may end.
            began, hit = time.monotonic(), None
            process = run.start(*arguments, **environment)
            groups.append(process.pid)
            if struck < kills:
                hit = _strike(process, pick, pick.uniform(0.2, 0.9) * duration)
            if hit:
                struck += 1
                counts[hit] += 1
                log(f"kill {struck}: {hit}, {len(run.records())} chunks finished")

            # What is left: an archive, or what the same command goes on with.
            process.wait()
            if process.returncode == 0:
                if hit is None:  # it was over before the signal, or was left to end
                    duration = min(duration, time.monotonic() - began)
                _wait_for(groups)
                _compare_and_remove(run, expected, environment)
                counts["archives"] += 1
                log(f"archive {counts['archives']} equals the undisturbed one")
            else:
                if not any(map(_alive, groups)):
                    run.check()
                if list((run.folder / ".snakemake/locks").glob("*")):
                    run.unlock()
            groups = list(filter(_alive, groups))
    finally:
        for group in filter(_alive, groups):
            os.killpg(group, signal.SIGKILL)
    return counts


def _prepare(folder: Path, jobs: int, gpu: str | None, devices: int):
    """The run to kill, Snakemake's arguments, its environment, and an undisturbed run's arrays."""
    changes = {"gpu": gpu, "workflow": {"chunk_size": 1 if jobs > 1 else 4}}
    arguments = ("--cores", str(2 * jobs), "--resources", f"gpu={jobs}")
    undisturbed = Run(folder / "undisturbed", **changes)
    if devices:  # as one writes it on a machine with GPUs
        changes |= {"gpu": "auto", "workflow": {"chunk_size": 2}}
        arguments = ("--cores", str(jobs), "--resources", f"gpu={jobs}")
    if gpu is None:
        undisturbed.make_archive()
    else:  # not in this process, which would keep the GPU from the jobs
        undisturbed.finish(*arguments)
    run = Run(folder / "killed", **changes)
    environment = stand_ins(run.folder, devices) if devices else {}
    return run, arguments, environment, arrays(undisturbed)


def _compare_and_remove(run: Run, expected, environment: dict[str, str]) -> None:
    """Hold a finished run against the undisturbed one, and make place for the next."""
    run.check()
    assert_same(arrays(run), expected)
    assert not run.leftovers(), run.leftovers()
    _check_that_nothing_is_held(environment)
    shutil.rmtree(run.outputs)


def _strike(process, pick: random.Random, after: float) -> str | None:
    """Send one signal after some seconds; what was hit, None if the run was over before."""
    time.sleep(after)
    number, target = pick.choice(SIGNALS), pick.choice(TARGETS)
    jobs = jobs_of(process.pid)
    if target == "job" and not jobs:
        target = "group"
    if process.poll() is not None:
        return None
    try:
        if target == "group":
            os.killpg(process.pid, number)
        else:
            os.kill(process.pid if target == "snakemake" else pick.choice(jobs), number)
    except ProcessLookupError:
        return None
    return f"{number.name} to {target}"


def jobs_of(group: int) -> list[int]:
    """Processes of a group that run one of the workflow's scripts.

    A job that starts a program (git, say) has for a moment a child with its own command line, until
    the child becomes that program. Such a child is no job.
    """
    parents = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            pid, words = int(path.parent.name), path.read_bytes().split(b"\0")
            if os.getpgid(pid) == group and b".snakemake/scripts/" in words[1]:
                status = (path.parent / "status").read_text()
                parents[pid] = int(status.split("PPid:")[1].split()[0])
        except (OSError, IndexError):
            pass  # it ended meanwhile
    return [pid for pid, parent in parents.items() if parent not in parents]


def _check_that_nothing_is_held(environment: dict[str, str]) -> None:
    """Every GPU that is not there can be leased."""

    def fail(line: str) -> None:
        raise AssertionError(line)

    for name in filter(None, environment.get("CDM_HOOK_GPUS", "").split(",")):
        lease([name], fail)
    give_back()


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _wait_for(groups: list[int]) -> None:
    """Until jobs that outlived their Snakemake have ended."""
    wait_until(lambda: not any(map(_alive, groups)), "jobs of an earlier run to end")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of targets, signals and moments")
    parser.add_argument("--jobs", type=int, default=1, help="chunk jobs at a time")
    parser.add_argument("--devices", type=int, default=0, help="GPUs that are not there")
    parser.add_argument("--gpu", help="auto: on GPUs (default: on the CPU)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        counts = kill_run(
            Path(folder),
            arguments.kills,
            arguments.seed,
            jobs=arguments.jobs,
            gpu=arguments.gpu,
            devices=arguments.devices,
        )
    archives = counts.pop("archives")
    for name, count in sorted(counts.items()):
        print(f"{count:4} x {name}")
    print(
        f"{sum(counts.values())} kills, {archives} archives, all equal to the undisturbed one; "
        f"{time.monotonic() - started:.0f} s"
    )


if __name__ == "__main__":
    main()
