"""The study of few steps: independent draws, finished cells kept, and a rule that can say no."""

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers import NUM_POINTS, plan_run, run_config, write_dataset

from cdm.errors import ArchiveError
from cdm.evaluation import study_run
from cdm.evaluation.evaluate import measure_archive
from cdm.evaluation.study import (
    Cell,
    CellResult,
    read_cell,
    study_cells,
    study_key,
    summarise_study,
    write_cell,
)
from cdm.evaluation.study_run import Study, compare_samplers
from cdm.evaluation.study_tables import write_summary
from cdm.run.generate import generate_chunk
from cdm.run.merge import merge

TINY = {
    "diffusion": {"steps": 6, "timestep_respacing": ""},
    "sampling": {"batch_size": 3, "k_samples": 2},
    "evaluation": {"resamples": 100},
    "compare": {
        "methods": ["ddpm", "dpmpp_2m"],
        "steps": [50, 3],
        "k_samples": 2,
        "max_items": None,
        "projections": 8,
    },
}


def quiet(line):
    pass


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "data", 3, NUM_POINTS)
    (tmp_path / "data/HUMANISE/contact_motion/target_mask").mkdir()
    for index in range(3):
        mask = np.arange(NUM_POINTS) % 8 == index
        np.save(tmp_path / f"data/HUMANISE/contact_motion/target_mask/{index:05}.npy", mask)
    return plan_run(tmp_path, **TINY)[0]


def run(plan, folder):
    return compare_samplers(plan, folder / f"summary-{study_key(plan)}.json", quiet)


def test_cells_are_the_full_chain_twice_and_every_other_sampler_once():
    cells = [cell.name for cell in study_cells(run_config(**TINY))]
    assert cells == ["ddpm-6", "ddpm-6-again", "dpmpp_2m-6", "ddpm-3", "dpmpp_2m-3"]


def test_finished_cells_are_kept_and_the_others_drawn(plan, tmp_path, monkeypatch):
    folder = tmp_path / "study"
    first = run(plan, folder)
    [cells] = (folder / "cells").iterdir()
    assert {p.stem for p in cells.iterdir()} == {cell.name for cell in study_cells(plan.config)}
    lost = cells / "dpmpp_2m-3.json"
    before = read_cell(lost)
    lost.unlink()
    drawn, draw = [], Study.draw
    monkeypatch.setattr(
        Study, "draw", lambda self, cell, name: (drawn.append(cell.name), draw(self, cell, name))[1]
    )
    second = run(plan, folder)
    assert drawn == ["dpmpp_2m-3"]
    after = read_cell(lost)
    np.testing.assert_array_equal(before.projections, after.projections)
    for name, values in before.values.items():
        np.testing.assert_array_equal(values, after.values[name], err_msg=name)
    assert [c["outside"] for c in first["cells"]] == [c["outside"] for c in second["cells"]]
    files = {path.name for path in folder.iterdir()}
    assert files >= {"summary.json", "summary.csv", "summary.txt", "summary.md", "quality.png"}
    assert (
        json.loads((folder / "summary.json").read_text())["rule"]
        in (folder / "summary.txt").read_text()
    )


def test_the_full_chain_is_what_the_workflow_samples(plan, tmp_path):
    """Its first k maps are the archive's; those of the second full chain are others."""
    for chunk in plan.chunks:
        generate_chunk(plan, chunk, quiet)
    merge(plan, quiet)
    archived = measure_archive(plan, quiet)
    study = Study(plan, quiet)
    full, again = (study.draw(cell, cell.name) for cell in study_cells(plan.config)[:2])
    for name, values in full.values.items():
        expected = [row[name] for row in archived.rows]
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6, err_msg=name)
    assert (full.projections != again.projections).all()


def test_cells_depend_on_what_is_drawn_and_not_on_how_the_workflow_samples(plan, tmp_path):
    key = Study(plan, quiet).key
    for changes in (
        {"sampling": {"method": "ddim", "batch_size": 1}},
        {"workflow": {"chunk_size": 1}},
    ):
        assert Study(plan_run(tmp_path, **_merged(changes))[0], quiet).key == key
    for changes in ({"seed": 1}, {"compare": {"k_samples": 3}}, {"evaluation": {"top_k": [5]}}):
        assert Study(plan_run(tmp_path, **_merged(changes))[0], quiet).key != key


def _merged(changes):
    return {
        key: {**TINY.get(key, {}), **value} if isinstance(value, dict) else value
        for key, value in {**TINY, **changes}.items()
    }


def test_items_are_taken_evenly_over_the_split(plan, tmp_path):
    few = plan_run(tmp_path, **_merged({"compare": {"max_items": 2}}))[0]
    assert [sample.index for sample in Study(few, quiet).samples] == ["0", "1"]


def test_maps_that_are_no_numbers_end_the_study(plan, monkeypatch):
    study = Study(plan, quiet)
    monkeypatch.setattr(
        study_run.MapSampler,
        "start",
        lambda self, batch, _: lambda: np.full((len(batch), NUM_POINTS, 6), np.nan),
    )
    with pytest.raises(Exception, match="HUMANISE/0: the model gave NaN"):
        study.draw(study_cells(plan.config)[0], "x")


# ---- the rule ----

