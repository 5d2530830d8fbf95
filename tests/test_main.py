"""The commands: what may be typed, and what is printed where little can be."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import REPO, merged_run

from cdm.__main__ import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a merged run; one sample was skipped for a reason that is no ASCII."""
    folder, before = tmp_path_factory.mktemp("run"), os.getcwd()
    os.chdir(folder)
    try:
        merged_run(folder, {1: {0: "é \x1b[31m red"}})
    finally:
        os.chdir(before)
    return folder


def cdm(folder, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "cdm", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(REPO)} | environment,
        capture_output=True,
    )


@pytest.mark.parametrize("command", ["status", "verify", "clean", "why"])
def test_a_plain_ascii_locale_and_escapes_are_no_trouble(folder, command):
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ascii_only |= {"PYTHONIOENCODING": "ascii"}
    for json_wanted in (True, False):
        done = cdm(folder, command, "outputs/run", *["--json"] * json_wanted, **ascii_only)
        assert done.returncode == 0, done.stderr.decode()
        assert (
            done.stdout.isascii() and b"\x1b" not in done.stdout and b"Traceback" not in done.stderr
        )
        if json_wanted:
            json.loads(done.stdout)


def test_home_and_variables_may_be_typed_in_quotes(folder, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("RUNS", f"{folder}/outputs")
    for path in ("~/outputs/run", "$RUNS/run", "${RUNS}/run"):
        assert main(["verify", path]) == 0
    assert main(["verify", "$NOT_SET/run"]) == 2
    assert "the variable $NOT_SET is not set" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["status", "verify", "clean", "why"])
@pytest.mark.parametrize("path", ["nowhere", "/", "", "/dev/null", "a\nb", "x" * 300, "data"])
def test_what_is_no_run_is_told_in_one_line(folder, monkeypatch, capsys, command, path):
    monkeypatch.chdir(folder)
    assert main([command, path]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and len(err.splitlines()) == 1


def test_a_run_and_a_configuration_are_not_both_taken(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert main(["clean", "outputs/run", "--config", "seed=1"]) == 2
    assert "not both" in capsys.readouterr().err


def test_relative_paths_are_those_of_the_folder_the_run_was_started_in(folder, capsys):
    before = Path.cwd()
    assert main(["why", str(folder / "outputs/run")]) == 0
    assert Path.cwd() == before and "Traceback" not in capsys.readouterr().err


def test_outputs_may_be_a_link_to_another_disk(folder, tmp_path, monkeypatch, capsys):
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", folder, copy], check=True)
    (copy / "outputs").rename(tmp_path / "disk")
    (copy / "outputs").symlink_to(tmp_path / "disk")
    for place in (copy, tmp_path):
        monkeypatch.chdir(place)
        run = os.path.relpath(copy / "outputs/run")
        assert [main([command, run]) for command in ("why", "clean", "verify", "status")] == [0] * 4
    assert "error" not in capsys.readouterr().err


def test_a_run_that_was_renamed_is_told(folder, tmp_path, capsys):
    subprocess.run(["cp", "-a", folder / "outputs/run", tmp_path / "other"], check=True)
    assert main(["clean", str(tmp_path / "other")]) == 2
    assert "the run's folder was renamed or moved" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["status outputs/run --json", "--print-completion bash"])
def test_output_that_nobody_reads_ends_quietly(folder, words):
    command = f"{sys.executable} -m cdm {words} | head -c 1"
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True)
    assert done.stdout in (b"{", b"#") and done.stderr == b""


@pytest.mark.parametrize("path, status", [("outputs/run", 0), ("nowhere", 2)])
def test_output_that_was_closed_before_the_start_changes_no_exit_status(
    folder, monkeypatch, path, status
):
    monkeypatch.chdir(folder)
    for name in ("stdout", "stderr"):  # as Python has them under `cdm status RUN >&- 2>&-`
        monkeypatch.setattr(sys, name, None)
    assert main(["status", path]) == status


def test_output_on_a_full_disk_is_told(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    full = io.TextIOWrapper(io.FileIO("/dev/full", "w"), encoding="utf-8", write_through=True)
    monkeypatch.setattr(sys, "stdout", full)
    assert main(["status", "outputs/run"]) == 2
    assert capsys.readouterr().err.startswith("error: the output: No space left on device; look")


def test_a_working_folder_that_was_removed_is_told(folder, tmp_path, monkeypatch, capsys):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main(["why", str(folder / "outputs/run")]) == 2
    told = "error: the working folder: No such file or directory; look at that path"
    assert capsys.readouterr().err.startswith(told)
