"""Whole runs whose data lies on a server: the same maps, edits noticed, failures never silent."""

import contextlib
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest
from helpers import (
    NUM_POINTS,
    REPO,
    run_config,
    write_contacts,
    write_dataset,
    write_dummy_chunk,
)
from web_server import serve

from cdm.archive import ContactMaps
from cdm.archive.records import read_record
from cdm.errors import BadItem, ConfigError, DataError, Unreachable
from cdm.evaluation.evaluate import evaluate, evaluation_key
from cdm.files import remote
from cdm.run.generate import generate_chunk
from cdm.run.inputs import ITEMS
from cdm.run.merge import merge
from cdm.run.plan_files import save_plan
from cdm.run.planning import load_plan, make_plan

NUM_ITEMS = 7
CONTACTS = "HUMANISE/contact_motion/contacts"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.001)


@pytest.fixture(scope="session")
def from_folder(made_once):
    """All arrays of the run whose data lies in a folder."""

    def make(folder):
        write_dataset(folder / "data", NUM_ITEMS, NUM_POINTS)
        with contextlib.chdir(folder):
            run(configure("data"))

    return read_arrays(made_once("remote_data", make) / "outputs/run/contact_maps.zarr")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A data folder, and a server of it, beside the working folder."""
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "data", NUM_ITEMS, NUM_POINTS)
    with serve(tmp_path / "data") as started:
        yield started


def configure(data_dir, name="run", **dataset):
    return run_config(exp_name=name, dataset={"data_dir": str(data_dir), **dataset})


def run(config):
    """What the workflow does; the numbers of the chunks that were made, and all arrays."""
    plan, samples = make_plan(config)
    save_plan(plan, samples)
    plan, made = load_plan(config), []  # as jobs do
    for chunk in plan.chunks:
        if not Path(plan.chunk_record(chunk)).exists():
            generate_chunk(plan, chunk, lambda line: None)
            made.append(chunk.number)
    if not Path(plan.archive_record).exists():
        merge(plan, lambda line: None)
    return made, read_arrays(plan.archive)


def read_arrays(archive):
    group = ContactMaps(archive).group
    return {name: group[name][:] for name in sorted(group.array_keys())}


def finish(config):
    """Finished chunks of a plan, with numbers that no model made; the chunks' names."""
    plan, samples = make_plan(config)
    save_plan(plan, samples)
    for chunk in plan.chunks:
        if not Path(plan.chunk_record(chunk)).exists():
            write_dummy_chunk(plan, chunk)
    return [chunk.name for chunk in plan.chunks]


def assert_same(a, b):
    assert sorted(a) == sorted(b)
    for name, values in a.items():
        np.testing.assert_array_equal(values, b[name], err_msg=name)


def names(config):
    return [chunk.name for chunk in make_plan(config)[0].chunks]


def test_a_run_over_http_is_the_run_from_the_folder_bit_for_bit_also_after_an_edit(
    server, from_folder
):
    config = configure(server.url, "http")
    made, from_server = run(config)
    assert made == [0, 1, 2]
    assert_same(from_server, from_folder)

    # What was read is in the records, under the names that a folder's files have.
    plan = make_plan(config)[0]
    contents = read_record(Path(plan.chunk_record(plan.chunks[0]))).contents[ITEMS]
    assert sorted(contents) == [f"{CONTACTS}/{i:05}.npz" for i in range(3)]
    first = contents[f"{CONTACTS}/00000.npz"]
    assert first["url"] == f"{server.url}/{CONTACTS}/00000.npz" and len(first["sha256"]) == 64

    # Nothing changed: nothing is read again, and nothing runs.
    server.requests.clear()
    assert run(config)[0] == [] and server.asked("GET", CONTACTS) == 0
    assert server.asked("HEAD", CONTACTS) == NUM_ITEMS

    # An edit on the server: its chunk runs again, and no other.
    write_contacts(server.folder / f"{CONTACTS}/00004.npz", NUM_POINTS, seed=99)
    made, edited = run(config)
    assert made == [1]
    assert_same(edited, run(configure("data", "edited"))[1])


def test_new_ETags_of_the_same_bytes_change_nothing(server):
    config = configure(server.url)
    before, server.salt = finish(config), b"another server"
    server.requests.clear()
    plan, samples = make_plan(config)
    assert [chunk.name for chunk in plan.chunks] == before
    assert server.asked("GET", CONTACTS) == NUM_ITEMS  # once, and remembered
    save_plan(plan, samples)
    server.requests.clear()
    assert names(config) == before and server.asked("GET", CONTACTS) == 0


