"""Run the workflow itself on a full-size dataset and checkpoint, and print what it took.

    python benchmarks/whole_job.py --folder /scratch/whole_job --items 24544 --steps 18 --gpus 4
    python benchmarks/whole_job.py --folder /scratch/whole_job --items 2048 --tree ../before --kill
    python benchmarks/whole_job.py --tiny --folder /tmp/whole_job        # a minute on a CPU

Dataset and checkpoint are made once and used again: afford-motion's folders (made_data.py: a pool
of files under as many names as there are items) and an untrained PointMamba of full size. Then one
`snakemake` command is started in a folder of its own, as a user would. The seconds are those from
its start to its end, merge included. Other figures come from the records and logs of the chunks,
and from NVML. With --kill a second run is killed with SIGKILL at a random moment and the same
command is typed again; what that took longer than the undisturbed run is what the kill cost.
"""

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from archive_digest import differences, digest_archive, digest_shards
from denoising_step import architecture
from gpu_watch import GpuWatch
from job_start import BEFORE
from made_data import dataset_section, write_dataset
from run_timeline import read_timeline, summarise

from cdm.jobs.device import VISIBLE, visible_devices
from cdm.training.initial_weights import write_checkpoint

REPO = Path(__file__).resolve().parent.parent
TINY = {
    "items": 24, "points": 256, "trans_dim": 32, "depth": 1, "chunk_size": "6", "batch_size": "4",
    "cores": 2, "gpus": 0,
}  # fmt: skip
ON_SLURM = (  # what does not fit the small cluster of the tests
    *("--set-resources", "generate_chunk:mem_mb=1000", "merge:mem_mb=1000"),
    *("--set-threads", "generate_chunk=1", "merge=1"),
    *("--slurm-init-seconds-before-status-checks", "3", "--latency-wait", "5"),
)
FULL_CHAIN = 500  # steps of the untrained model's chain


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--folder", type=Path, required=True, help="scratch: data, checkpoint, runs")
    add("--layout", choices=("h3d", "humanise"), default="h3d")
    add("--items", type=int, default=512)
    add("--points", type=int, default=8192)
    add("--trans-dim", type=int, default=256)
    add("--depth", type=int, default=8)
    add("--steps", type=int, default=18, help="500: the whole chain; fewer: config/fast.yaml's")
    add("--gpus", type=int, default=1, help="0 for the CPU")
    add("--cores", type=int, help="to confine the run to; default: all that this process has")
    add("--chunk-size", help="a number or auto; default: the tree's default")
    add("--batch-size", help="a number or auto; default: the tree's default")
    add("--precision", default="auto")
    add("--standby", choices=("on", "off"), help="workflow.standby, in trees that have it")
    add("--tree", type=Path, default=REPO, help="checkout whose Snakefile is run")
    add("--slurm", action="store_true", help="on the tests' own Slurm, which is started (as root)")
    add("--kill", action="store_true", help="also kill a run at a random moment, and resume it")
    add("--kill-seed", type=int, default=0)
    add("--digest", action="store_true", help="hash the arrays, for other chunk sizes to compare")
    add("--same-as", type=Path, help="figures (JSON) of a run whose archive must be the same")
    add("--name", default="run", help="of this row: folder, log, figures")
    add("--json", type=Path, help="default: FOLDER/NAME.json")
    add("--keep", action="store_true", help="leave the archive; default: removed once measured")
    add("--only-data", action="store_true", help="make dataset and checkpoint, run nothing")
    add("--tiny", action="store_true", help="a small model on the CPU")
    if "--tiny" in sys.argv:
        parser.set_defaults(**TINY)
    return parser.parse_args()


