"""README and docs/: what they tell to type exists, and the pages hang together."""

import re

import pages
import pytest
import yaml
from helpers import REPO, overlay, raw_config

from cdm.config import load_config
from cdm.evaluation.measure_table import MEASURES

README, CHINESE = REPO / "README.md", REPO / "README.zh-CN.md"
PAGES = [
    *(README, CHINESE, REPO / "CONTRIBUTING.md", REPO / "CHANGELOG.md"),
    *(REPO / "benchmarks/README.md", REPO / "cdm/demo/exp/README.md"),
    *sorted((REPO / "docs").glob("*.md")),
]
GUIDES = [path for path in PAGES if path.name != "CHANGELOG.md"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(REPO)))
def test_what_a_page_names_exists(path):
    assert pages.problems(path, path.read_text()) == []


WRONG = {
    "`snakemake evalute --cores 4`": "no rule evalute",
    "```\nsnakemake --cores 4 --resource-s gpu=1\n```": "snakemake does not take this",
    "`snakemake --cores 1 --config 'sampling={batchsize: 4}'`": "no key sampling.batchsize",
    "`snakemake --configfile config/fst.yaml`": "no file config/fst.yaml",
    "```\nsnakemake --workflow-profile profiles/pbs\n```": "no file profiles/pbs/config.yaml",
    "`cdm status RUN --wach`": "cdm does not take this",
    "```\n$ cdm statu outputs/demo\n```": "cdm does not take this",
    "`--resampel N`": "no option --resampel",
    "`python benchmarks/scales.py`": "no file benchmarks/scales.py",
    "`python benchmarks/scale.py --foldr x`": "benchmarks/scale.py has no --foldr",
    "`python -m cdm.demo.pictures a.png`": "no file cdm/demo/pictures.py",
    "```\npip install -e '.[tests]'\n```": "no extra .[tests]",
    "`pytest tests/runs`": "no file tests/runs",
    "`pytest -m lengthy`": "no marker lengthy",
    "`cdm/runs/plan.py`": "no file cdm/runs/plan.py",
    "`dataset.data_dirs`": "no key dataset.data_dirs",
    "`scene_model.point_feats: 1`": "no key scene_model.point_feats",
    "`on_bad_items: skip`": "on_bad_items is nowhere in the sources",
    "```yaml\ndataset: {data_dirs: x}\n```": "no key dataset.data_dirs",
    "```python\nmaps.distances(0)\n```": "ContactMaps has no distances",
    "[x](docs/model.md)": "link to docs/model.md: no such file",
    "[x](docs/models.md#on-a-tpu)": "link to docs/models.md#on-a-tpu: no such heading",
    "![x](overview.png)": "link to overview.png: no such file",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_does_not_exist_is_found(text):
    found = pages.problems(README, f"# A page\n\n{text}\n")
    assert len(found) == 1 and found[0].endswith(WRONG[text]), found


def test_yaml_examples_are_configurations():
    examples = [
        content
        for path in GUIDES
        for language, content in pages.blocks(path.read_text())
        if language == "yaml"
    ]
    assert len(examples) >= 5
    for content in examples:
        changes = yaml.safe_load(content)
        load_config(overlay(raw_config(exp_dir="exp"), changes))


def test_readme_is_a_front_page():
    lines = README.read_text().splitlines()
    assert len(lines) <= 200
    linked = set(pages.links(README.read_text()))
    missing = {f"docs/{path.name}" for path in (REPO / "docs").glob("*.md")} - linked
    assert not missing, f"README links to no {missing}"


def test_ci_finds_the_command_of_the_tests_in_readme():
    [command] = [line for line in README.read_text().splitlines() if "&& pytest" in line]
    assert command.startswith("python3 -m venv .venv && . .venv/bin/activate && pip install")
    assert "-e '.[test]'" in command and command.endswith("&& pytest")


def test_the_chinese_readme_says_the_same():
    english, chinese = README.read_text(), CHINESE.read_text()

    def code(text):
        """Blocks without their remarks."""
        return [re.sub(r" *#.*", "", content) for _, content in pages.blocks(text)]

    assert code(english) == code(chinese)
    others = {"README.md", "README.zh-CN.md"}
    assert [link for link in pages.links(english) if link not in others] == [
        link for link in pages.links(chinese) if link not in others
    ]
    assert english.count("\n## ") == chinese.count("\n## ")


def test_every_command_and_option_has_its_line_in_the_page():
    from cdm.__main__ import build_parser

    text = (REPO / "docs/commands.md").read_text()
    [subparsers] = [
        action.choices for action in build_parser()._actions if isinstance(action.choices, dict)
    ]
    for name, parser in subparsers.items():
        assert f"`cdm {name}" in text, name
        for action in parser._actions:
            for option in action.option_strings:
                assert option in text or option in ("-h", "--configfiles"), (name, option)


def test_every_measure_has_its_line_in_the_page():
    text = (REPO / "docs/evaluation.md").read_text()
    assert [measure.name for measure in MEASURES if f"`{measure.name}" not in text] == []
