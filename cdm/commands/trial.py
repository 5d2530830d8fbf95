"""A trial of a chunk job: small chunks, in a process like that of a job, for `cdm estimate`.

    python -m cdm.commands.trial FOLDER/trial.pickle RESULT.json [--start-only]

The process does what scripts/generate_chunk.py does, with the same function, and writes down when
each part began. The first chunk tells what every job pays: Python, imports, weights, kernels, the
first use of all libraries. Chunks after it tell what a map and a step cost.
"""

import contextlib
import functools
import pickle
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cdm.errors import CDMError
from cdm.files import write_json
from cdm.jobs.progress import Clock

FEW = 2  # steps of the chunks that tell what a map costs besides its steps
TIMED_S = 4.0  # of sampling in the chunk that tells what a step costs
LARGEST = 256  # samples of a chunk on a CPU
READ_S = 1.0  # of reading items
ENOUGH_BYTES = 8_000_000  # in which the seconds of writing show
USUAL_BYTE_S, SLOWEST_BYTE_S = 1 / 300e6, 1 / 20e6  # of writing, where there are fewer; at most


@dataclass(frozen=True)
class Trial:
    """What a trial process is given.

    Attributes:
        plan: `cdm.run.plan.Plan` of the trial: a run folder of its own, one map of each sample.
        samples: (sample, its files), the plan's rows.
        timesteps: of the chain that is to be estimated.
        threads: CPU threads of a chunk job.
        quiet: another process of the same trial already tells what there is to tell.
    """

    plan: Any
    samples: list[tuple[Any, list[str]]]
    timesteps: list[int]
    threads: int
    quiet: bool = False


@dataclass(frozen=True)
class TrialTimes:
    """Seconds that a trial measured; see `cdm.commands.run_time.JobTimes`.

    Attributes:
        device: as `cdm.jobs.machine.describe_device` tells it.
        first_s: what the first batch of a process takes longer than later ones.
        merge_s: of a merge of one small chunk, its process included.
    """

    device: dict[str, Any]
    ready_s: float
    device_s: float
    first_s: float
    write_s: float
    batch_maps: int = 1
    batch_s: float = 0.0
    step_s: float = 0.0
    item_s: float = 0.0
    byte_s: float = 0.0
    merge_s: float = 0.0


class PartClock(Clock):
    """A clock that also keeps when each phase began and ended."""

    def __init__(self):
        super().__init__()
        self.began: dict[str, float] = {}  # for the first time
        self.ended: dict[str, float] = {}  # for the last time

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        self.began.setdefault(phase, time.perf_counter())
        with super().__call__(phase):
            yield
        self.ended[phase] = time.perf_counter()


def main(argv: list[str]) -> int:
    """Make the trial's chunks, and write the seconds of their parts as JSON."""
    clock = PartClock.of_process()
    with contextlib.suppress(ImportError):  # what Snakemake puts before a script
        from snakemake.iocontainers import Snakemake  # noqa: F401
        from snakemake.logging import logger  # noqa: F401
    with clock("plan"):
        with open(argv[0], "rb") as file:
            trial = pickle.load(file)
        from cdm.config import load_config

        load_config(trial.plan.config.as_dict())
    start_only = "--start-only" in argv  # in a first round, all has been told
    trial = replace(trial, quiet=trial.quiet or start_only)
    try:
        found = asdict(measure(trial, clock, start_only))
    except CDMError as error:
        found = {"kind": type(error).__name__, "error": str(error)}
    write_json(Path(argv[1]), found)
    return 0