def main() -> int:
    """Make what the runs need, and run."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    options = read_options()
    folder = options.folder.resolve()
    data = write_dataset(folder, options.layout, options.items, options.points)
    checkpoint = folder / f"exp_{options.trans_dim}_{options.depth}" / "ckpt" / "model000000.pt"
    if not checkpoint.exists():
        write_checkpoint(checkpoint, architecture(options.trans_dim, options.depth))

    if options.only_data:
        return 0

    with slurm() if options.slurm else contextlib.nullcontext():
        return measure(options, folder, data, checkpoint)


@contextlib.contextmanager
def slurm():
    """The cluster of the tests: one node, two fake GPUs, on loopback."""
    sys.path.insert(0, str(REPO / "tests" / "faults"))
    from slurm_lab import SlurmLab, unusable

    if unusable():
        raise SystemExit(f"no Slurm here: {unusable()}")
    with tempfile.TemporaryDirectory(prefix="lab") as folder, SlurmLab(Path(folder)):
        yield


def measure(options, folder: Path, data: Path, checkpoint: Path) -> int:
    """The runs that were asked for; exit status 1 if an archive is not as it must be."""
    # The undisturbed run.
    figures = describe(options)
    run = Run(options, folder, data, checkpoint, options.name)
    print(f"{options.name}: {run.typed}", flush=True)
    figures |= run.measured()
    print_figures(figures)

    # The killed one.
    if options.kill:
        killed = Run(options, folder, data, checkpoint, f"{options.name}_killed")
        moment = random.Random(options.kill_seed).uniform(0.15, 0.9) * figures["seconds"]
        figures["killed"] = found = killed.measured(kill_after_s=moment)
        found["lost_s"] = round(found["seconds"] - figures["seconds"], 2)
        found["differs_in"] = differences(found["shards"], figures["shards"])
        print_kill(found)

    # Written before anything is found wrong.
    problems = list(figures.get("killed", {}).get("differs_in", []))
    if options.same_as:
        problems += compare_with(options.same_as, figures)
    path = options.json or folder / f"{options.name}.json"
    path.write_text(json.dumps(figures, indent=1))
    return 1 if problems else 0


class Run:
    """One run in a folder of its own: its configuration, its command, what it took."""

    def __init__(self, options, folder: Path, data: Path, checkpoint: Path, name: str):
        self.options, self.name = options, name
        self.folder = folder / "runs" / name
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        (self.folder / "config.yaml").write_text(json.dumps(self._config(data, checkpoint)))
        self.outputs = self.folder / "outputs" / "run"

        snakemake = shutil.which("snakemake")
        self.command = [snakemake] if snakemake else [sys.executable, "-m", "snakemake"]
        self.command += ["-s", str(options.tree.resolve() / "Snakefile")]
        self.command += ["--configfile", "config.yaml"]
        cores = options.cores or len(os.sched_getaffinity(0))
        self.confined_to = sorted(os.sched_getaffinity(0))[:cores]
        if options.slurm:
            profile = options.tree.resolve() / "profiles" / "slurm"
            self.command += ["--workflow-profile", str(profile), *ON_SLURM]
        else:
            self.command += ["--cores", str(cores), "--resources", f"gpu={max(1, options.gpus)}"]
        self.typed = " ".join(["snakemake", *self.command[1:]])
        devices = visible_devices() if options.gpus else []
        self.gpus = devices[: options.gpus]
        if len(self.gpus) < options.gpus:
            raise SystemExit(f"--gpus {options.gpus}: there are {len(devices)}")

    def _config(self, data: Path, checkpoint: Path) -> dict:
        """What differs from the tree's defaults."""
        options, workflow, sampling = self.options, {}, {"precision": self.options.precision}
        if options.chunk_size:
            workflow["chunk_size"] = number(options.chunk_size)
        if options.standby:
            workflow["standby"] = options.standby == "on"
        if options.batch_size:
            sampling["batch_size"] = number(options.batch_size)
        whole = options.steps >= FULL_CHAIN
        if not whole:
            sampling |= {"method": "dpmpp_2m_sde"}
        return {
            "exp_name": "run",
            "exp_dir": str(checkpoint.parent.parent),
            "gpu": "auto" if options.gpus else None,
            "dataset": dataset_section(data, options.layout, options.points),
            "model": {"text_model": {"version": "hashing"}},
            "diffusion": {"timestep_respacing": "" if whole else f"snr{options.steps}"},
            "sampling": sampling,
            "workflow": workflow,
        }

    def measured(self, kill_after_s: float | None = None) -> dict:
        """Run the command, with `kill_after_s` killed once and typed again; its figures."""
        found = {}
        with GpuWatch(self.gpus) as watch:
            began = time.perf_counter()
            if kill_after_s is not None:
                found |= self._kill(kill_after_s)
            self._run("run")
            seconds = time.perf_counter() - began
        devices = max(1, self.options.gpus)
        entries = read_timeline(self.outputs)
        found |= {"seconds": round(seconds, 2)} | summarise(entries, seconds, devices)
        found["nvml"] = watch.figures(seconds)
        archive = self.outputs / "contact_maps.zarr"
        last = max(entry["ended"] for entry in entries)
        found["after_last_batch_s"] = round(max(0.0, self.ended - last), 2)
        if kill_after_s is None:
            first = min(entries, key=lambda entry: entry["began"])
            found["before_first_batch_s"] = round(first["began"] - self.began, 2)
            # `began` is when the sampling began, before which the job told of these phases.
            phases = {phase: first["seconds"].get(phase, 0.0) for phase in BEFORE}
            started = found["before_first_batch_s"] - sum(phases.values())
            found["first_job_s"] = {"Snakemake": round(started, 2)} | phases
        found["archive_bytes"] = sum(p.stat().st_size for p in archive.rglob("*") if p.is_file())
        found["shards"] = digest_shards(archive)
        if self.options.digest:
            found["digests"] = digest_archive(archive)
        found["timeline"] = entries
        if not self.options.keep:
            shutil.rmtree(self.outputs / "chunks")
            shutil.rmtree(archive)
        return found

    def _start(self, log) -> subprocess.Popen:
        environment = dict(os.environ)
        if self.gpus:
            environment[VISIBLE] = ",".join(self.gpus)
        return subprocess.Popen(
            self.command,
            cwd=self.folder,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, self.confined_to),
        )

    def _run(self, name: str) -> None:
        with open(self.folder / f"{name}.log", "w") as log:
            self.began = time.time()
            process = self._start(log)
            try:
                process.wait()
            except BaseException:  # Ctrl-C, or ended by others: the run has its own process group
                os.killpg(process.pid, signal.SIGKILL)
                raise
            self.ended = time.time()
        if process.returncode:
            tail = (self.folder / f"{name}.log").read_text("utf-8", "replace")[-3000:]
            raise SystemExit(f"{tail}\n{self.typed}: exit status {process.returncode}")

    def _kill(self, after_s: float) -> dict:
        """Start the command, kill its whole process group, and unlock the folder."""
        with open(self.folder / "killed.log", "w") as log:
            process = self._start(log)
            time.sleep(after_s)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        finished = len(list((self.outputs / "chunks").glob("*.json")))
        time.sleep(1)
        left = processes_in(self.folder)
        began = time.perf_counter()
        with open(self.folder / "unlock.log", "w") as log:
            command = [*self.command, "--unlock"]
            subprocess.run(command, cwd=self.folder, stdout=log, stderr=log, check=True)
        return {
            "killed_after_s": round(after_s, 2),
            "chunks_finished_then": finished,
            "processes_left": left,
            "unlock_s": round(time.perf_counter() - began, 2),
        }


