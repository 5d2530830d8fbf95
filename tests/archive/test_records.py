"""Records: read as what they should be, or refused in one line that names the file."""

import os
from dataclasses import asdict
from pathlib import Path

import orjson
import pytest
from archives import make_run, quiet

from cdm.archive.records import merge_again, read_archive_record, read_record, rebuild
from cdm.errors import ArchiveError
from cdm.files import seal
from cdm.run.merge import merge


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Content of the record of a chunk and of the archive."""
    folder, before = tmp_path_factory.mktemp("run"), os.getcwd()
    os.chdir(folder)
    try:
        plan = make_run()
        archive = asdict(merge(plan, quiet))
        return asdict(read_record(Path(plan.chunk_record(plan.chunks[1])))), archive
    finally:
        os.chdir(before)


def changed(content, place, value):
    """A deep copy with another value at a place such as "layout/dtype" or "samples/0/text"."""
    content = orjson.loads(orjson.dumps(content))
    keys = [key.replace("%2F", "/") for key in place.split("/")]
    *path, last = [int(key) if key.isdigit() else key for key in keys]
    inner = content
    for key in path:
        inner = inner[key]
    inner[last] = value
    return content


CHUNK = [
    *[("name", 5), ("base", None), ("layout", []), ("layout/dtype", "int8"), ("samples", {})],
    *[("layout/num_points", -1), ("layout/chunk_size", 10**18), ("layout/k_samples", 1.5)],
    *[("samples", []), ("samples/0", "row"), ("samples/0/text", None), ("samples/0/status", "OK")],
    *[("samples/0/caption_idx", "0"), ("samples/0/caption_idx", True), ("samples/1/reason", 7)],
    *[("samples/0/caption_idx", -1), ("contents", []), ("contents/items", 3), ("seconds", None)],
    *[("seconds/load", "1"), ("provenance", []), ("files", []), ("files/zarr.json", 12)],
    *[("files/zarr.json", ["12", ""]), ("files/..%2F..%2Fx", [1, ""]), ("files/%2Fx", [1, ""])],
    ("unknown", 1),
]
ARCHIVE = [
    *[("archive", "../other.zarr"), ("archive", "/tmp/x"), ("archive", 3), ("plan", None)],
    *[("layout", 3), ("num_samples", "7"), ("skipped", [3]), ("chunks", [None]), ("files", 3)],
    *[("files/zarr.json", None), ("files/..%2Fx", [1, ""]), ("versions", [])],
    ("versions/torch", 1),
]


@pytest.mark.parametrize(("place", "value"), CHUNK)
def test_a_chunks_record_of_another_shape_is_refused_by_name(run, tmp_path, place, value):
    path = tmp_path / "00001-ab.json"
    content = run[0] | {"contents": {"items": {}}, "seconds": {"load": 1.0}}
    path.write_bytes(seal(content))
    read_record(path)
    path.write_bytes(seal(changed(content, place, value)))
    with pytest.raises(ArchiveError, match=r"00001-ab\.json: not a chunk's record.*rm -rf"):
        read_record(path)


@pytest.mark.parametrize(("place", "value"), ARCHIVE)
def test_an_archives_record_of_another_shape_is_refused_by_name(run, tmp_path, place, value):
    path = tmp_path / "contact_maps-ab.json"
    content = run[1] | {"versions": {"torch": {"2": 3}}}
    path.write_bytes(seal(content))
    read_archive_record(path)
    path.write_bytes(seal(changed(content, place, value)))
    with pytest.raises(ArchiveError, match=r"contact_maps-ab\.json: not an archive's record.*rm "):
        read_archive_record(path)


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 10**6, b"NaN"])
@pytest.mark.parametrize("read", [read_record, read_archive_record])
def test_what_is_no_record_at_all_is_refused_by_name(tmp_path, read, text):
    path = tmp_path / "a.json"
    path.write_bytes(text)
    with pytest.raises(ArchiveError, match=r"a\.json: not a"):
        read(path)


@pytest.mark.parametrize("read", [read_record, read_archive_record])
def test_a_record_that_is_missing_a_link_a_folder_or_a_pipe_is_refused(tmp_path, read):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing", "folder", "link", "pipe"):
        with pytest.raises(ArchiveError, match=rf"{name}: not a"):
            read(tmp_path / name)


def test_the_commands_that_mend_can_be_typed_whatever_the_names(tmp_path):
    assert "rm -rf 'a b/$x.json' 'a b/$x.zarr'," in rebuild(Path("a b/$x.json"))
    assert "rm 'it'\"'\"'s.json'," in merge_again(Path("it's.json"))
