"""Which device a job computes on. Jobs of one machine never share a GPU.

Snakemake counts GPUs but assigns none, so each job leases one and sees no other: it sets
`CUDA_VISIBLE_DEVICES` to the UUID of that GPU before CUDA starts. Then `cuda:0` is the only device
there is, and no kernel, graph or library can miss it.

A lease is a socket with a name in Linux's abstract namespace. The system allows each name once on
a machine and frees it when the process ends, however it ends. There is no file that a folder for
temporary files, another user or a symbolic link could spoil. A job that has no more to compute
gives its lease back before it ends (`give_back`), so that the next job need not wait for its
writing.

`CUDA_VISIBLE_DEVICES`, which a cluster scheduler sets, says which GPUs there are to lease. Inside
an allocation of a scheduler the name of a lease contains the scheduler's job id: jobs of different
allocations never wait for each other, jobs inside one allocation do.
"""

import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from cdm.errors import ConfigError, RunEnded
from cdm.jobs.every import Every
from cdm.jobs.machine import run_has_ended, scheduler_job

VISIBLE = "CUDA_VISIBLE_DEVICES"
POLL_S = 0.05  # a GPU that is given back stands idle for at most that long
LOOK_EVERY_S = 1.0  # for the run's own process, while waiting
LONGEST_NAME = 107  # bytes of a socket's name
_held: dict[str, socket.socket] = {}  # leases of this process, until it ends


def choose_device(
    gpu: int | Any | None, log: Callable[[str], None], wait: Callable[[], None] = lambda: None
) -> str:
    """Name of the torch device to compute on; a GPU is leased until the process ends.

    Args:
        gpu: None for the CPU, "auto" for a free GPU or else the CPU, or a number. Numbers count
            the devices in `CUDA_VISIBLE_DEVICES`, or without it those that nvidia-smi lists.
        log: gets a line when the job waits for a GPU, and one that says where it computes.
        wait: called when it is known which devices there are, before one is leased.
    Returns:
        "cpu", or "cuda:0": the leased GPU is the only one that this process sees.
    Raises:
        ConfigError: this machine has no device of that number, or torch cannot use it.
    """
    if gpu is None:
        wait()
        return "cpu"
    devices, obstacle = _usable_devices()
    if gpu == "auto" and not devices:
        wait()
        log(f"no CUDA device found, computing on the CPU (gpu: auto){obstacle}")
        return "cpu"
    if gpu != "auto" and gpu >= len(devices):
        raise ConfigError(
            f"gpu is {gpu}, but this process may use {len(devices)} CUDA device(s){obstacle}; "
            "expected a number below that, auto, or null for the CPU (--config gpu=null)"
        )
    candidates = devices if gpu == "auto" else [devices[gpu]]
    if len(candidates) == 1:  # CUDA's driver takes 0.2 s to start, and nothing of the GPU
        _see_only(candidates[0])
    wait()
    name = lease(candidates, log)
    _see_only(name)
    log(f"computing on {name}")
    return "cuda:0"


def visible_devices() -> list[str]:
    """UUIDs of the GPUs and MIG devices that this process may use; CUDA is not started.

    Follows `CUDA_VISIBLE_DEVICES` as CUDA reads it: numbers or (beginnings of) UUIDs, and nothing
    after the first entry that names no device. A GPU in MIG mode stands for its MIG devices.
    """
    gpus = list(_list_gpus())
    setting = os.environ.get(VISIBLE)
    if setting is None:
        return [device for _, parts in gpus for device in parts]
    devices: list[str] = []
    for entry in map(str.strip, setting.split(",")):
        found = _devices_of(entry, gpus)
        if not found:
            break
        devices += [device for device in found if device not in devices]
    return devices


def lease(names: list[str], log: Callable[[str], None], what: str = "GPU(s)") -> str:
    """Hold one of several devices until `give_back` or the process's end; waits until one is free.

    Args:
        names: unique names (UUIDs) of the devices, tried in this order.
        log: gets one line when all devices are held by others, with their process ids.
        what: what that line calls them.
    Returns:
        The name of the device that is now held. A process that holds one of them keeps it.
    Raises:
        RunEnded: the Snakemake that started this job is not there any more. The job has not begun
            to compute, so nothing is lost if it ends too.
    """
    allocation = scheduler_job()
    addresses = {name: f"\0contact-maps/{name}@{allocation}".encode() for name in names}
    addresses = {name: address[: LONGEST_NAME + 1] for name, address in addresses.items()}
    for name in names:
        if name in _held:
            return name
    announced, look = False, Every(LOOK_EVERY_S)
    while True:
        if (not announced or look.due()) and run_has_ended():
            raise RunEnded("the run that started this job has ended; no map was begun")
        for name, address in addresses.items():
            holder = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                holder.bind(address)
            except OSError:  # another process holds this name
                holder.close()
                continue
            holder.listen(1)  # lets the others ask for this process's id
            _held[name] = holder
            return name
        if not announced:
            pids = sorted(filter(None, map(_holder_pid, addresses.values())))
            by = f" (process {', '.join(map(str, pids))})" if pids else ""
            log(f"all {len(names)} {what} are taken by other jobs{by}; waiting for one")
            announced = True
        time.sleep(POLL_S)