def number(text: str) -> int | str:
    """A number where it is one, else the word (auto)."""
    return int(text) if text.isdigit() else text


def processes_in(folder: Path) -> list[str]:
    """Commands of the processes whose working folder this is."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(path / "cwd")) == folder:
                found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200])
        except OSError:
            continue  # ended, or another user's
    return found


def describe(options) -> dict:
    """What was run, and where."""
    import torch

    git = ["git", "-C", str(options.tree), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    cores = options.cores or len(os.sched_getaffinity(0))
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
    return {
        "name": options.name,
        "options": settings,
        "commit": commit or "no git",
        "machine": {"gpus": gpus, "cores": cores, "torch": torch.__version__},
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def compare_with(path: Path, figures: dict) -> list[str]:
    """What differs from another run's archive; prints it. Another tree may keep other arrays."""
    other = json.loads(path.read_text())
    key = "digests" if "digests" in other and "digests" in figures else "shards"
    ours, theirs = figures[key], other[key]
    both = ours.keys() & theirs.keys()
    found = sorted(name for name in both if ours[name] != theirs[name]) or [key] * (not both)
    told = f"differ in {', '.join(found[:5])}" if found else "are equal to the last bit"
    alone = sorted(ours.keys() ^ theirs.keys())
    alone = f", apart from what only one has: {', '.join(alone[:8])}" if alone else ""
    print(f"  {figures['name']} and {other['name']} {told} ({len(both)} {key}{alone})", flush=True)
    return found


def print_figures(found: dict) -> None:
    """The figures of an undisturbed run."""
    wall = found["seconds"]
    print(
        f"  {found['maps']} maps in {wall:.1f} s from the command's start to its end: "
        f"{found['maps_per_s']:.2f} maps/s, {found['maps_per_s_while_sampling']:.2f} while "
        f"sampling\n"
        f"  device busy {100 * found['gpu_share']:.1f} % of the wall time by the records"
        f"{describe_nvml(found['nvml'])}\n"
        f"  {found['chunks']} chunks, the largest of {found['largest_chunk']} maps; first batch "
        f"after {found['before_first_batch_s']} s, {found['after_last_batch_s']} s from the last "
        f"batch to the end\n"
        f"  before the first batch: {found['first_job_s']}\n"
        f"  between two chunks of a device {found['lost_per_gap_s']} s, in all "
        f"{list(found['lost_between_s'].values())}; outside sampling "
        f"{found['outside_sampling_per_chunk_s']} s a chunk\n"
        f"  seconds of all chunks: {found['phases_s']}\n"
        f"  archive {found['archive_bytes'] / 1e6:.0f} MB",
        flush=True,
    )


def describe_nvml(gpus: list[dict]) -> str:
    """What NVML says of each GPU; nothing without GPUs."""
    if not gpus:
        return ""
    shares = ", ".join(f"{100 * gpu['share']:.1f} %" for gpu in gpus)
    idle = ", ".join(str(gpu.get("idle_between_s", "-")) for gpu in gpus)
    return f"; by NVML {shares}, idle for {idle} s between the first and the last kernel"


def print_kill(found: dict) -> None:
    """The figures of a killed and resumed run."""
    equal = f"differs in {found['differs_in'][:5]}" if found["differs_in"] else "is equal"
    print(
        f"  killed after {found['killed_after_s']} s with {found['chunks_finished_then']} chunks "
        f"finished, {len(found['processes_left'])} processes left, unlocked in "
        f"{found['unlock_s']} s, resumed: {found['seconds']:.1f} s in all, {found['lost_s']} s "
        f"lost; the archive {equal}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