def measure(trial: Trial, clock: PartClock, start_only: bool = False) -> TrialTimes:
    """Make the trial's chunks.

    Args:
        clock: of this process.
        start_only: make the first chunk alone.
    """
    started = time.perf_counter() - clock.total_s
    few = min(FEW, len(trial.timesteps))
    first = _make_chunk(trial, 1, few, clock)
    device = first.record.provenance["device"]
    found = TrialTimes(
        device=device,
        ready_s=clock.began["wait"] - started,
        device_s=clock.began["sample"] - clock.began["wait"],
        first_s=first.sample_s,
        write_s=first.write_s,
    )
    if start_only:
        return found
    on_gpu = device["kind"] == "cuda"
    batch = trial.plan.config.sampling.batch_size if on_gpu else 1
    item_s = _read_items(trial)

    # Few steps, then so many that they take a while.
    short, num_steps = _make_chunk(trial, min(batch, len(trial.samples)), few), len(trial.timesteps)
    many = min(num_steps, few + int(TIMED_S / short.sample_s * few))
    long = short if many == few else _make_chunk(trial, short.size, many)
    step_s = (long.sample_s - short.sample_s) / max(1, many - few)
    if step_s <= 0:  # one step, or a machine that is busy with other work
        step_s = long.sample_s / many
    batch_s = max(0.0, short.sample_s - few * step_s)

    # On a CPU, more maps where there is time: one is read and one stored while another is made.
    if not on_gpu and len(trial.samples) > 1 and long.sample_s < TIMED_S / 2:
        size = min(len(trial.samples), LARGEST, max(2, int(TIMED_S / long.sample_s)))
        long = _make_chunk(trial, size, many)
        each_s = long.sample_s / size
        step_s, batch_s = (part * each_s / (batch_s + many * step_s) for part in (step_s, batch_s))

    larger = long.num_bytes - first.num_bytes
    byte_s = (long.write_s - first.write_s) / larger if larger >= ENOUGH_BYTES else USUAL_BYTE_S
    return replace(
        found,
        first_s=max(0.0, first.sample_s - short.sample_s),
        batch_maps=batch,
        batch_s=batch_s,
        step_s=step_s,
        item_s=item_s,
        byte_s=min(max(0.0, byte_s), SLOWEST_BYTE_S),
        merge_s=_merge(trial, long) + clock.seconds.get("start", 0.0) + clock.seconds["plan"],
    )


@dataclass(frozen=True)
class _Made:
    """A chunk that was made: its plan, its samples, its seconds, and its arrays' bytes."""

    plan: Any
    record: Any
    size: int
    sample_s: float
    write_s: float

    @property
    def num_bytes(self) -> int:
        return sum(size for size, _ in self.record.files.values())


def _make_chunk(trial: Trial, size: int, num_steps: int, clock: PartClock | None = None) -> _Made:
    """Make a chunk of the first `size` samples, with steps spread over the chain's."""
    clock = clock or PartClock()
    with clock("import"):  # torch
        from cdm.files import digest
        from cdm.run.generate import generate_chunk
        from cdm.run.plan import Chunk, base_fingerprint
        from cdm.run.table import table_header
    plan, last = trial.plan, len(trial.timesteps) - 1
    steps = {trial.timesteps[round(i * last / max(1, num_steps - 1))] for i in range(num_steps)}
    respacing = f"steps={','.join(map(str, sorted(steps)))}"
    rows, files = zip(*trial.samples[:size], strict=True)
    base = base_fingerprint(digest(plan.identity), rows, list(files))
    chunk = Chunk(0, 0, size, base, base, len(table_header()))
    config = replace(
        plan.config,
        diffusion=replace(plan.config.diffusion, timestep_respacing=respacing),
        workflow=replace(plan.config.workflow, chunk_size=size),
    )
    plan = replace(plan, config=config, chunks=(chunk,))
    log = _say_nothing if trial.quiet else _tell
    record = generate_chunk(plan, chunk, log, trial.threads, None, clock)
    ended = time.perf_counter()
    sample_s = max(1e-6, clock.ended["sample"] - clock.began["sample"])
    return _Made(plan, record, size, sample_s, ended - clock.ended["sample"])


def _read_items(trial: Trial) -> float:
    """Seconds until the next item is read, with as many threads as a job has for that."""
    from cdm.datasets import FileReader
    from cdm.errors import BadItem
    from cdm.run.dataset import open_dataset
    from cdm.run.generate import reader_threads

    config = trial.plan.config
    dataset = open_dataset(config, trial.plan.architecture.point_feat_dim)
    reader, began = FileReader(config.data_dir), time.perf_counter()

    def load(sample) -> int:
        if time.perf_counter() - began > READ_S:
            return 0
        with contextlib.suppress(BadItem):
            dataset.load(sample, reader)
        return 1

    samples = [sample for sample, _ in trial.samples]
    with ThreadPoolExecutor(reader_threads(trial.threads, config.gpu)) as pool:
        done = sum(pool.map(load, samples[1:] or samples))
    return (time.perf_counter() - began) / max(1, done)


def _merge(trial: Trial, made: _Made) -> float:
    """Seconds of merging one chunk."""
    from cdm.run.merge import merge

    began = time.perf_counter()
    merge(made.plan, lambda line: None, trial.threads)
    return time.perf_counter() - began


def _say_nothing(line: str) -> None:
    pass


@functools.cache
def _tell(line: str) -> None:
    """Pass on once what the device has to say; the chunks of a trial are of no interest."""
    if not line.startswith(("chunk ", "model: ", "text: ")):
        print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
