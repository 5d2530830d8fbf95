"""Where a job runs: its scheduler's number, its process, the run's process, and its device.

What is written about a device is structured, so that no reader has to take a name apart.
"""

import contextlib
import ctypes
import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# What OpenMP, MKL and other libraries read when they are loaded. Snakemake sets them for its jobs.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
RUN_PROCESS = "CDM_RUN_PROCESS"  # variable that names the process of the run
# Variables in which cluster schedulers tell a job its number.
SCHEDULER_JOB = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")


def scheduler_job() -> str:
    """The number that a cluster scheduler gave this job; "" outside of one."""
    return next((os.environ[key] for key in SCHEDULER_JOB if os.environ.get(key)), "")


def process_space() -> str:
    """Tells the containers of one machine apart, in which a pid means different processes."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def process_birth(pid: int) -> str:
    """When a process was started: the machine's boot and clock ticks since; "" if not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # Field 22 of the line; the second field is a name in brackets that may hold spaces.
        return f"{boot} {Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]}"
    except (OSError, IndexError):
        return ""


def process_age_s() -> float | None:
    """Seconds since this process was started, to a hundredth; None where the system hides it."""
    try:
        ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
        started_s = int(ticks) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started_s)
    except (OSError, AttributeError, IndexError, ValueError):
        return None


def set_thread_variables(threads: int) -> None:
    """Tell numpy, torch and other libraries how many threads to use, before they are imported."""
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))


@contextlib.contextmanager
def garbage_waits() -> Iterator[None]:
    """Have Python look for no garbage inside the block, nor ever in what was made there.

    Importing torch or transformers makes hundreds of thousands of objects that stay to the end.
    While there are more and more of them, Python searches them for garbage again and again: this
    took a tenth to a quarter of an import. What is no garbage after the block is not searched
    later either, so that no search stops a thread in the middle of sampling.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()


def keep_freed_memory() -> bool:
    """Have this process keep memory that it frees for its next allocation.

    Each step of a model on the CPU allocates and frees the same arrays of some megabytes. glibc
    gives such memory back to the system, depending on where it lies, and the system then hands it
    out page by page again: that took up to 15 % of a step. Now it keeps up to 256 MB.

    Returns:
        whether it does; not where the C library is another one.
    """
    trim_threshold, mmap_threshold = -1, -3  # names of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(trim_threshold, 2**28) and mallopt(mmap_threshold, 2**25))


def announce_run() -> None:
    """Tell the jobs that this process starts who their run is (`run_has_ended`)."""
    pid = os.getpid()
    os.environ[RUN_PROCESS] = "|".join((str(pid), process_birth(pid), process_space()))


def run_has_ended() -> bool:
    """Whether the process that announced this job's run is gone; False if none is known."""
    pid, _, known = os.environ.get(RUN_PROCESS, "").partition("|")
    birth, _, space = known.partition("|")
    if not (pid.isdigit() and birth) or space != process_space():
        return False
    return process_birth(int(pid)) != birth


def describe_device(device: str) -> dict[str, Any]:
    """A torch device as records keep it.

    Returns:
        kind: "cpu" or "cuda". name: as its vendor calls it, "CPU" for any CPU. threads: how many
        compute on a CPU, None on a GPU.
    """
    import torch

    if device == "cpu":
        return {"kind": "cpu", "name": "CPU", "threads": torch.get_num_threads()}
    return {"kind": "cuda", "name": torch.cuda.get_device_name(device), "threads": None}


def read_device(recorded: Any) -> dict[str, Any]:
    """A recorded device as `describe_device` gives it.

    Args:
        recorded: such a mapping, or the text that earlier versions wrote: "CPU (4 thread(s))" or
            the name of a GPU.
    """
    if isinstance(recorded, dict):
        return {key: recorded.get(key) for key in ("kind", "name", "threads")}
    name = str(recorded)
    if not name.startswith("CPU"):
        return {"kind": "cuda", "name": name, "threads": None}
    threads = "".join(filter(str.isdigit, name))
    return {"kind": "cpu", "name": "CPU", "threads": int(threads) if threads else None}


def device_text(recorded: Any) -> str:
    """A recorded device as people call it, such as "CPU (4 thread(s))" or "NVIDIA H100"."""
    device = read_device(recorded)
    threads = f" ({device['threads']} thread(s))" if device["threads"] else ""
    return f"{device['name']}{threads}"
