"""The server of `cdm view`: what it answers, and what it refuses."""

import contextlib
import http.client
import json
import shutil
import threading

import numpy as np
import pytest
from evaluations import make_archive, run_evaluate
from helpers import NUM_POINTS, plan_run, write_dummy_chunk
from waiting import PATIENCE_S

from cdm.gallery.maps import RunMaps
from cdm.gallery.server import HOST, MapServer
from cdm.run.merge import merge

RUN = "outputs/run"


def quiet(line):
    """A log that says nothing."""


@contextlib.contextmanager
def serving(folder):
    """A server of the run in this folder, which answers."""
    with MapServer(RunMaps(folder / RUN)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(server, path, method="GET", **headers):
    """(status, body, headers) of a request; the path is sent as it is."""
    connection = http.client.HTTPConnection(HOST, server.server_port, timeout=PATIENCE_S)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.getheaders())
    finally:
        connection.close()


def read_index(server):
    return json.loads(ask(server, "/index.json")[1])


@pytest.fixture
def half(tmp_path, monkeypatch):
    """A run of three chunks whose first and last one are finished; a row was skipped."""
    monkeypatch.chdir(tmp_path)
    plan, _ = plan_run(tmp_path)
    for number in (0, 2):
        write_dummy_chunk(plan, plan.chunks[number], {1: "bad"} if number == 0 else None)
    return plan


def test_the_maps_of_finished_chunks_are_served_while_a_run_goes_on(half, tmp_path):
    with serving(tmp_path) as server:
        index = read_index(server)
        assert [item["row"] for item in index["items"]] == [0, 2, 6]
        assert index["rows"] == 7 and not index["complete"] and index["joints"][0] == "pelvis"
        assert {item["error"] for item in index["items"]} == {None}
        status, body, _ = ask(server, "/map/6.json")
        packed = json.loads(body)
        assert status == 200 and packed["key"] == index["items"][2]["key"]
        assert ["truth", "u1", [6, NUM_POINTS]] in packed["layout"] and packed["note"] == ""
        for row in (1, 3, 7, 999999999):
            status, body, _ = ask(server, f"/map/{row}.json")
            assert status == 404 and b"not finished yet, or was skipped" in body


def test_maps_of_chunks_that_are_finished_later_appear(half, tmp_path):
    with serving(tmp_path) as server:
        assert len(read_index(server)["items"]) == 3
        write_dummy_chunk(half, half.chunks[1])
        assert [item["row"] for item in read_index(server)["items"]] == [0, 2, 3, 4, 5, 6]
        assert ask(server, "/map/4.json")[0] == 200
        merge(half, quiet)
        index = read_index(server)
        assert len(index["items"]) == 6 and index["complete"]
        assert ask(server, "/map/4.json")[0] == 200


def test_an_archive_that_was_merged_anew_is_opened_anew(half, tmp_path):
    write_dummy_chunk(half, half.chunks[1])
    merge(half, quiet)
    with serving(tmp_path) as server:
        before = read_index(server)
        shutil.rmtree(tmp_path / half.archive)
        (tmp_path / half.archive_record).unlink()
        merge(half, quiet)
        assert read_index(server) == before
        assert ask(server, "/map/0.json")[0] == 200


