"""The report: one page, texts of any kind, and only what was measured."""

import re
from html.parser import HTMLParser

import pytest
from evaluations import make_archive, quiet, run_evaluate, study_summary
from helpers import NUM_POINTS, write_dataset

from cdm.commands.hints import stale_page
from cdm.errors import ArchiveError
from cdm.evaluation import words
from cdm.evaluation.evaluate import summarise
from cdm.evaluation.records import write_record
from cdm.evaluation.report import write_report
from cdm.evaluation.study_tables import write_summary

CAPTIONS = (
    r"walk to $\\frac$ and $x",
    "<script>alert(1)</script> & <b>",
    "sit \x01\x1b[31m \u202e on it",
    "\u0627\u062c\u0644\u0633 \u5750\u4e0b",
    "very " * 60 + "far",
    "100 % {0} \\ ^_~",
)


def report(plan, record, study=None):
    """The page as text."""
    target = record.parent / "report.html"
    write_report(plan, record, target, quiet, study)
    return target.read_text("utf-8")


def parts(page):
    """The page around the gallery, and the gallery."""
    before, _, rest = page.partition('<section id="gallery"')
    gallery, _, after = rest.partition("</section>")
    return before + after, gallery


def test_the_report_is_one_page_with_everything_in_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_archive(tmp_path, skipped={0: "bad"})
    summary, record = run_evaluate(plan)
    page, gallery = parts(report(plan, record))
    assert stale_page(plan, record.parent / "report.html", record) is None
    assert gallery.count('"key":"HUMANISE/') == 6
    assert "http" not in page and "1 sample skipped" in page and page.count("<figcaption>") >= 4
    for name, measure in summary["groups"][0]["measures"].items():
        value = words.shown(name, measure).value
        assert re.search(rf"<th scope=.row.>{name}</th>\s*<td class=.value.><b>{value}</b>", page)
    assert "closest point of the left foot; lower is better" in page
    versions = {"zarr": {"3.1.6": 2}, "torch": {"2.5.0": 1, "2.6.0": 1}}
    facts = dict(words.run_facts(plan, summary, versions))
    assert facts["versions"] == "zarr 3.1.6, torch 2.5.0 and 2.6.0"
    assert facts["seed"] == "2023" and facts["sha256"] == plan.checkpoint.sha256
    assert all(value in page for name, value in facts.items() if name != "versions")


@pytest.mark.usefixtures("unpainted")
def test_tables_scroll_in_frames_of_their_own(tmp_path, monkeypatch):
    """On a phone the page keeps its width, and a table that is wider can be pushed aside."""
    monkeypatch.chdir(tmp_path)
    plan = make_archive(tmp_path)
    page = report(plan, run_evaluate(plan)[1])
    assert page.count("<table>") == page.count('<div class="scroll" tabindex="0">\n<table>') == 2
    assert 'name="viewport" content="width=device-width, initial-scale=1"' in page


def write_captions(folder):
    """A dataset of seven items whose captions are CAPTIONS."""
    write_dataset(folder / "data", 7, NUM_POINTS)
    lines = ["scene_id,scene_trans_x,scene_trans_y,scene_trans_z,utterance"]
    for index in range(7):
        text = CAPTIONS[index % len(CAPTIONS)].replace('"', '""')
        lines.append(f'scene{index:04},0.5,-0.25,0,"{text}"')
    path = folder / "data/HUMANISE/contact_motion/anno.csv"
    path.write_text("\n".join(lines) + "\n", "utf-8")


def test_captions_of_any_kind_are_shown_and_obeyed_by_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_captions(tmp_path)
    plan = make_archive(tmp_path, masks=False)
    _, record = run_evaluate(plan)
    page, gallery = parts(report(plan, record))
    assert "<script" not in page and "\x1b" not in page
    assert gallery.count("<script") == 2 and "\x1b" not in gallery and "alert(1)" in gallery


class Tags(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


def test_names_from_files_are_text_and_no_markup(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_archive(tmp_path)
    evil = "<script>alert(1)</script>\x1b[31m"

    def with_evil_names(measured, plan, whole=summarise):
        summary = whole(measured, plan)
        summary["left_out"].append(evil)
        summary["checkpoint"] = summary["checkpoint"] | {"path": evil}
        summary["groups"][1]["name"] = evil
        return summary

    monkeypatch.setattr("cdm.evaluation.evaluate.summarise", with_evil_names)
    _, record = run_evaluate(plan)
    found = Tags(parts(report(plan, record))[0])
    assert "script" not in found.tags
    assert found.text.count("<script>alert(1)</script>\\u001b[31m") == 3


@pytest.mark.usefixtures("unpainted")
def test_a_table_changed_by_hand_is_told_and_not_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_archive(tmp_path)
    _, record = run_evaluate(plan)
    table = record.parent / "metrics.json"
    table.write_bytes(table.read_bytes().replace(b"0.", b"1.", 1))
    with pytest.raises(
        ArchiveError, match=rf"metrics\.json: corrupt.*made again: rm .*{record.name}"
    ):
        report(plan, record)
    table.unlink()
    with pytest.raises(ArchiveError, match=r"metrics\.json: No such file"):
        report(plan, record)


@pytest.mark.usefixtures("unpainted")
def test_a_lost_shard_is_no_figure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_archive(tmp_path)
    _, record = run_evaluate(plan)
    [shard] = tmp_path.glob("outputs/run/contact_maps.zarr/sample/c.1.*")
    shard.unlink()
    with pytest.raises(ArchiveError, match=r"sample/c\.1\.0\.0\.0"):
        report(plan, record)
    assert not (record.parent / "report.html").exists()


@pytest.mark.usefixtures("unpainted")
def test_the_study_of_samplers_is_in_the_report_where_it_has_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_archive(tmp_path)
    _, record = run_evaluate(plan)
    assert "Few steps" not in report(plan, record)
    study = tmp_path / "study/summary-0.json"
    files = write_summary(study_summary(), study.parent)
    write_record(study, "0", plan, {}, files)
    page = report(plan, record, study)
    assert "<h2>Few steps</h2>" in page and "Recommended: " in page
    assert page.count('<div class="scroll"') == 3 and page.count("<details><summary>How") == 1
