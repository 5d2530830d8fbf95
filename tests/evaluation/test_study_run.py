"""The study of few steps as it runs: independent draws, and finished settings kept."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from evaluations import MASKS, TINY, quiet, tiny, write_masks
from helpers import NUM_POINTS, REPO, plan_run, write_contacts, write_dataset

from cdm.errors import BadItem, DataError
from cdm.evaluation import study_run
from cdm.evaluation.evaluate import measure_archive
from cdm.evaluation.study import num_draws, read_result, study_key, study_settings
from cdm.evaluation.study_run import Study, compare_samplers
from cdm.run.generate import generate_chunk
from cdm.run.merge import merge

pytestmark = pytest.mark.usefixtures("unpainted")


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "data", 3, NUM_POINTS)
    write_masks(tmp_path, 3)
    return plan_run(tmp_path, **TINY)[0]


def run(plan, folder):
    return compare_samplers(plan, folder / f"summary-{study_key(plan)}.json", quiet)


def study_record(plan):
    """The file that the rule `compare_samplers` has to write."""
    return Path(plan.config.run_dir, "compare_samplers", f"summary-{study_key(plan)}.json")


def settings_of(plan):
    return [
        (s, draw) for s in study_settings(plan.config) for draw in range(num_draws(plan.config, s))
    ]


def test_finished_draws_are_kept_and_the_others_drawn(plan, tmp_path, monkeypatch):
    folder = tmp_path / "study"
    first = run(plan, folder)
    [finished] = (folder / "settings").iterdir()
    names = {setting.file(draw) for setting, draw in settings_of(plan)}
    assert {path.name for path in finished.iterdir()} == names and len(names) == 5
    lost = finished / "dpmpp_2m-3-0.json"
    before = read_result(lost)
    lost.unlink()
    drawn = []

    def draw(self, setting, number, *arguments, whole=Study.draw):
        drawn.append(setting.file(number))
        return whole(self, setting, number, *arguments)

    monkeypatch.setattr(Study, "draw", draw)
    second = run(plan, folder)
    assert drawn == ["dpmpp_2m-3-0.json"]
    after = read_result(lost)
    np.testing.assert_array_equal(before.projections, after.projections)
    for name, values in before.values.items():
        np.testing.assert_array_equal(values, after.values[name], err_msg=name)
    for summary in (first, second):
        for setting in summary["settings"]:
            setting["seconds_per_map"] = summary["recommended"]["seconds_per_map"] = 0
    assert first == second
    files = {path.name for path in folder.iterdir()}
    assert files >= {"summary.json", "summary.csv", "summary.txt", "summary.md", "quality.png"}
    # The settings that it recommends are a configfile, of which a plan is made.
    settings = yaml.safe_load((folder / "recommended.yaml").read_text())
    recommended = plan_run(tmp_path, **tiny(**settings))[0]
    assert recommended.num_steps == first["recommended"]["steps"]
    assert recommended.config.sampling.method == first["recommended"]["method"]
    assert recommended.checkpoint.sha256.startswith(first["checkpoint"])
    rule = json.loads((folder / "summary.json").read_text())["rule"]
    assert rule in (folder / "summary.txt").read_text()


def test_more_items_and_draws_keep_the_rounds_that_are_finished(plan, tmp_path, quick_draws):
    folder = tmp_path / "study"
    few = tiny(compare={"first_items": 1, "max_items": 1, "detect": 1e-9})
    more = tiny(compare={"first_items": 1, "draws": 2, "detect": 1e-9})
    run(plan_run(tmp_path, **few)[0], folder)
    [first] = (folder / "settings").iterdir()
    before = {path.name: path.stat().st_mtime_ns for path in first.iterdir()}
    run(plan_run(tmp_path, **more)[0], folder)
    assert len(list((folder / "settings").iterdir())) == 3  # one sample in each round
    assert (
        before.items() <= {path.name: path.stat().st_mtime_ns for path in first.iterdir()}.items()
    )


def test_the_full_chain_is_what_the_workflow_samples(plan, tmp_path):
    """Its first k maps are the archive's; those of the second full chain are others."""
    for chunk in plan.chunks:
        generate_chunk(plan, chunk, quiet)
    merge(plan, quiet)
    archived = measure_archive(plan, quiet)
    study = Study(plan, quiet)
    chain = study_settings(plan.config)[0]
    full, repeat = (study.draw(chain, draw, range(3), "") for draw in (0, 1))
    row_of = {(sample.set, sample.index): row for row, sample in enumerate(archived.samples)}
    rows = [row_of[item] for item in full.items]
    for name, values in full.values.items():
        expected = [archived.rows[row][name] for row in rows]
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6, err_msg=name)
    assert (full.projections != repeat.projections).all()


