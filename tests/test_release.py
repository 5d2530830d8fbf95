"""What has to agree before a release."""

import re
import tomllib

import pages
import yaml
from helpers import REPO

import cdm

TEMPLATES = sorted((REPO / ".github/ISSUE_TEMPLATE").glob("*.yml"))
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]


def test_the_version_is_the_same_wherever_it_stands():
    citation = yaml.safe_load((REPO / "CITATION.cff").read_text())
    [newest, *_] = re.findall(r"^## (\S+) \(", (REPO / "CHANGELOG.md").read_text(), re.M)
    assert cdm.__version__ == citation["version"] == newest
    assert PROJECT["dynamic"] == ["version"]


def test_the_pythons_that_are_claimed_are_those_that_ci_runs():
    claimed = re.findall(r":: Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    text = (REPO / ".ci/run").read_text()
    assert claimed == ["3.11", *re.findall(r"^beside .* \.ci/versions (\S+)", text, re.M)]
    assert PROJECT["requires-python"] == ">=3.11,<3.14"


def test_issue_templates_ask_for_commands_that_exist():
    assert len(TEMPLATES) == 3
    for path in TEMPLATES:
        content = yaml.safe_load(path.read_text())
        asked = [part for part in content.get("body", []) if part["type"] != "markdown"]
        assert len({part["id"] for part in asked}) == len(asked)
        text = "\n".join(part["attributes"].get("description", "") for part in asked)
        for command in pages.commands(text.replace("EXP_NAME", "demo")):
            assert pages.check_command(command) == [], (path.name, command)
