"""How pytest-xdist spreads tests over processes is what their marks ask for."""

import os
import subprocess
import sys

import pytest

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
