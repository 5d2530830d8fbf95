"""A small run of finished chunks, made without a model, and what it consists of."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from helpers import demo_config
from remembered import remembered

from cdm.archive.layout import Layout
from cdm.archive.records import ChunkRecord, read_archive_record
from cdm.archive.store import write_chunk
from cdm.commands.verify import verify
from cdm.contact import to_distance
from cdm.errors import ArchiveError
from cdm.run.plan import Chunk, Plan

MEAN, STD, SIGMA = [[0.2, 0.3]], [[0.4, 0.5]], 0.8
LAYOUT = Layout(7, chunk_size=3, k_samples=2, num_points=16, contact_dim=2, dtype="float32")
SKIPPED_ROW = 4


def whole_arrays(layout=LAYOUT):
    rng = np.random.default_rng(0)
    arrays = layout.empty()
    arrays["sample"][:] = rng.normal(size=arrays["sample"].shape)
    sample = arrays["sample"].astype(np.float32)
    arrays["distance"][:] = to_distance(sample, np.float32(MEAN), np.float32(STD), SIGMA)
    for name in ("points", "scene_trans", "aug_trans"):
        arrays[name][:] = rng.normal(size=arrays[name].shape)
    for values in arrays.values():
        values[SKIPPED_ROW] = np.nan
    return arrays


def row(index):
    status = {"status": "skipped", "reason": "NaN"} if index == SKIPPED_ROW else {"status": "ok"}
    where = {"set": "HUMANISE", "index": str(index), "caption_idx": 0}
    return where | {"text": f"sít {index}", "scene_id": "s"} | status


def record_for(chunk, layout):
    return ChunkRecord(
        name=chunk.name,
        base=chunk.base,
        layout=replace(layout, num_samples=chunk.stop - chunk.start),
        samples=[row(i) for i in range(chunk.start, chunk.stop)],
        contents={},
        provenance={
            "config": {"dataset": {"use_raw_dist": False}, "sampling": {"batch_size": 2}},
            "statistics": {"mean": MEAN, "std": STD, "sigma": SIGMA},
            "device": "CPU",
            "precision": "fp32",
        },
        seconds={},
    )


def make_run(layout=LAYOUT, arrays=None, first=0):
    """Three finished chunks of 3, 3 and 1 samples under outputs/run, and their plan.

    Plans with other arrays need other fingerprints, which count from `first`.
    """
    return _make_run(Path("."), layout, arrays, first)


@remembered
def _make_run(folder, layout, arrays, first):
    size, total = layout.chunk_size, layout.num_samples
    chunks = tuple(
        Chunk(n, start, min(start + size, total), f"{first + n:016x}", f"{first + n:016x}", 0)
        for n, start in enumerate(range(0, total, size))
    )
    config = demo_config(exp_name="run", sampling={"batch_size": 2})
    plan = Plan(config, None, None, None, None, {}, chunks)
    arrays = arrays or whole_arrays(layout)
    for chunk in chunks:
        part = {name: values[chunk.start : chunk.stop] for name, values in arrays.items()}
        store = record_to_store(plan.chunk_record(chunk))
        write_chunk(store, part, record_for(chunk, layout))
    return plan


def as_version_1(archive):
    """Make an archive what the first version wrote, without its record.

    The column `index` held the items' indices, and there was no `item`. Nothing had attributes but
    the group.
    """
    for path in [archive, *archive.rglob("*")]:
        path.chmod(0o755)
    for name in ("index", "key", "joint", "xyz"):
        shutil.rmtree(archive / name)
    (archive / "item").rename(archive / "index")
    for path in archive.rglob("zarr.json"):
        metadata = json.loads(path.read_text())
        metadata.pop("consolidated_metadata", None)
        new = ("archive_version", "title", "description", "source", "workflow", "coordinates")
        for name in (*new, "units", "long_name"):
            metadata["attributes"].pop(name, None)
        path.write_text(json.dumps(metadata))


def record_to_store(path):
    return Path(path).with_suffix(".zarr")


def verify_archive(record):
    """Record of a merged archive, whose every byte is as it says; ArchiveError if one is not."""
    found = read_archive_record(record)
    report = verify(record.with_name(found.archive))
    if report.problems:
        raise ArchiveError("\n".join([*report.problems, *report.notes]))
    return found


def quiet(line):
    pass
