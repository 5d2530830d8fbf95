"""Random maps per second from an archive and from exported files, by one and by several processes.

    python benchmarks/reading.py --folder /scratch/reading

The archive has 1024 rows of one map of 8192 points and 6 joints in float16, in shards of 64 rows;
the exported files are those of `export_pred_contact` (float32). All lie in the page cache: what is
measured is the work of a core, not of a disk. Each figure is the median of several turns, in which
the variants take turns. `per second` is by the clock; on a machine shared with others look at `per
CPU second`, which counts the work of the reading process and of its workers.
"""

import argparse
import contextlib
import os
import random
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import torch
from torch.utils.data import DataLoader, Dataset

from cdm.archive import ContactMaps
from cdm.archive.export import export_pred_contact
from cdm.archive.layout import OK, Layout
from cdm.archive.records import ChunkRecord, store_path
from cdm.archive.rows import read_row_naive
from cdm.archive.store import write_chunk
from cdm.archive.torch_dataset import ContactMapsDataset
from cdm.commands.config_files import read_config
from cdm.contact import to_distance
from cdm.run.merge import merge
from cdm.run.plan import Chunk, Plan

NUM_ROWS, CHUNK_SIZE = 1024, 64
LAYOUT = Layout(NUM_ROWS, CHUNK_SIZE, 1, 8192, 6, "float16")
MEAN, STD, SIGMA = np.full((1, 6), 0.2, np.float32), np.full((1, 6), 0.3, np.float32), 0.8
EXPORTS = "exports"
BATCH, EPOCHS = 32, 4


def write_run() -> Plan:
    """A merged archive of random maps under outputs/reading of the working folder."""
    Path("reading.yaml").write_text("exp_name: reading\nexp_dir: demo\n")
    config = read_config(["reading.yaml"], [], strict=False)
    starts = range(0, NUM_ROWS, CHUNK_SIZE)
    names = [f"{number:016x}" for number in range(len(starts))]
    chunks = [
        Chunk(number, start, start + CHUNK_SIZE, name, name, 0)
        for number, (start, name) in enumerate(zip(starts, names, strict=True))
    ]
    plan = Plan(config, None, None, None, None, {}, tuple(chunks))
    rng = np.random.default_rng(0)
    provenance = {
        "statistics": {"mean": MEAN.tolist(), "std": STD.tolist(), "sigma": SIGMA},
        "device": "dummy generator",
        "precision": "fp32",
    }
    for chunk in chunks:
        layout = Layout(CHUNK_SIZE, CHUNK_SIZE, *list(vars(LAYOUT).values())[2:])
        arrays = {
            name: rng.standard_normal(values.shape, np.float32).astype(values.dtype)
            for name, values in layout.empty().items()
        }
        sample = arrays["sample"].astype(np.float32)
        arrays["distance"] = to_distance(sample, MEAN, STD, SIGMA).astype(LAYOUT.dtype)
        rows = [
            {"set": "HUMANISE", "index": str(row), "caption_idx": 0, "text": "sit", "scene_id": "s"}
            for row in range(chunk.start, chunk.stop)
        ]
        rows = [row | {"status": OK} for row in rows]
        record = ChunkRecord(chunk.name, chunk.base, layout, rows, {}, provenance, {})
        write_chunk(store_path(Path(plan.chunk_record(chunk))), arrays, record)
    merge(plan, print)
    return plan


class ExportedFiles(Dataset):
    """What stage 2 does with the exported files: one numpy file for each map."""

    def __init__(self, folder: Path):
        self.paths = sorted(map(str, folder.glob("*.npy")))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> torch.Tensor:
        return torch.from_numpy(np.load(self.paths[number]).squeeze(0))


def cpu_seconds() -> float:
    """Of this process and of its workers."""
    this = psutil.Process()
    times = [each.cpu_times() for each in (this, *this.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def one_process(read: Callable[[int], object], count: int) -> Callable[[], int]:
    """Reads so many random rows in this process."""

    def turn() -> int:
        for _ in range(count):
            read(random.randrange(NUM_ROWS))
        return count

    return turn


def loader(dataset: Dataset, num_workers: int, epochs: int) -> Callable[[], int]:
    """Takes every entry in random order, in batches, a few times; its workers stay."""
    batches = DataLoader(
        dataset,
        BATCH,
        shuffle=True,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        worker_init_fn=one_thread,
    )
    return lambda: sum(BATCH for _ in range(epochs) for _ in batches)


def one_thread(worker: int) -> None:
    """Each worker is one thread, as DataLoader has it."""
    torch.set_num_threads(1)


def variants(plan: Plan) -> Iterator[tuple[str, Callable[[], int]]]:
    """What is measured, each with a function that reads once and returns how many maps."""
    maps, group = ContactMaps(plan.archive), ContactMaps(plan.archive).group
    files = ExportedFiles(Path(EXPORTS, "HUMANISE/pred_contact"))
    alone = ContactMapsDataset(maps, points=False)
    both = ContactMapsDataset(maps)
    contact = ContactMapsDataset(maps, values="contact")
    half = ContactMapsDataset(maps, dtype=torch.float16)
    yield "zarr, no checks", one_process(lambda row: read_row_naive(group["distance"], row), 200)
    yield "ContactMaps.read", one_process(lambda row: maps.read("distance", row), 2000)
    yield "np.load of exported files", one_process(lambda row: np.load(files.paths[row]), 2000)
    for num_workers in (0, 2, 4):
        for name, dataset in {
            "exported files, maps alone": files,
            "dataset, maps alone": alone,
            "dataset, maps and points": both,
            "dataset, maps and points, float16": half,
            "dataset, contact and points": contact,
        }.items():
            yield f"{num_workers} workers: {name}", loader(dataset, num_workers, EPOCHS)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="where the archive is written")
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # more than cores
    options.folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(options.folder):
        plan = write_run()
        export_pred_contact(Path(plan.archive), Path(EXPORTS), Path("exports.json"), print)
        found: dict[str, list] = {}
        reads = dict(variants(plan))
        for turn in range(options.turns + 1):
            for name, read in reads.items():
                clock, cpu = time.perf_counter(), cpu_seconds()
                count = read()
                rates = count / (time.perf_counter() - clock), count / (cpu_seconds() - cpu)
                if turn:  # the first one fills the page cache and starts the workers
                    found.setdefault(name, []).append(rates)
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print("| variant | maps per second | maps per CPU second |\n| --- | --- | --- |")
    for name, rates in found.items():
        by_clock, by_cpu = (statistics.median(each) for each in zip(*rates, strict=True))
        print(f"| {name} | {by_clock:.0f} | {by_cpu:.0f} |")


if __name__ == "__main__":
    main()