def give_back() -> None:
    """Let other jobs have what this process holds. It must not compute on a GPU any more."""
    while _held:
        _held.popitem()[1].close()


def device_name(device: str) -> str:
    """The device as people call it."""
    import torch

    if device == "cpu":
        return f"CPU ({torch.get_num_threads()} thread(s))"
    return torch.cuda.get_device_name(device)


def _usable_devices() -> tuple[list[str], str]:
    """The devices that may be used, and the reason why torch can use none, if there is one."""
    devices = visible_devices()
    if devices:
        import torch

        if torch.version.cuda is None:
            return [], f": torch {torch.__version__} is built without CUDA"
    return devices, ""


def _see_only(name: str) -> None:
    """Make this the only device of the process, and start CUDA's driver.

    Nothing is allocated on the GPU: that begins with the first tensor there.
    """
    os.environ[VISIBLE] = name
    _check_that_torch_sees(name)


def _check_that_torch_sees(name: str) -> None:
    """Start CUDA and make sure that its first device is this one."""
    import torch

    try:
        torch.cuda.init()
        found = str(torch.cuda.get_device_properties(0).uuid)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"CUDA does not start on GPU {name}: {reason}. Look at that GPU with nvidia-smi, "
            "choose another one (--config gpu=N), or compute on the CPU (--config gpu=null)"
        ) from None
    # torch gives the UUID of a whole GPU, without its prefix, even for a MIG device.
    if name.startswith("GPU-") and name != f"GPU-{found}":
        raise ConfigError(
            f"this process is to compute on GPU {name}, but CUDA was started before on "
            f"GPU-{found}. Start a new process, or set {VISIBLE}={name} before it starts"
        )


def _list_gpus() -> Iterator[tuple[str, list[str]]]:
    """Each GPU's UUID with the UUIDs of what can be leased of it, in the order of nvidia-smi.

    That is the GPU itself, or its MIG devices. GPUs that the system refuses to this process, as a
    scheduler arranges it, are left out. Without NVIDIA's driver there are none.

    Raises:
        ConfigError: the driver does not answer, or cannot be asked. Computing on the CPU instead
            would cost a user days.
    """
    if sys.platform != "linux":
        return  # no CUDA there
    try:
        import pynvml
    except ImportError:
        raise ConfigError(
            "the package nvidia-ml-py, which lists the GPUs, is not installed. Install it with "
            "pip install -c constraints.txt -e . or compute on the CPU (--config gpu=null)"
        ) from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if error.value in (
            pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
            pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        ):
            return  # a machine without NVIDIA's driver
        raise ConfigError(
            f"NVIDIA's driver does not list the GPUs: {error}. See what nvidia-smi says, or "
            "compute on the CPU (--config gpu=null)"
        ) from None
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            try:
                gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
                uuid = pynvml.nvmlDeviceGetUUID(gpu)
            except pynvml.NVMLError:
                continue
            yield uuid, list(_mig_devices(pynvml, gpu)) if _in_mig_mode(pynvml, gpu) else [uuid]
    finally:
        pynvml.nvmlShutdown()


def _in_mig_mode(pynvml, gpu) -> bool:
    try:
        return pynvml.nvmlDeviceGetMigMode(gpu)[0] == pynvml.NVML_DEVICE_MIG_ENABLE
    except pynvml.NVMLError:
        return False  # a GPU that knows no MIG


def _mig_devices(pynvml, gpu) -> Iterator[str]:
    for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
        try:
            device = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, index)
        except pynvml.NVMLError:
            continue  # a slot without a device
        yield pynvml.nvmlDeviceGetUUID(device)


def _devices_of(entry: str, gpus: list[tuple[str, list[str]]]) -> list[str]:
    """What one entry of CUDA_VISIBLE_DEVICES names; empty if it names nothing."""
    if entry.isascii() and entry.isdigit():
        return gpus[int(entry)][1] if int(entry) < len(gpus) else []
    if entry.startswith("GPU-"):
        matches = [parts for uuid, parts in gpus if uuid.startswith(entry)]
        return matches[0] if len(matches) == 1 else []
    if entry.startswith("MIG-"):
        known = [device for _, parts in gpus for device in parts if device.startswith(entry)]
        # Drivers before R470 call them MIG-GPU-{uuid}/{instance}/{instance}; CUDA still does.
        return known[:1] if known else [entry] if entry.startswith("MIG-GPU-") else []
    return []


def _holder_pid(address: bytes) -> int | None:
    """Process id of a lease's holder, if the system tells it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as question:
        question.setblocking(False)
        try:
            question.connect(address)
            answer = question.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        except OSError:
            return None
    return struct.unpack("3i", answer)[0]
