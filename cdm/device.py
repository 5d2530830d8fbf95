"""Which device a chunk job runs on; jobs of one machine never share a GPU.

Snakemake counts GPUs but assigns none, so each job leases one: it holds a lock file for as long
as it lives, and the system frees the lock when the process ends, however it ends. Under a
cluster scheduler the assignment (`CUDA_VISIBLE_DEVICES`) is taken as it is.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cdm.errors import ConfigError

SCHEDULER_JOB = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")
_held: dict[Path, int] = {}  # open lock files; a lease lasts until the process ends


def choose_device(gpu: int | str | None, log: Callable[[str], None]) -> str:
    """Name of the torch device to compute on, leased if it is a GPU.

    Args:
        gpu: device number, None for the CPU, or "auto": a free GPU, else the CPU.
        log: told which device it is, and that the job waits for one.
    Raises:
        ConfigError: a device number that this machine does not have.
    """
    if gpu is None:
        return "cpu"
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpu == "auto" and count == 0:
        log("no CUDA device found, computing on the CPU (gpu: auto)")
        return "cpu"
    if gpu != "auto" and gpu >= count:
        raise ConfigError(
            f"gpu is {gpu}, but torch {torch.__version__} sees {count} CUDA device(s); expected a "
            "number below that, auto, or null for the CPU (--config gpu=null)"
        )
    if any(name in os.environ for name in SCHEDULER_JOB):
        return f"cuda:{0 if gpu == 'auto' else gpu}"
    candidates = range(count) if gpu == "auto" else [gpu]
    uuids = {str(torch.cuda.get_device_properties(i).uuid): i for i in candidates}
    return f"cuda:{uuids[lease(list(uuids), log)]}"


def lease(names: list[str], log: Callable[[str], None], folder: Path | None = None) -> str:
    """Hold one of several devices until this process ends, waiting for a free one.

    Args:
        names: unique names (UUIDs) of the devices, tried in this order.
        log: told once when all are taken.
        folder: where the lock files lie; jobs that share devices must share it.
    Returns:
        The name of the device now held.
    """
    folder = folder or Path(tempfile.gettempdir(), "contact-map-devices")
    if not folder.exists():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o1777)  # for every user of the machine, as /tmp is
    paths = {name: folder / f"{name}.lock" for name in names}
    told = False
    while True:
        for name, path in paths.items():
            if path in _held:  # this process's own, from an earlier chunk
                return name
            file = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                continue
            _held[path] = file
            return name
        if not told:
            log(f"all {len(names)} GPU(s) are taken by other jobs; waiting for one")
            told = True
        time.sleep(0.5)
