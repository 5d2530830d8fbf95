"""What only a machine with a GPU runs still fits what it calls."""

import os
import re
import subprocess
import sys

import pytest
from helpers import REPO

# Types that mypy cannot infer in tests are no fault. These are.
FAULT = r"Unexpected keyword|Missing (positional|named)|Module .* has no attribute|import-not-found"
PATHS = "tests/support", "tests/faults", "benchmarks", "benchmarks/few_steps", "."


@pytest.mark.long
def test_gpu_tests_and_benchmarks_fit_what_they_call():
    tests = [str(path) for path in REPO.glob("tests/*/**/*.py") if "mark.gpu" in path.read_text()]
    assert len(tests) > 10
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--explicit-package-bases", *tests, "benchmarks"],
        cwd=REPO,
        env=os.environ | {"MYPYPATH": os.pathsep.join(PATHS)},
        capture_output=True,
        text=True,
    )
    assert "checked" in done.stdout, done.stdout + done.stderr  # it came to its end
    assert not [line for line in done.stdout.splitlines() if re.search(FAULT, line)]
