"""Which device a chunk job runs on; jobs of one machine never share a GPU.

Snakemake counts GPUs but assigns none, so each job leases one: it holds a lock file for as long
as it lives, and the system frees the lock when the process ends, however it ends. Which GPUs
there are to lease is up to `CUDA_VISIBLE_DEVICES`, which a cluster scheduler sets: what it gave
to one of its jobs is never waited for because of another, but Snakemake's jobs inside one
allocation share its GPUs among them like those of a machine.
"""

import atexit
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cdm.errors import ConfigError
from cdm.files import try_lock, unlock

SCHEDULER_JOB = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")
_held: set[Path] = set()  # lock files; a lease lasts until the process ends


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

    uuids = visible_gpus()
    if gpu == "auto" and not uuids:
        log("no CUDA device found, computing on the CPU (gpu: auto)")
        return "cpu"
    if gpu != "auto" and gpu >= len(uuids):
        raise ConfigError(
            f"gpu is {gpu}, but torch {torch.__version__} sees {len(uuids)} CUDA device(s); "
            "expected a number below that, auto, or null for the CPU (--config gpu=null)"
        )
    candidates = uuids if gpu == "auto" else [uuids[gpu]]
    return f"cuda:{uuids.index(lease(candidates, log))}"


def visible_gpus() -> list[str]:
    """UUIDs of the GPUs this process may use, in torch's order."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [str(torch.cuda.get_device_properties(i).uuid) for i in range(count)]


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
    with suppress(FileExistsError):
        folder.mkdir(parents=True)
        folder.chmod(0o1777)  # for every user of the machine, as /tmp is
    allocation = next((os.environ[name] + "-" for name in SCHEDULER_JOB if name in os.environ), "")
    paths = {name: folder / f"{allocation}{name}.lock" for name in names}
    told = False
    while True:
        for name, path in paths.items():
            if path in _held:  # this process's own, from an earlier chunk
                return name
            lock = try_lock(path)
            if lock is not None:
                _held.add(path)
                atexit.register(unlock, path, lock)
                return name
        if not told:
            log(f"all {len(names)} GPU(s) are taken by other jobs; waiting for one")
            told = True
        time.sleep(0.5)


def device_name(device: str) -> str:
    """The device as people call it."""
    import torch

    if device == "cpu":
        return f"CPU ({torch.get_num_threads()} thread(s))"
    return torch.cuda.get_device_name(device)
