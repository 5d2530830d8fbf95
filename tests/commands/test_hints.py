"""What a run says at its end can be typed as it stands."""

import re
from pathlib import Path

import pytest
from helpers import plan_run, write_dummy_chunk

from cdm.commands.hints import (
    MOST_EMBEDDED,
    advice,
    embedding_advice,
    farewell,
    page_written,
    stale_page,
    trained,
)
from cdm.run.merge import merge


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return plan_run(tmp_path)[0]


def test_the_farewell_is_a_program_that_reads_the_archive(plan, capsys):
    assert farewell(plan) == ""
    for chunk in plan.chunks:
        write_dummy_chunk(plan, chunk)
    merge(plan, lambda line: None)
    program = re.sub(r"(?m)^  ", "", farewell(plan).partition("\n\n")[2])
    exec(program, {})
    assert "('HUMANISE', '0', " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("target", "where"),
    [
        ("export_pred_contact", "HUMANISE/pred_contact"),
        ("export_npz", "generated_contact_maps.npz"),
        ("export_ply", "ply"),
        ("evaluate", "report/metrics.txt"),
    ],
)
def test_what_was_asked_for_is_named(plan, target, where):
    for record in (plan.archive_record, f"outputs/run/{where}"):
        Path(record).parent.mkdir(parents=True, exist_ok=True)
        Path(record).touch()
    assert farewell(plan, [target]).startswith(f"\nWhat you asked for is in outputs/run/{where}.\n")
    assert "asked" not in farewell(plan, ["all"])


def test_after_a_training_it_is_said_how_to_sample_the_model(plan):
    assert "The model is in outputs/run/ckpt" in trained(plan.config)


def test_after_a_failure_it_is_said_what_is_finished_and_what_to_type(plan):
    write_dummy_chunk(plan, plan.chunks[0])
    assert f"1 of {len(plan.chunks)} chunks are finished" in advice(plan)
    assert advice(plan).endswith("cdm status outputs/run")
    assert advice(plan, "/a b").endswith("cdm status '/a b/outputs/run'")  # --directory
    Path(plan.archive_record).touch()  # chunks may be removed after the merge
    assert f"{len(plan.chunks)} of {len(plan.chunks)} chunks are finished" in advice(plan)


def test_the_page_is_named_by_its_whole_path_in_the_last_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("report.html").write_bytes(b"x" * 1_200_000)
    said = page_written(Path("report.html"))
    assert "1.2 MB" in said and said.splitlines()[-1] == str(tmp_path / "report.html")


def test_a_page_that_would_be_blank_in_one_html_file_is_told_with_the_way_out(tmp_path):
    page = tmp_path / "report.html"
    page.write_bytes(b"x" * MOST_EMBEDDED)
    assert "type snakemake --report NAME.zip" in embedding_advice(page, ["--report", "all.html"])
    assert embedding_advice(page, ["--report=all.zip"]) == ""
    page.write_bytes(b"x")
    assert embedding_advice(page, ["--report", "all.html"]) == ""


def test_a_page_of_another_number_of_items_is_written_again(plan, tmp_path):
    page, items = tmp_path / "report.html", plan.config.report.items
    evaluation = tmp_path / "evaluation-0123456789abcdef.json"
    made_from = f'<meta name="report-evaluation" content="{evaluation.name}">'
    assert stale_page(plan, page, evaluation) is None  # Snakemake knows that it is not there
    page.write_text(f'<!doctype html><meta name="report-items" content="{items}">{made_from}')
    assert stale_page(plan, page, evaluation) is None
    page.write_text(f'<!doctype html><meta name="report-items" content="7">{made_from}')
    told = stale_page(plan, page, evaluation)
    assert told == f"report.items is {items}, and was 7 when {page} was written"
    page.write_text("<!doctype html>")
    assert "was None" in stale_page(plan, page, evaluation)


def test_a_page_of_another_evaluation_is_written_again_whatever_its_time_is(plan, tmp_path):
    page = tmp_path / "report.html"
    head = f'<!doctype html><meta name="report-items" content="{plan.config.report.items}">'
    for before in ("", '<meta name="report-evaluation" content="evaluation-0.json">'):
        page.write_text(head + before)
        told = stale_page(plan, page, tmp_path / "evaluation-1.json")
        assert told == f"{page}: is of another evaluation than evaluation-1.json"