CONFIG = run_config(**_merged({"compare": {"steps": [6, 3, 2]}}))
ITEMS = [("HUMANISE", str(i)) for i in range(40)]
QUALITY = np.random.default_rng(0).gamma(4, size=40)


def result(cell, shift=0.0, spread=1.0, seed=0):
    """A cell whose CPLE is shifted, and whose maps are spread wider."""
    rng = np.random.default_rng([seed, 1])
    return CellResult(
        cell=cell,
        items=ITEMS,
        values={
            "CPLE": QUALITY + shift,
            "diversity": spread + 0.1 * QUALITY + rng.normal(0, 0.01, 40),
            "found_target": np.full(40, np.nan),
        },
        projections=spread * rng.normal(size=(40, 4, 8)),
        seconds_per_map=cell.steps / 100,
        device="none",
    )


def study(**changed):
    """Cells all as good as the full chain, but those named: their shift and spread."""
    return summarise_study(
        [
            result(cell, seed=number, **changed.get(cell.name.replace("-", "_"), {}))
            for number, cell in enumerate(study_cells(CONFIG))
        ],
        CONFIG,
    )


def entry(summary, name):
    """What the summary says of a cell."""
    cells = {f"{c['method']}-{c['steps']}": c for c in summary["cells"] if c["role"] == "cell"}
    return cells[name]


def test_the_fewest_steps_as_good_as_the_full_chain_are_recommended():
    summary = study()
    assert summary["recommended"]["steps"] == 2
    assert not summary["cells"][1]["outside"] and not summary["cells"][1]["beyond_floor"]
    assert "found_target" not in summary["measures"]  # no item has it
    summary = study(ddpm_2={"shift": 3}, dpmpp_2m_2={"shift": 3}, ddpm_3={"shift": 3})
    assert summary["recommended"] | {"seconds_per_map": 0} == {
        "method": "dpmpp_2m",
        "steps": 3,
        "seconds_per_map": 0,
    }
    assert entry(summary, "ddpm-2")["outside"] == ["CPLE"]


def test_other_diversity_or_another_distribution_is_not_as_good():
    summary = study(**{name: {"spread": 2.0} for name in ("ddpm_2", "dpmpp_2m_2")})
    assert entry(summary, "ddpm-2")["outside"] == ["diversity"]
    assert entry(summary, "ddpm-2")["beyond_floor"] == ["energy_distance", "diversity"]
    assert summary["recommended"]["steps"] == summary["not_worse"]["steps"] == 3


def test_the_floor_is_finer_than_the_intervals():
    """Each item's diversity a little lower, far within the spread of the items."""
    summary = study(**{name: {"spread": 0.97} for name in ("ddpm_2", "dpmpp_2m_2")})
    assert (
        entry(summary, "ddpm-2")["outside"] == []
        and "diversity" in entry(summary, "ddpm-2")["beyond_floor"]
    )
    assert summary["recommended"]["steps"] == 3 and summary["within_intervals"]["steps"] == 2


def test_better_values_are_outside_too_but_not_worse():
    summary = study(**{name: {"shift": -3} for name in ("ddpm_2", "dpmpp_2m_2")})
    assert summary["within_intervals"]["steps"] == 3 and summary["not_worse"]["steps"] == 2


def test_where_nothing_is_as_good_the_full_chain_stays():
    names = [cell.name.replace("-", "_") for cell in study_cells(CONFIG)[2:]]
    summary = study(**{name: {"shift": 3} for name in names})
    assert summary["recommended"]["method"] == "ddpm" and summary["recommended"]["steps"] == 6


def test_without_ground_truth_diversity_and_distance_are_compared(tmp_path):
    results = [result(cell, seed=n) for n, cell in enumerate(study_cells(CONFIG))]
    results = [replace(r, values={"diversity": r.values["diversity"]}) for r in results]
    summary = summarise_study(results, CONFIG)
    assert list(summary["measures"]) == ["diversity"]
    write_summary(summary, tmp_path / "summary-0.json")
    table = (tmp_path / "summary.md").read_text()
    assert table.count("| dpmpp_2m |") == 3 and "energy distance" in table


def test_differences_are_paired():
    """A shift far smaller than the items' spread shows in the paired difference."""
    summary = study(ddpm_2={"shift": 0.01})
    cell = next(c for c in summary["cells"] if (c["method"], c["steps"]) == ("ddpm", 2))
    shift = cell["measures"]["CPLE"]["mean_difference"]
    assert shift["low"] == pytest.approx(0.01) == shift["high"]
    assert cell["measures"]["CPLE"]["high"] - cell["measures"]["CPLE"]["low"] > 0.5


def test_a_damaged_cell_says_how_to_draw_it_again(tmp_path):
    path = tmp_path / "ddpm-6.json"
    write_cell(path, result(Cell("ddpm", 6)))
    assert read_cell(path).items == ITEMS
    path.write_bytes(path.read_bytes().replace(b"HUMANISE", b"HUMANISF", 1))
    with pytest.raises(ArchiveError, match="to draw it again: rm"):
        read_cell(path)
    assert read_cell(tmp_path / "none.json") is None


def test_a_cell_of_all_steps_is_the_setting_of_the_full_chain():
    full = study_cells(CONFIG)[0]
    assert full.configure(CONFIG).diffusion.timestep_respacing == ""
    assert replace(full, steps=3).configure(CONFIG).diffusion.timestep_respacing == 3
