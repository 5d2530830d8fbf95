"""One small job in a folder of its own, and what the tests of faults ask about it."""

import os
import subprocess
from pathlib import Path

import forked
import numpy as np
import yaml
from archives import verify_archive
from helpers import REPO, SMALL_RUN, overlay, write_dataset

from cdm.archive import ContactMaps
from cdm.archive.store import verify_chunk

HOOK = Path(__file__).parent / "hook"
NUM_ITEMS, NUM_POINTS = 7, 64
CONFIG = overlay(SMALL_RUN, {"diffusion": {"timestep_respacing": 4}})
SLOW = {"diffusion": {"timestep_respacing": 25}, "num_points": 512}  # seconds a chunk
# Stopping takes a second or two. Other work on the machine stretches that; a job that does not
# stop at all would take minutes.
SOON_S = 60
LOCAL = ("--cores", "2", "--resources", "gpu=1")
WORKFLOW = ("-s", f"{REPO}/Snakefile", "--configfile", "mine.yaml")


def stand_ins(folder: Path, number: int) -> dict[str, str]:
    """Variables that give a run so many GPUs that are not there (`hook`); `gpu` must be auto.

    Args:
        folder: of the run, whose path makes their names its own; leases.txt there tells who held
            which.
    """
    names = ",".join(f"GPU-{n}{folder}" for n in range(number))
    return {"CDM_HOOK_GPUS": names, "CDM_HOOK_LEASES": str(folder / "leases.txt")}


class Run:
    """A folder with a dataset and a configuration, in which Snakemake runs."""

    def __init__(self, folder: Path, num_points: int = NUM_POINTS, **changes):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        write_dataset(folder / "data", NUM_ITEMS, num_points)
        config = overlay(CONFIG, {"dataset": {"num_points": num_points}} | changes)
        (folder / "mine.yaml").write_text(yaml.safe_dump(config))

    @classmethod
    def in_folder(cls, folder: Path) -> "Run":
        """The job that lies there already."""
        run = cls.__new__(cls)
        run.folder = folder
        return run

    @property
    def outputs(self) -> Path:
        return self.folder / "outputs/run"

    def make_chunks(self, *numbers: int) -> None:
        """Make all chunks, or those of some numbers, without Snakemake and its processes."""
        from in_process import make_chunks  # torch

        make_chunks(self.folder, numbers or None)

    def make_archive(self) -> None:
        """Make the archive without Snakemake: what the others are held against."""
        from in_process import make_archive

        make_archive(self.folder)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen:
        """Snakemake in a process group of its own, its output appended to run.log."""
        with open(self.folder / "run.log", "ab") as log:
            return subprocess.Popen(
                ["snakemake", *(arguments or LOCAL), *WORKFLOW],
                cwd=self.folder,
                env=os.environ | _hooked(environment),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def snakemake(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        """The finished process, with all its output in `stdout`."""
        arguments = (*(arguments or LOCAL), *WORKFLOW)
        return forked.snakemake(self.folder, *arguments, environment=_hooked(environment))

    def finish(self, *arguments: str, **environment: str) -> str:
        """Run to the end; the output."""
        done = self.snakemake(*arguments, **environment)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def leases(self) -> list[tuple[int, str, str]]:
        """(process, begin or end, device) of each lease of a GPU that is not there, in order."""
        lines = (self.folder / "leases.txt").read_text().splitlines()
        return [(int(pid), *rest) for _, pid, *rest in sorted(map(str.split, lines))]

    def unlock(self) -> None:
        """What the pages say to type after a kill."""
        self.finish("--unlock")

    def records(self) -> list[Path]:
        return sorted((self.outputs / "chunks").glob("*.json"))

    def logs(self) -> str:
        """What all chunk jobs logged."""
        paths = sorted((self.outputs / "logs/generate_chunk").glob("*.log"))
        return "".join(path.read_text() for path in paths)

    def check(self) -> None:
        """Whatever calls itself finished is whole."""
        for path in self.records():
            verify_chunk(path)
        for path in self.outputs.glob("contact_maps-*.json"):
            verify_archive(path)

    def leftovers(self) -> list[Path]:
        """Temporaries and locks that attempts left behind."""
        return [path for end in ("tmp", "lock") for path in self.outputs.rglob(f".*.{end}")]


def _hooked(changes: dict[str, str]) -> dict[str, str]:
    """The variables that a test asks for, and the path of the hook that reads them."""
    paths = [str(HOOK), os.environ.get("PYTHONPATH", "")]
    hook = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return hook | changes if changes else {}


def arrays(run: Run) -> dict[str, np.ndarray]:
    """Every array of the final archive."""
    group = ContactMaps(run.outputs / "contact_maps.zarr").group
    return {name: group[name][:] for name in sorted(group.array_keys())}


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    """Bit for bit: NaN equals NaN, and -0 does not equal 0."""
    assert sorted(a) == sorted(b)
    for name, values in a.items():
        assert values.dtype == b[name].dtype, name
        if values.dtype.kind == "f":
            values, other = (x.view(f"u{x.itemsize}") for x in (values, b[name]))
        else:
            other = b[name]
        np.testing.assert_array_equal(values, other, err_msg=name)
