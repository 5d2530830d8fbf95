"""Which files an archive has."""

from dataclasses import replace

import pytest
from archives import LAYOUT

from cdm.archive.layout import shard_name


def test_a_shard_exists_for_each_array_and_each_chunk_with_a_map():
    statuses = ["ok", "ok", "ok", "skipped", "skipped", "skipped", "ok"]
    assert LAYOUT.shards(statuses) == {
        *("sample/c.0.0.0.0", "sample/c.2.0.0.0", "distance/c.0.0.0.0", "distance/c.2.0.0.0"),
        *("points/c.0.0.0", "points/c.2.0.0"),
        *("scene_trans/c.0.0.0", "scene_trans/c.2.0.0", "aug_trans/c.0.0.0", "aug_trans/c.2.0.0"),
    }
    assert LAYOUT.shards(["skipped"] * 7) == set()
    assert shard_name("sample", 7, 4) == "sample/c.7.0.0.0"


def test_a_chunks_files_are_its_shards_and_the_metadata():
    one = replace(LAYOUT, num_samples=2)
    files = one.chunk_files(["ok", "skipped"])
    assert len(files) == 11 and {"zarr.json", "points/zarr.json", "points/c.0.0.0"} < files
    assert len(one.chunk_files(["skipped", "skipped"])) == 6


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_samples", 0), ("chunk_size", -1), ("num_points", 10**30), ("dtype", "float64")],
)
def test_a_layout_no_archive_has_is_told(key, value):
    assert LAYOUT.problem() is None
    assert f"{key} is" in replace(LAYOUT, **{key: value}).problem()
