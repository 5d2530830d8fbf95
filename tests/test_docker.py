"""The Dockerfile: its steps are README's commands, which CI runs; no image is built here."""

import json
import re
import shutil
import subprocess

import pytest
from helpers import REPO

TEXT = (REPO / "Dockerfile").read_text()
README = (REPO / "README.md").read_text()


def stage(name):
    """What a stage does: its RUN steps and its CMD, joined as README joins them."""
    [body] = re.findall(rf"^FROM \S+ AS {name}\n(.*?)(?=^FROM|\Z)", TEXT, re.M | re.S)
    runs = re.findall(r"^RUN (.*)", body, re.M)
    [command] = re.findall(r"^CMD (.*)", body, re.M)
    return " && ".join([*runs, " ".join(json.loads(command))])


def test_the_image_runs_the_first_command_of_readme():
    command = stage("workflow").replace(" && mkdir outputs", "")
    assert f"\n{command}\n" in README


def test_the_test_image_runs_the_second_command_of_readme():
    assert f"\n{stage('test')}\n" in README


def test_what_runs_in_the_container_is_not_root():
    users = re.findall(r"^USER (\S+)", TEXT, re.M)
    assert users == ["10001"] and "--uid 10001" in TEXT
    assert TEXT.index("USER ") < TEXT.index("COPY ")


def test_the_linter_finds_nothing():
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install -e '.[test]'")
    done = subprocess.run([hadolint, REPO / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
