"""Archives at addresses: the same numbers as on disk, and errors that name the address."""

import contextlib
import http.server
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from archives import SKIPPED_ROW, as_version_1, make_run, quiet, whole_arrays
from helpers import REPO
from web_server import serve

import cdm.archive.places
from cdm.archive import ContactMaps
from cdm.archive.layout import SHARDED
from cdm.errors import ArchiveError
from cdm.run.merge import merge

pytest.importorskip("aiohttp", reason="pip install 'contact-map-diffusion[remote]'")
OK_ROWS = [row for row in range(7) if row != SKIPPED_ROW]


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """A folder with a merged run; sample 4 was skipped."""
    folder = tmp_path_factory.mktemp("merged")
    with contextlib.chdir(folder):
        merge(make_run(), quiet)
    return folder


@pytest.fixture
def served(merged, tmp_path):
    """A server of a copy of the run; a test may change both."""
    shutil.copytree(merged / "outputs/run", tmp_path / "run")
    for path in (tmp_path / "run/contact_maps.zarr").rglob("*"):
        path.chmod(0o755)
    with serve(tmp_path / "run") as server:
        server.archive = tmp_path / "run/contact_maps.zarr"
        server.address = f"{server.url}/contact_maps.zarr"
        yield server


def without_record(server):
    for record in server.archive.parent.glob("contact_maps-*.json"):
        record.unlink()


@pytest.mark.parametrize("record", [True, False])
def test_an_archive_at_an_address_reads_as_on_disk(served, record):
    if not record:
        without_record(served)
    maps, here, arrays = (
        ContactMaps(f"{served.address}/"),
        ContactMaps(served.archive),
        whole_arrays(),
    )
    assert maps.path == served.address and maps.keys == here.keys
    assert maps.attributes == here.attributes
    for name in SHARDED:
        for row in (0, SKIPPED_ROW, 5):
            np.testing.assert_array_equal(maps.read(name, row), arrays[name][row])
    np.testing.assert_array_equal(maps.contact("HUMANISE", 3), here.contact("HUMANISE", 3))
    assert maps.column("text").tolist() == here.column("text").tolist()


def test_a_row_is_a_part_of_a_file(served):
    maps = ContactMaps(served.address)
    maps.read("distance", 3)
    before = len(served.requests)
    maps.read("distance", 5)
    asked = served.requests[before:]
    # The shard's index and the row. The archive itself is not asked for again so soon.
    assert asked == [("GET", "contact_maps.zarr/distance/c.1.0.0.0")] * 2


@pytest.mark.parametrize("record", [True, False])
def test_a_lost_file_is_named_with_its_address(served, record):
    if not record:
        without_record(served)
    (served.archive / "distance/c.1.0.0.0").unlink()
    maps = ContactMaps(served.address)
    expected = (
        rf"{served.address}/distance/c.1.0.0.0: no such file; .*copy it to this address again"
    )
    with pytest.raises(ArchiveError, match=expected):
        maps.distance("HUMANISE", 5)
    np.testing.assert_array_equal(maps.distance("HUMANISE", 2), whole_arrays()["distance"][2])
    (served.archive / "text/c/0").unlink()
    with pytest.raises(ArchiveError, match=f"{served.address}/text/c/0: no such file"):
        maps.column("text")


def test_a_file_that_is_lost_while_the_archive_is_open_is_named(served):
    maps = ContactMaps(served.address)
    maps.read("points", 0)
    (served.archive / "points/c.0.0.0").unlink()
    with pytest.raises(ArchiveError, match=f"{served.address}/points/c.0.0.0"):
        maps.read("points", 1)


@pytest.mark.parametrize("checksums", [True, False])
@pytest.mark.parametrize("record", [True, False])
@pytest.mark.parametrize("kept", [None, -100])
def test_a_damaged_shard_is_named_with_its_address(served, record, checksums, kept):
    if not record:
        without_record(served)
    path = served.archive / "sample/c.0.0.0.0"
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content[:kept])
    with pytest.raises(ArchiveError, match=f"{served.address}/sample/c.0.0.0.0: (corrupt|cannot)"):
        ContactMaps(served.address, checksums=checksums).read("sample", 0)


def test_no_archive_and_no_server_are_named_with_their_address(served):
    with pytest.raises(
        ArchiveError, match=rf"{served.url}/other.zarr: no archive here.*no such file"
    ):
        ContactMaps(f"{served.url}/other.zarr")
    served.trouble = lambda method, path, before: 503 if "c.0.0.0.0" in path else None
    with pytest.raises(ArchiveError, match=rf"{served.address}/distance/c.0.0.0.0: cannot.*503"):
        ContactMaps(served.address).read("distance", 0)
    with pytest.raises(ArchiveError, match=r"http://127.0.0.1:9/x.zarr: no archive here"):
        ContactMaps("http://127.0.0.1:9/x.zarr")


