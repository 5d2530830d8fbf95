"""Injects faults into the jobs of a run, from outside: tests put this folder on PYTHONPATH.

Python imports a module of this name when it starts. Only Snakemake and its scripts are touched,
and only by what the environment asks for:

CDM_HOOK_ENVIRONMENT=FILE   append one line: rule, scheduler's job id, CUDA_VISIBLE_DEVICES
CDM_HOOK_GPUS=a,b           the machine has GPUs of these UUIDs; jobs lease them, compute on the
                            CPU, and append "time job event device" to $CDM_HOOK_LEASES
CDM_HOOK_POLL_S=3           Snakemake asks a cluster about its jobs this often
CDM_HOOK_SLOW_S=2           reading any item takes that long
CDM_HOOK_UNLINK=SUFFIX      an item's file of this suffix disappears when it is first asked for
CDM_HOOK_TRUNCATE=SUFFIX    it loses its second half
"""

import importlib.abc
import os
import re
import sys
import time

SCRIPT = re.compile(r"/(?:tmp\w+)\.(\w+)\.py$")
rule = next((found[1] for arg in sys.orig_argv[1:2] if (found := SCRIPT.search(arg))), None)


def append(path, *words):
    with open(path, "a") as file:
        file.write(" ".join(map(str, words)) + "\n")


def fake_gpus(device):
    """Lease for real, among GPUs that are not there."""
    names = os.environ["CDM_HOOK_GPUS"].split(",")
    give_back = device.give_back

    def note(event, name):
        append(os.environ["CDM_HOOK_LEASES"], time.monotonic(), os.getpid(), event, name)

    def choose_device(gpu, log, wait=lambda: None):
        wait()
        name = device.lease(names, log)
        note("begin", name)
        return "cpu"

    def noted_give_back():
        for name in filter(device._held.__contains__, names):
            note("end", name)
        give_back()

    device.choose_device, device.give_back = choose_device, noted_give_back
    device.visible_devices = lambda: names


def frequent_polls(remote):
    """Slurm's plugin asks 10 s later each time that no job has ended: tests waited for minutes."""

    import asyncio

    async def sleep(self):
        await asyncio.sleep(float(os.environ["CDM_HOOK_POLL_S"]))

    remote.RemoteExecutor.sleep = sleep


def faulty_reads(files):
    """Items that are slow, disappear or are cut off while the run is under way."""
    read = files.FileReader.read

    def faulty(self, relpath):
        path = self.path(relpath)
        time.sleep(float(os.environ.get("CDM_HOOK_SLOW_S", 0)))
        if relpath.endswith(os.environ.get("CDM_HOOK_UNLINK", "\0")):
            path.unlink(missing_ok=True)
        if relpath.endswith(os.environ.get("CDM_HOOK_TRUNCATE", "\0")):
            os.truncate(path, path.stat().st_size // 2)
        return read(self, relpath)

    files.FileReader.read = faulty


class AfterImport(importlib.abc.MetaPathFinder):
    """Calls a function on a module right after its first import."""

    def __init__(self, patches):
        self.patches = patches

    def find_spec(self, name, path, target=None):
        if name not in self.patches:
            return None
        patch = self.patches.pop(name)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            patch(module)

        spec.loader.exec_module = exec_module
        return spec


patches = {}
if "CDM_HOOK_GPUS" in os.environ:
    patches["cdm.jobs.device"] = fake_gpus
if "CDM_HOOK_POLL_S" in os.environ:
    patches["snakemake_interface_executor_plugins.executors.remote"] = frequent_polls
if rule:
    if "CDM_HOOK_ENVIRONMENT" in os.environ:
        job = os.environ.get("SLURM_JOB_ID")
        devices = os.environ.get("CUDA_VISIBLE_DEVICES")
        append(os.environ["CDM_HOOK_ENVIRONMENT"], rule, job, devices)
    if os.environ.keys() & {"CDM_HOOK_SLOW_S", "CDM_HOOK_UNLINK", "CDM_HOOK_TRUNCATE"}:
        patches["cdm.datasets.files"] = faulty_reads
if patches:
    import importlib.util

    sys.meta_path.insert(0, AfterImport(patches))
