"""Tests run as their marks ask for: a group in one process, and none is left out in silence."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from helpers import REPO

GROUPED = """
import os
import pytest

@pytest.mark.xdist_group("one")
@pytest.mark.parametrize("number", range(4))
def test_which_process_this_is(number):
    with open("processes.txt", "a") as file:
        file.write(f"{os.getpid()}\\n")
"""


@pytest.mark.long
def test_tests_of_one_group_share_a_process(tmp_path):
    """Some versions of pytest and pytest-xdist do not fit, and forget the groups in silence.

    Then a second process finds the ports of the Slurm tests taken, and skips them.
    """
    for name in ("test_a.py", "test_b.py"):
        (tmp_path / name).write_text(GROUPED)
    command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadgroup", "--rootdir", "."]
    alone = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # of other plugins
    options = {"cwd": tmp_path, "env": alone, "capture_output": True, "text": True}
    done = subprocess.run([*command, "-p", "xdist", "-c", "/dev/null", "."], **options)
    assert done.returncode == 0, done.stdout
    processes = (tmp_path / "processes.txt").read_text().split()
    assert len(processes) == 8 and len(set(processes)) == 1, done.stdout


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        ("needs a CUDA device: none here", "skipped"),
        ("no golden numbers: index.json is missing", "skipped"),
        ("no Slurm here: port 16817 is taken", "failed"),
    ],
)
def test_where_all_is_installed_a_skip_is_a_failure(request, monkeypatch, reason, outcome):
    conftest = request.config.pluginmanager.get_plugin(str(REPO / "tests/conftest.py"))

    def judged():
        report = SimpleNamespace(skipped=True, outcome="skipped", longrepr=("file", 1, reason))
        return conftest.judge_skip(report).outcome

    monkeypatch.delenv("CDM_NO_SKIPS", raising=False)
    assert judged() == "skipped"
    monkeypatch.setenv("CDM_NO_SKIPS", "1")
    assert judged() == outcome
