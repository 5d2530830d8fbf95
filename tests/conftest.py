"""What every test shares, and how tests are spread over processes."""

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
MOST_WORKERS = 8  # each may hold a model, and start a Snakemake with two jobs
GPU = "/dev/nvidiactl"  # stands where NVIDIA's driver is
# Reasons to skip a test where CDM_NO_SKIPS is set, as CI does: all but these can be installed.
MAY_BE_ABSENT = ("CUDA device", "no golden numbers", "no logs of experiments", "no real motions")
# Tests that take long come first, so that no process is left alone with one at the end.
SLOW_FIRST = ("tests/faults", "tests/workflow", "tests/demo", "tests/training", "tests/commands")

# Processes that tests start import this checkout's cdm, whatever is installed.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(REPO), os.environ.get("PYTHONPATH", "")])
)
if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: one thread for each process
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")

# Waiting for the disk is a third of the time of a test that writes chunks. No test here can lose
# power, and the processes that tests start do wait.
os.fsync = lambda descriptor: None


@pytest.hookimpl(optionalhook=True)  # only where pytest-xdist is installed and used
def pytest_xdist_auto_num_workers(config):
    """What `-n auto` means: the cores this process may use, but not more than memory is for.

    Where a GPU is, no other process (0): one that leased the GPU keeps it until it ends, and the
    others would wait for it.
    """
    if os.path.exists(GPU):
        return 0
    return min(len(os.sched_getaffinity(0)), MOST_WORKERS)


def pytest_collection_modifyitems(items):
    """Long tests first; skip what is marked `gpu` where there is none."""

    def place(item):
        folders = [folder for folder in SLOW_FIRST if item.nodeid.startswith(folder)]
        return SLOW_FIRST.index(folders[0]) if folders else len(SLOW_FIRST)

    items.sort(key=place)  # stable: within a folder, the order stays
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            driver = f"{GPU} is there, but torch sees none" if os.path.exists(GPU) else "none here"
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=f"needs a CUDA device: {driver}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """For tests that are skipped."""
    return judge_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """For files that are skipped."""
    return judge_skip((yield))


def judge_skip(report):
    """The report; where CDM_NO_SKIPS says that all is installed, a skip is a failure."""
    if report.skipped and "CDM_NO_SKIPS" in os.environ:
        _, _, reason = report.longrepr
        if not any(words in reason for words in MAY_BE_ABSENT):
            report.outcome, report.longrepr = "failed", f"CDM_NO_SKIPS is set; {reason}"
    return report


@pytest.fixture(autouse=True)
def the_same_random_numbers():
    """What a test draws does not depend on the tests that ran before it in this process."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """made_once(name, make): the folder that make(folder) filled, once for all processes.

    Tests only read it. `make` creates the folder.
    """
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def once(name: str, make: Callable[[Path], None]) -> Path:
        folder, done = base / f"shared-{name}", base / f"shared-{name}.done"
        with open(base / f"shared-{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a process that failed
                make(folder)
                done.touch()
        return folder

    return once


@pytest.fixture(scope="session")
def parity() -> Path:
    """Folder of the golden numbers of afford-motion's code.

    `CDM_PARITY_DIR` names another set of the same form.
    """
    folder = Path(os.environ.get("CDM_PARITY_DIR", REPO / "../shared/parity")).resolve()
    if not (folder / "index.json").exists():
        pytest.skip(f"no golden numbers: {folder}/index.json is missing (set CDM_PARITY_DIR)")
    return folder


@pytest.fixture(scope="session")
def parity_index(parity) -> dict:
    """`index.json` of the parity set: shapes, options and tolerances of every case."""
    return json.loads((parity / "index.json").read_text())