def test_errors_of_an_evaluation_come_with_the_list(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_archive(tmp_path, skipped={0: "bad"})
    with serving(tmp_path) as server:
        assert {item["error"] for item in read_index(server)["items"]} == {None}
        run_evaluate(plan)
        items = read_index(server)["items"]
        assert all(item["error"] > 0 and 0 <= item["found"] <= 1 for item in items)
        # A table that was changed by hand is none.
        with open(tmp_path / RUN / "report/items.csv", "a") as file:
            file.write("\n")
        assert {item["error"] for item in read_index(server)["items"]} == {None}


def test_an_archive_alone_is_shown_without_its_truth(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_archive(tmp_path)
    shutil.copytree(plan.archive, tmp_path / "elsewhere/contact_maps.zarr")
    shutil.rmtree(tmp_path / "data")
    with MapServer(RunMaps(tmp_path / "elsewhere/contact_maps.zarr")) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            assert len(read_index(server)["items"]) == 7
            packed = json.loads(ask(server, "/map/0.json")[1])
        finally:
            server.shutdown()
            thread.join()
    assert packed["true"] is None and packed["note"].startswith("Without the truth, because")


def test_a_damaged_map_is_told_and_not_shown(half, tmp_path):
    [shard] = tmp_path.glob(f"{RUN}/chunks/00002-*.zarr/sample/c.0*")
    shard.chmod(0o644)
    shard.write_bytes(shard.read_bytes()[:-1])
    with serving(tmp_path) as server:
        status, body, _ = ask(server, "/map/6.json")
        assert (
            status == 404
            and b"bytes, expected" in body
            and b"to rebuild this chunk: rm -rf" in body
        )


@pytest.mark.parametrize(
    "path",
    [
        *("/etc/passwd", "/../../etc/passwd", "//etc/passwd", "/map/../index.json", "/%2e%2e/x"),
        *("/map/-1.json", "/map/1.json/", "/map/1.json?x=/etc/passwd"),
        *(
            "/mine.yaml",
            "/plan/plan.json",
            "/outputs/run/plan/plan.json",
            "/.",
            "*",
            "/index.json#a",
        ),
        *("http://127.0.0.1/etc/passwd", "/map/1e3.json", "/map/0x1.json", "/map/1%00.json"),
    ],
)
def test_no_path_opens_a_file(half, tmp_path, path):
    with serving(tmp_path) as server:
        status, body, _ = ask(server, path)
    assert (status, body) == (404, b"There is nothing here.")


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example"),
        *("192.168.1.5", "0.0.0.0", "", None, "127.0.0.1@evil.example", "localhost:8080:1"),
    ],
)
def test_other_names_in_the_address_are_refused(half, tmp_path, host):
    with serving(tmp_path) as server:
        for path in ("/", "/index.json", "/map/0.json"):
            assert ask(server, path, Host=host)[0] == 403


@pytest.mark.parametrize("host", ["127.0.0.1:1234", "localhost", "LOCALHOST:9", "[::1]:80"])
def test_names_of_this_machine_are_answered(half, tmp_path, host):
    with serving(tmp_path) as server:
        assert server.server_address[0] == "127.0.0.1"
        assert ask(server, "/index.json", Host=host)[0] == 200


def test_the_page_may_load_nothing_from_elsewhere_and_run_nothing_but_its_script(half, tmp_path):
    with serving(tmp_path) as server:
        status, body, headers = ask(server, "/")
        policy = headers["Content-Security-Policy"]
        assert status == 200 and "default-src 'none'" in policy and "unsafe-inline'; c" in policy
        assert "script-src 'sha256-" in policy and "connect-src 'self'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in headers
        assert ask(server, "/", method="HEAD")[1] == b"" and b"outputs/run" in body
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            assert ask(server, "/", method=method)[0] == 501


@pytest.mark.long
@pytest.mark.xdist_group("browser")
def test_a_browser_draws_the_maps_of_a_run_that_goes_on_and_finds_new_ones(half, tmp_path, browser):
    with serving(tmp_path) as server:
        browser.open(server.url)
        headings = browser.texts("#gallery .card h3")
        assert len(headings) == 3 and browser.log() == []
        pixels = browser.pixels(0, 1)
        assert len(np.unique(pixels.reshape(-1, 4), axis=0)) > 20
        browser.choose("Caption", headings[2])
        assert browser.texts("#gallery .card h3") == [headings[2]]
        # The page asks for the list again after ten seconds.
        write_dummy_chunk(half, half.chunks[1])
        browser.wait("document.querySelector('#gallery .news').textContent.startsWith('6 maps')")
        browser.choose("Caption", "")
        assert len(browser.texts("#gallery .card h3")) == 6
    browser.wait("document.querySelector('#gallery .news').textContent.includes('does not answer')")
