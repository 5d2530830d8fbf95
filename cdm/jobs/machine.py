"""Where a job runs: its scheduler's number, its process, and its device.

What is written about a device is structured, so that no reader has to take a name apart.
"""

import os
from pathlib import Path
from typing import Any

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
