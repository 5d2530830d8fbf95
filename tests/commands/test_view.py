"""`cdm view` as a command: what it prints, and how it ends."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import urllib.request
from functools import partial

import pytest
from helpers import plan_run, write_dummy_chunk
from waiting import PATIENCE_S

from cdm.__main__ import main
from cdm.commands.view import describe_server, map_server, ssh_line
from cdm.errors import ArchiveError, ConfigError


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The folder of a run with one finished chunk of three."""
    monkeypatch.chdir(tmp_path)
    plan, _ = plan_run(tmp_path)
    write_dummy_chunk(plan, plan.chunks[0])
    return tmp_path / "outputs/run"


def test_it_prints_the_address_and_the_line_for_ssh(run, monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    monkeypatch.setattr("socket.gethostname", lambda: "login1")
    with map_server(run, 0) as server:
        text, port = describe_server(server), server.server_port
    assert f"http://127.0.0.1:{port}/" in text and "3 of 7 samples have maps; more" in text
    assert f"ssh -N -L {port}:127.0.0.1:{port} ada@login1" in text and "Ctrl-C" in text


def test_a_user_without_a_name_gets_a_line_to_fill_in(monkeypatch):
    def nameless():
        raise OSError("no such user")

    monkeypatch.setattr("getpass.getuser", nameless)
    assert "USER@" in ssh_line(1)


def test_ctrl_c_ends_it_with_status_0(run, monkeypatch, capsys):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr("cdm.gallery.server.MapServer.serve_forever", interrupted)
    assert main(["view", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["url"].startswith("http://127.0.0.1:")


@pytest.mark.long
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_process_serves_until_it_is_ended_and_leaves_no_traceback(run, ending):
    # As a shell starts what a script puts in the background.
    ignoring = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    command = [sys.executable, "-c", ignoring, sys.executable]
    command += ["-m", "cdm", "view", str(run), "--json"]
    start = partial(subprocess.Popen, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with start(command) as process:
        try:
            printed = "".join(iter(process.stdout.readline, "}\n")) + "}"
            url = json.loads(printed)["url"]
            with urllib.request.urlopen(f"{url}index.json", timeout=PATIENCE_S) as answer:
                assert len(json.load(answer)["items"]) == 3
            process.send_signal(ending)
            _, errors = process.communicate(timeout=PATIENCE_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
    assert (process.returncode, errors) == (0, "")


def test_a_port_that_is_taken_is_told(run):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {taken}: .*leave --port out"):
            with map_server(run, taken):
                pass
    with pytest.raises(ConfigError, match="--port 99999"):
        with map_server(run, 99999):
            pass


def test_a_folder_without_a_run_is_told(tmp_path):
    with pytest.raises(
        ArchiveError, match=r"plan\.json: no such file; expected the folder of a run"
    ):
        with map_server(tmp_path, 0):
            pass