def test_settings_depend_on_what_is_drawn_and_not_on_how_the_workflow_samples(plan, tmp_path):
    key = Study(plan, quiet).key(range(3))
    for changes in (
        {"sampling": {"method": "ddim", "batch_size": 1}},
        {"workflow": {"chunk_size": 1}},
    ):
        assert Study(plan_run(tmp_path, **tiny(**changes))[0], quiet).key(range(3)) == key
    for changes in ({"seed": 1}, {"compare": {"k_samples": 3}}, {"evaluation": {"top_k": [5]}}):
        assert Study(plan_run(tmp_path, **tiny(**changes))[0], quiet).key(range(3)) != key


def test_items_are_taken_evenly_over_the_split(plan, tmp_path):
    few = plan_run(tmp_path, **tiny(compare={"max_items": 2}))[0]
    assert [sample.index for sample in Study(few, quiet).samples] == ["0", "1"]


def test_maps_that_are_no_numbers_end_the_study(plan, monkeypatch):
    study = Study(plan, quiet)
    monkeypatch.setattr(
        study_run.MapSampler,
        "start",
        lambda self, batch, _: lambda: np.full((len(batch), NUM_POINTS, 6), np.nan),
    )
    with pytest.raises(BadItem, match="HUMANISE/0 caption 1: the model gave NaN"):
        study.draw(study_settings(plan.config)[0], 0, range(3), "x")


@pytest.fixture
def quick_draws(monkeypatch):
    """A sampler that gives random maps at once: these tests are about files."""

    def start(self, batch, _):
        rng = np.random.default_rng(batch.keys.numpy().ravel())
        maps = rng.random((len(batch), NUM_POINTS, 6), np.float32)
        return lambda: maps

    monkeypatch.setattr(study_run.MapSampler, "start", start)
    monkeypatch.setattr(study_run.MapSampler, "warm_up", lambda self, batch: None)
    monkeypatch.setattr("cdm.evaluation.plots.plot_study", lambda _, path: path.write_bytes(b""))


def test_an_item_or_a_mask_edited_after_the_study_is_studied_again(plan, quick_draws):
    """The record's name is what Snakemake looks for: another one means that the rule runs."""
    seen: list[Path] = []
    said: list[str] = []
    for change in (
        lambda: None,
        lambda: np.save(MASKS / "00001.npy", np.arange(NUM_POINTS) < 5),
        lambda: write_contacts(MASKS.parent / "contacts/00002.npz", NUM_POINTS, 77),
    ):
        change()
        record = study_record(plan)
        assert record not in seen and not record.exists()
        compare_samplers(plan, record, said.append)
        assert study_record(plan) == record and record.exists()
        path = said[-1].rpartition(" ")[2]  # what the last line tells to type can be typed
        assert path == f"{record.parent}/recommended.yaml" and Path(path).exists()
        seen.append(record)
    # One folder of finished settings for each content of the files: none of them was mixed.
    assert len(list((record.parent / "settings").iterdir())) == 3


def test_an_item_edited_while_the_study_runs_ends_it(plan, quick_draws):
    study = Study(plan, quiet)
    write_contacts(MASKS.parent / "contacts/00002.npz", NUM_POINTS, 77)
    with pytest.raises(DataError, match=r"00002\.npz: was replaced while this job ran"):
        study.draw(study_settings(plan.config)[0], 0, range(3), "x")


@pytest.mark.parametrize("script", ["compare_samplers.py", "evaluate.py"])
def test_threads_that_measure_start_no_threads_of_their_own(script):
    """Measuring took seven times longer when numpy's matrix library did; it reads this once."""
    text = (REPO / "scripts" / script).read_text()
    assert text.index('os.environ["OPENBLAS_NUM_THREADS"] = "1"') < text.index("\nfrom cdm")