def test_data_that_moves_to_a_server_and_back_changes_nothing(server):
    before = finish(configure("data"))
    assert names(configure(server.url)) == before
    for path in Path("outputs/run").rglob("*.json"):
        path.unlink()  # so that the chunks are made with data from the server
    assert finish(configure(server.url)) == before == names(configure("data"))


def test_an_edit_is_noticed_where_the_server_tells_nothing(server):
    server.headers = ()
    config = configure(server.url)
    before = finish(config)
    assert names(config) == before
    path = server.folder / f"{CONTACTS}/00001.npz"
    size = path.stat().st_size
    write_contacts(path, NUM_POINTS, seed=77)
    after = names(config)
    assert path.stat().st_size == size and after[0] != before[0] and after[1:] == before[1:]


def test_a_server_that_fails_now_and_then_gives_the_same_maps(server, from_folder, capsys):
    asked = []

    def every_third(method, path, before):
        asked.append(path)
        return [503, "drop", "half"][len(asked) % 9 // 3] if len(asked) % 3 == 0 else None

    server.trouble = every_third
    made, flaky = run(configure(server.url, "flaky"))
    assert made == [0, 1, 2] and "trying again" in capsys.readouterr().err
    assert_same(flaky, from_folder)


@pytest.mark.parametrize("on_bad_item", ["fail", "skip"])
def test_what_cannot_be_reached_is_never_skipped_and_the_same_command_goes_on(
    server, from_folder, on_bad_item
):
    config = configure(server.url, on_bad_item=on_bad_item)
    server.trouble = lambda method, path, _: (
        503 if (method, path[-6:]) == ("GET", "04.npz") else None
    )
    with pytest.raises(Unreachable, match=r"contacts/00004\.npz: cannot be read after 5 attempts"):
        run(config)
    assert len(list(Path("outputs/run/chunks").glob("*.json"))) == 1
    assert not list(Path("outputs/run/chunks").glob("00001-*"))
    server.trouble = lambda method, path, before: None
    made, finished = run(config)
    assert made == [1, 2]
    assert_same(finished, from_folder)


def test_a_missing_file_is_told_with_its_url_and_may_be_skipped(server):
    (server.folder / f"{CONTACTS}/00002.npz").unlink()
    with pytest.raises(DataError, match="1 of 7 files the samples need are missing") as caught:
        make_plan(configure(server.url))
    assert f"{server.url}/{CONTACTS}/00002.npz" in str(caught.value)
    config = configure(server.url, on_bad_item="skip")
    plan, samples = make_plan(config)
    save_plan(plan, samples)
    record = generate_chunk(plan, plan.chunks[0], lambda line: None)
    reasons = [row["reason"] for row in record.samples if row["status"] == "skipped"]
    assert len(reasons) == 1
    assert f"{server.url}/{CONTACTS}/00002.npz: cannot be read (No such file" in reasons[0]
    assert names(config) == [chunk.name for chunk in plan.chunks]
    write_contacts(server.folder / f"{CONTACTS}/00002.npz", NUM_POINTS, 2)
    assert names(config)[0] != plan.chunks[0].name  # it is there now


def test_a_missing_index_file_is_told_with_its_url(server):
    with pytest.raises(DataError, match="the server has no such file; check") as e:
        make_plan(configure(f"{server.url}/wrong"))
    assert str(e.value).startswith(f"{server.url}/wrong/HUMANISE/contact_motion/anno.csv: ")


def test_a_server_that_does_not_answer_ends_the_plan_whatever_may_be_skipped(server):
    server.trouble = lambda method, path, before: 503 if method == "HEAD" else None
    with pytest.raises(Unreachable, match="cannot be read after 5 attempts"):
        make_plan(configure(server.url, on_bad_item="skip"))


def test_statistics_are_found_on_the_server_or_named_by_a_url(server):
    name = "Mean_Std_Cont_HUMANISE_contact_cont_joints_0.8.npz"
    shutil.copytree(REPO / "cdm/demo/exp", "exp", ignore=shutil.ignore_patterns("Mean_Std_*"))

    def configure(data_dir, **dataset):
        return run_config(exp_dir="exp", dataset={"data_dir": data_dir, **dataset})

    plan = make_plan(configure(server.url))[0]
    assert plan.statistics.path == f"{server.url}/{name}" and not plan.statistics.computed
    shutil.move(server.folder / name, server.folder / "mine.npz")
    computed = make_plan(configure(server.url))[0].statistics
    assert computed.computed and computed.path.startswith("outputs/run/statistics/")
    named = make_plan(configure(server.url, statistics=f"{server.url}/mine.npz"))[0].statistics
    assert named.values == plan.statistics.values
    with pytest.raises(DataError, match=r"none\.npz: no such file; correct dataset\.statistics"):
        make_plan(configure(server.url, statistics=f"{server.url}/none.npz"))


def test_a_damaged_item_is_told_with_its_url(server):
    (server.folder / f"{CONTACTS}/00000.npz").write_bytes(bytes(100))
    with pytest.raises(BadItem, match=r"^http://127\S+/00000\.npz: begins with zeros"):
        run(configure(server.url))


def test_a_page_in_place_of_an_item_is_no_reason_to_skip_it(server):
    """A login or an error page of status 200: the item itself may be right."""
    (server.folder / f"{CONTACTS}/00000.npz").write_bytes(b"<html>log in</html>")
    with pytest.raises(Unreachable, match=r"^http://127\S+/00000\.npz: .* a web page came in its"):
        run(configure(server.url, on_bad_item="skip"))


def test_a_bucket_of_items_is_planned_by_listings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "data", 80, NUM_POINTS)
    fs = fsspec.filesystem("memory")
    fs.put(str(tmp_path / "data"), "/listed", recursive=True)
    asked, info = [], type(fs).info
    monkeypatch.setattr(
        type(fs), "info", lambda self, path, **kw: asked.append(path) or info(self, path, **kw)
    )
    assert names(configure("memory://listed")) == names(configure("data"))
    assert not [path for path in asked if "/contacts/" in path] and len(asked) < 20
    fs.rm("/listed", recursive=True)


