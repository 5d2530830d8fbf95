"""A job runs this package and Python's modules, never files that lie in the user's folder."""

import os
import subprocess

import pytest
from helpers import REPO


@pytest.mark.parametrize("inherited", [None, "/nowhere"])
def test_modules_in_the_working_folder_are_not_executed_by_jobs(tmp_path, inherited):
    for name in ("random", "queue", "numpy", "zarr", "cdm"):
        (tmp_path / f"{name}.py").write_text(f"open('executed-{name}', 'w')\n")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if inherited is not None:
        environment["PYTHONPATH"] = inherited
    files = ["--configfile", REPO / "config/test.yaml"]
    command = ["snakemake", "demo_data", "-s", REPO / "Snakefile", "--cores", "1", *files]
    done = subprocess.run(
        map(str, command), cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.glob("executed-*"))
    assert list(tmp_path.glob("outputs/*/data/demo_val.json"))
