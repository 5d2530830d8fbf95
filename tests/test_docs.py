"""README and docs/: what they tell to type exists, and the pages hang together."""

import json
import re
from pathlib import Path

import numpy as np
import pages
import pytest
import yaml
from helpers import REPO, demo_config, dummy_distance, dummy_record, overlay, raw_config

from cdm.archive.layout import Layout
from cdm.archive.store import write_chunk
from cdm.config import load_config
from cdm.evaluation.measure_table import MEASURES
from cdm.run.merge import merge
from cdm.run.plan_files import save_plan
from cdm.run.planning import make_plan

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


def test_what_the_notebook_names_exists():
    path = REPO / "docs/look-into-maps.ipynb"
    cells = json.loads(path.read_text())["cells"]
    text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    assert pages.links(text) and pages.problems(path, text) == []


def test_pages_and_files_that_messages_and_comments_name_exist():
    """Such as docs/few-steps.md, config/fast.yaml and profiles/slurm."""
    named = (
        r"(?<![\w/.-])(?:docs|config|profiles|benchmarks)/[\w-]+(?:/[\w-]+)*(?:\.\w+)?(?:#[\w-]+)?"
    )
    places = ["Snakefile", "Dockerfile", "pyproject.toml", "setup.py", ".ci/run"]
    places += [name for name in pages.tracked() if name.split("/")[0] in ("cdm", "config", "envs")]
    places += [name for name in pages.tracked() if name.split("/")[0] in ("profiles", "rules")]
    lost, seen = [], 0
    for place in (REPO / name for name in places):
        text = place.read_text(errors="ignore") if place.is_file() else ""
        for found in re.findall(named, text) if place.suffix != ".js" else []:
            seen += 1
            name, _, anchor = found.partition("#")
            whole = name in pages.tracked() or "NAME" in name.split("/")
            if whole and anchor:
                whole = anchor in pages.anchors((REPO / name).read_text())
            lost += [] if whole else [f"{place.relative_to(REPO)}: {found}"]
    assert lost == [] and seen > 50


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


@pytest.fixture
def demo_archive(tmp_path, monkeypatch):
    """The demo's archive in the working folder, with random maps in place of sampled ones."""
    monkeypatch.chdir(tmp_path)
    plan, samples = make_plan(demo_config(gpu=None))
    for chunk in plan.chunks:
        rows = samples[chunk.start : chunk.stop]
        layout = Layout(len(rows), plan.config.workflow.chunk_size, 1, 1024, 6, "float32")
        rng = np.random.default_rng(chunk.number)
        arrays = {name: rng.random(v.shape, np.float32) for name, v in layout.empty().items()}
        arrays["distance"] = dummy_distance(plan, arrays["sample"])
        record = dummy_record(plan, chunk, layout, rows, {}, {})
        write_chunk(Path(plan.config.run_dir, "chunks", f"{chunk.name}.zarr"), arrays, record)
    save_plan(plan, samples)
    merge(plan, lambda line: None)


def test_python_examples_run_after_the_demo_and_print_what_the_pages_say(demo_archive, capsys):
    said = {}
    for path in (README, CHINESE, REPO / "docs/archive.md"):
        for language, content in pages.blocks(path.read_text()):
            if language == "python" and "s3://" not in content:
                exec(compile(content, path.name, "exec"), {"__name__": "example"})
                said[content] = capsys.readouterr().out
    assert len(said) >= 4
    for content, out in said.items():
        out = out.replace("torch.Size([", "(").replace("])", ")")
        for remark in re.findall(r"# (.*)$", content, re.MULTILINE):
            remark = remark.replace("points,", "1024,").replace("joints)", "6)")
            for shown in re.findall(r'"[^"]+"|\(\d[^)]*\)', remark):
                assert shown.strip('"') in out, (remark, out)
    for page in (README, CHINESE):
        [line] = [line for line in page.read_text().splitlines() if "`('HUMANISE'" in line]
        assert re.search("`(.*?)`", line)[1] + "\n" in said.values()


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

    def told(section):
        """What needs no translation: code, rows of tables, and numbers of several digits."""
        numbers = re.findall(r"\d[\d.]*\d", re.sub(r"`.*?`|\]\(.*?\)", "", pages.prose(section)))
        return sorted(pages.spans(section)), section.count("\n| "), sorted(numbers)

    for ours, theirs in zip(english.split("\n## "), chinese.split("\n## "), strict=True):
        assert told(ours) == told(theirs)


def test_messages_that_the_page_quotes_are_those_of_the_program():
    """Headings that begin with a small letter are quotes; ..., N and M stand for anything."""
    sources = [*REPO.glob("cdm/**/*.py"), *REPO.glob("rules/*.smk")]
    text = re.sub(r'"\s*\n\s*f?r?"', "", "\n".join(path.read_text() for path in sources))
    page = (REPO / "docs/troubleshooting.md").read_text()
    headings = [" ".join(found.split()) for found in re.findall(r"(?ms)^\*\*(.+?)\*\*", page)]
    quotes = [heading for heading in headings if heading[0].islower()]
    assert len(quotes) > 20
    for quote in quotes:
        for part in re.split(r"\.{3,}| / |\b[NM]\b|\bREASON\b|\d+|[`;]", quote.replace("\\", "")):
            words = part.strip(" .:").split()
            # A name at the beginning or the end is one that the program fills in.
            least = -(-len(words) * 3 // 5)
            runs = (words[i:j] for i in range(len(words)) for j in range(i + least, len(words) + 1))
            assert not words or any(" ".join(run) in text for run in runs), (quote, part)


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