def test_a_server_of_whole_files_is_told_from_one_that_gives_parts(served, monkeypatch):
    monkeypatch.chdir(served.archive.parent)
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    plain = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    thread = threading.Thread(target=plain.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        with pytest.raises(ArchiveError, match="its server gives whole files only"):
            ContactMaps(f"http://127.0.0.1:{plain.server_address[1]}/contact_maps.zarr")
    finally:
        plain.shutdown()
        plain.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("address", "module"), [("http://host/x.zarr", "aiohttp"), ("s3://bucket/x.zarr", "s3fs")]
)
def test_a_missing_library_says_what_to_install(address, module):
    code = f"import sys; sys.modules['{module}'] = None; from cdm.archive import ContactMaps; "
    code += f"ContactMaps('{address}')"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    said = done.stderr.splitlines()[-1]
    assert f"ArchiveError: {address}: " in said
    assert "pip install 'contact-map-diffusion[remote]'" in said


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("https://host/x.zarr?token=secret", r"found https://host/x.zarr\?..., expected the URL"),
        (
            "https://me:secret@host/x.zarr",
            r"found https://host/x.zarr with a user name or password",
        ),
        ("nosuch://host/x.zarr", "nosuch.*expected https://... or s3://..."),
    ],
)
def test_an_address_that_cannot_be_read_is_refused_in_words(address, problem):
    with pytest.raises(ArchiveError, match=problem) as error:
        ContactMaps(address)
    assert "secret" not in str(error.value)


def test_an_archive_that_is_replaced_while_open_is_told(served, tmp_path, monkeypatch):
    monkeypatch.setattr(cdm.archive.places, "LOOK_AGAIN_S", 0)
    maps = ContactMaps(served.address)
    maps.read("points", 0)
    pickled = pickle.dumps(maps)
    (tmp_path / "other").mkdir()
    with contextlib.chdir(tmp_path / "other"):
        merge(make_run(first=1000), quiet)
    shutil.rmtree(served.archive.parent)
    shutil.move(tmp_path / "other/outputs/run", tmp_path / "run")
    with pytest.raises(ArchiveError, match=f"{served.address}: was replaced or removed"):
        maps.read("points", 0)
    with pytest.raises(ArchiveError, match=f"{served.address}: was replaced or removed"):
        pickle.loads(pickled)
    ContactMaps(served.address).read("points", 0)


def test_an_archive_of_version_1_is_read_though_its_files_cannot_be_listed(served):
    without_record(served)
    as_version_1(served.archive)
    maps = ContactMaps(served.address)
    assert maps.keys[3] == ("HUMANISE", "3", 0)
    np.testing.assert_array_equal(maps.distance("HUMANISE", 3), whole_arrays()["distance"][3])


def test_workers_of_a_loader_read_from_the_address(served):
    from torch.utils.data import DataLoader

    from cdm.archive.torch_dataset import ContactMapsDataset

    dataset = ContactMapsDataset(served.address)
    first = dataset[0]  # connections stand before the workers are forked
    batches = list(DataLoader(dataset, batch_size=3, num_workers=1, multiprocessing_context="fork"))
    np.testing.assert_array_equal(batches[0]["distance"][0], first["distance"])
    np.testing.assert_array_equal(batches[1]["points"][2], whole_arrays()["points"][6])


def test_an_archive_in_a_bucket_is_read(served, tmp_path):
    pytest.importorskip("s3fs", reason="pip install 'contact-map-diffusion[remote]'")
    options = {"anon": True, "endpoint_url": served.url, "client_kwargs": {"region_name": "here"}}
    (tmp_path / "run/bucket").mkdir()
    shutil.move(served.archive, tmp_path / "run/bucket/contact_maps.zarr")
    maps = ContactMaps("s3://bucket/contact_maps.zarr", storage_options=options)
    assert len(maps.keys) == 7
    for row in (1, 6):
        np.testing.assert_array_equal(maps.read("points", row), whole_arrays()["points"][row])
    (tmp_path / "run/bucket/contact_maps.zarr/sample/c.0.0.0.0").unlink()
    with pytest.raises(ArchiveError, match=r"s3://bucket/contact_maps.zarr/sample/c.0.0.0.0: "):
        maps.read("sample", 0)


def test_a_file_address_is_a_folder_of_this_machine(served):
    maps = ContactMaps(f"file://{served.archive}")
    assert maps.path == Path(served.archive)
