"""Bits that flip, files that are lost or swapped: named by the merge and by verification."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from archives import (
    LAYOUT,
    make_run,
    quiet,
    record_for,
    record_to_store,
    verify_archive,
    whole_arrays,
)

from cdm.archive.checks import checksum_files
from cdm.archive.store import verify_chunk, write_chunk
from cdm.errors import ArchiveError
from cdm.run.merge import merge

# How many bits of each file are flipped, one after the other.
every_file = pytest.mark.parametrize("flips", [3, pytest.param(12, marks=pytest.mark.long)])


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_run()


def flip(path, flips):
    """Flip single bits of a file, one after the other; afterwards it is as it was."""
    content = path.read_bytes()
    path.chmod(0o644)
    for position in np.unique(np.linspace(0, len(content) - 1, flips).astype(int)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << (position % 8)
        path.write_bytes(flipped)
        yield position
    path.write_bytes(content)


@every_file
def test_every_flipped_bit_of_a_chunk_is_found_by_verification_and_by_the_merge(plan, flips):
    record = Path(plan.chunk_record(plan.chunks[1]))
    store = record_to_store(record)
    for path in [record, *(store / name for name in checksum_files(store))]:
        for position in flip(path, flips):
            with pytest.raises(ArchiveError, match="to rebuild this chunk: rm -rf"):
                verify_chunk(record)
                pytest.fail(f"{path} at {position}")
            with pytest.raises(ArchiveError, match="1 of 3 chunks cannot be merged"):
                merge(plan, quiet)
    verify_chunk(record)
    merge(plan, quiet)


@every_file
def test_every_flipped_bit_of_the_archive_is_found(plan, flips):
    merge(plan, quiet)
    record, archive = Path(plan.archive_record), Path(plan.archive)
    assert verify_archive(record).num_samples == 7
    files = checksum_files(archive)
    assert len(files) > 5 * 3 + 11  # shards, columns, metadata
    for path in [record, *(archive / name for name in files)]:
        for position in flip(path, flips):
            with pytest.raises(ArchiveError, match="to merge again from the chunks: rm "):
                verify_archive(record)
                pytest.fail(f"{path} at {position}")
    verify_archive(record)


def lose_a_shard(archive):
    (archive / "points/c.1.0.0").unlink()


def swap_shards(archive):
    a, b = archive / "sample/c.0.0.0.0", archive / "sample/c.1.0.0.0"
    a.rename(archive / "kept")
    b.rename(a)
    (archive / "kept").rename(b)


def lose_a_column(archive):
    shutil.rmtree(archive / "text")


@pytest.mark.parametrize("damage", [lose_a_shard, swap_shards, lose_a_column])
def test_a_damaged_archive_is_found(plan, damage):
    merge(plan, quiet)
    damage(Path(plan.archive))
    with pytest.raises(ArchiveError, match="to merge again from the chunks"):
        verify_archive(Path(plan.archive_record))


def swap_between_chunks(plan):
    a, b = (record_to_store(plan.chunk_record(chunk)) / "sample" for chunk in plan.chunks[:2])
    kept = a.rename(a.with_name("kept"))
    b.rename(a)
    kept.rename(b)
    return 2


def copy_in_a_chunk_of_another_fingerprint(plan):
    """Sound in itself, made with other settings, under this chunk's name."""
    chunk = plan.chunks[1]
    record = Path(plan.chunk_record(chunk))
    other = replace(chunk, base="f" * 16)
    part = {name: values[chunk.start : chunk.stop] for name, values in whole_arrays().items()}
    write_chunk(record_to_store(record), part, record_for(other, LAYOUT))
    return 1


def cut_off_a_record(plan):
    record = Path(plan.chunk_record(plan.chunks[0]))
    record.write_bytes(record.read_bytes()[:-40])
    return 1


@pytest.mark.parametrize(
    "damage", [swap_between_chunks, copy_in_a_chunk_of_another_fingerprint, cut_off_a_record]
)
def test_the_merge_refuses_and_names_what_is_not_the_plans(plan, damage):
    count = damage(plan)
    with pytest.raises(ArchiveError, match=f"{count} of 3 chunks cannot be merged"):
        merge(plan, quiet)
    assert not Path(plan.archive).exists()
