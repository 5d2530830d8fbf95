"""`cdm estimate`: two real batches, and what follows from their seconds."""

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers import plan_run, run_config

from cdm.__main__ import main
from cdm.archive.layout import Layout
from cdm.commands import estimate as module
from cdm.commands.estimate import archive_bytes, describe_estimate, estimate
from cdm.errors import DataError
from cdm.run.planning import make_plan


@pytest.fixture
def planned(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return plan_run(tmp_path)


def quiet(line):
    pass


def test_two_batches_are_timed_and_the_run_is_extrapolated(planned, monkeypatch):
    monkeypatch.setattr(module, "_time_two_batches", lambda *_: [10.0, 4.0])
    monkeypatch.setattr(module.time, "perf_counter", iter((0.0, 6.0)).__next__)
    found = estimate(*planned, minutes_per_chunk=1, log=quiet)
    assert (found.num_samples, found.num_maps, found.batch_size, found.num_steps) == (7, 7, 2, 2)
    # 6 s to start, 6 s to warm up, and two batches of two maps for a chunk of three
    assert found.minutes_per_chunk == pytest.approx((6 + 6 + 2 * 4) / 60)
    assert found.device_hours == pytest.approx(3 * (6 + 6 + 2 * 4) / 3600)
    # 20 steps in place of 2: batches of 40 s
    assert found.fast_steps == 20
    assert found.fast_device_hours == pytest.approx(3 * (6 + 6 + 2 * 40) / 3600)
    assert "20 steps in place of 2, with config/fast.yaml: 0.0767" in describe_estimate(found)
    too_short = replace(found, fast_steps=None, fast_device_hours=None)
    assert "fast.yaml" not in describe_estimate(too_short)
    # one minute has room for twelve batches, more than the seven samples need
    assert found.suggested_chunk_size == 7
    assert found.suggested_minutes == pytest.approx((6 + 6 + 4 * 4) / 60)


def test_the_command_prints_what_it_found(planned, capsys):
    assert main(["estimate", "outputs/run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["num_maps"] == 7 and found["second_batch_s"] > 0
    assert main(["estimate", "outputs/run"]) == 0
    assert "whole run     7 maps" in capsys.readouterr().out


def test_a_clock_that_stands_still_divides_nothing_by_zero(planned, monkeypatch):
    monkeypatch.setattr(module.time, "perf_counter", lambda: 5.0)
    found = estimate(*planned, minutes_per_chunk=10, log=quiet)
    assert found.suggested_chunk_size == 7 and "maps/s" in describe_estimate(found)


def test_the_archives_bytes_are_those_of_its_arrays(planned):
    plan, _ = planned
    layout = Layout(7, 3, 1, plan.config.dataset.num_points, 6, "float32")
    assert archive_bytes(plan) == sum(values.nbytes for values in layout.empty().values())
    half = replace(plan, config=run_config(workflow={"dtype": "float16"}))
    layout = replace(layout, dtype="float16")
    assert archive_bytes(half) == sum(values.nbytes for values in layout.empty().values())


def test_bad_items_are_passed_over_and_none_left_is_told(planned, tmp_path):
    contacts = tmp_path / "data/HUMANISE/contact_motion/contacts"
    config = run_config(dataset={"on_bad_item": "skip"})
    for path in sorted(contacts.iterdir())[:5]:
        np.savez(path, points=np.zeros((1, 6)))
    assert estimate(*make_plan(config), minutes_per_chunk=10, log=quiet).num_samples == 7
    for path in contacts.iterdir():
        np.savez(path, points=np.zeros((1, 6)))
    with pytest.raises(DataError, match="none of 7 samples can be read; the last: "):
        estimate(*make_plan(config), minutes_per_chunk=10, log=quiet)


@pytest.mark.parametrize("minutes", ["nan", "inf", "0", "-1"])
def test_a_length_that_is_none_is_refused(planned, capsys, minutes):
    assert main(["estimate", "outputs/run", f"--minutes-per-chunk={minutes}"]) == 2
    assert "expected a number of minutes above 0" in capsys.readouterr().err