@pytest.mark.parametrize("anonymous", [False, True])
def test_a_run_over_s3_is_the_run_from_the_folder_and_is_planned_by_listings(
    server, from_folder, monkeypatch, anonymous
):
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "none")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    if anonymous:
        monkeypatch.setitem(fsspec.config.conf, "s3", {"anon": "true"})  # FSSPEC_S3_ANON=true
    else:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "geheim")
    monkeypatch.setattr(remote, "FEW", 3)
    server.folder = server.folder.parent  # whose folder `data` is the bucket
    config = configure("s3://data")
    made, from_s3 = run(config)
    assert made == [0, 1, 2]
    assert_same(from_s3, from_folder)

    server.requests.clear()
    assert run(config)[0] == []
    assert not [path for _, path in server.requests if "/contacts/" in path]
    write_contacts(server.folder / f"data/{CONTACTS}/00004.npz", NUM_POINTS, seed=99)
    before = [chunk.name for chunk in load_plan(config).chunks]
    after = names(config)
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]
    assert server.asked("GET", CONTACTS) == 3  # its chunk's items, once each
    for path in Path("outputs").rglob("*"):
        assert path.is_dir() or b"geheim" not in path.read_bytes()


def test_without_credentials_it_is_told_where_they_are_looked_for(server, monkeypatch):
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "none")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    with pytest.raises(Unreachable, match=r"NoCredentialsError.*~/\.aws/credentials"):
        make_plan(configure("s3://data"))


def test_an_evaluation_over_http_measures_again_after_a_mask_was_edited(server):
    mask = server.folder / "HUMANISE/contact_motion/target_mask/00003.npy"
    mask.parent.mkdir()
    np.save(mask, np.arange(NUM_POINTS) < 5)
    finish(configure(server.url))
    plan = make_plan(configure(server.url))[0]
    merge(plan, lambda line: None)
    first = evaluation_key(plan)
    evaluate(plan, Path(f"outputs/run/report/evaluation-{first}.json"), lambda line: None)
    assert evaluation_key(plan) == first
    np.save(mask, np.arange(NUM_POINTS) < 6)
    assert evaluation_key(plan) != first


@pytest.mark.parametrize("key", ["exp_dir", "reference"])
def test_weights_on_a_server_are_refused_with_what_to_do(key):
    with pytest.raises(ConfigError, match=f"{key}: found s3://b/exp, expected a path on this mach"):
        run_config(**{key: "s3://b/exp"})


def test_a_password_in_data_dir_is_refused_and_not_shown():
    with pytest.raises(ConfigError, match="data_dir: found https://host/data with a user") as e:
        run_config(dataset={"data_dir": "https://me:geheim$x@host/data"})
    assert "geheim" not in str(e.value)
