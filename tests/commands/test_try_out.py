"""Trials of chunk jobs are started beside the run, and leave nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import plan_run, run_config

from cdm.__main__ import main
from cdm.commands import try_out as module
from cdm.commands.trial import TrialTimes
from cdm.commands.try_out import try_out
from cdm.errors import CheckpointError, DataError
from cdm.files import read_json, write_json
from cdm.run.planning import make_plan

TIMES = TrialTimes(
    device={"kind": "cpu", "name": "CPU", "threads": 1},
    ready_s=3.0, device_s=0.5, first_s=1.0, write_s=0.1, step_s=0.02, batch_s=0.1,
)  # fmt: skip


def quiet(line):
    pass


@pytest.fixture
def planned(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return plan_run(tmp_path)


def fake_trials(monkeypatch, *rounds):
    """Each round gives the times of its processes; returns what was asked for."""
    asked, left = [], list(rounds)

    def run(folders, *options):
        asked.append((len(folders), *options))
        assert all((folder / "trial.pickle").exists() for folder in folders)
        return left.pop(0)

    monkeypatch.setattr(module, "_run_trials", run)
    return asked


def test_the_means_of_several_processes_count_and_their_folders_go(planned, monkeypatch):
    asked = fake_trials(monkeypatch, [TIMES, replace(TIMES, ready_s=5.0, step_s=0.04)])
    found = try_out(*planned, threads=1, num_processes=2, log=quiet)
    assert asked == [(2,)]
    assert found == replace(TIMES, ready_s=4.0, step_s=0.03)
    assert not list(Path("outputs").glob("estimate-*"))


def test_a_first_batch_that_compiles_is_timed_again(planned, monkeypatch):
    again = replace(TIMES, device_s=0.7, first_s=0.9)  # 0.9 s with the steps of a short batch
    asked = fake_trials(monkeypatch, [replace(TIMES, first_s=20.0)], [again])
    found = try_out(*planned, threads=1, num_processes=1, log=quiet)
    assert asked == [(1,), (1, "--start-only")]
    assert (found.device_s, found.first_s) == (0.5, pytest.approx(0.9 - 0.1 - 2 * 0.02))


def test_the_error_of_a_job_is_that_of_the_trial(planned, monkeypatch):
    class Ended:
        returncode = 0

        def __init__(self, command, **_):
            write_json(Path(command[-1]), {"kind": "CheckpointError", "error": "it changed"})

        def wait(self):
            return 0

        poll = wait

    monkeypatch.setattr(module.subprocess, "Popen", Ended)
    with pytest.raises(CheckpointError, match="it changed"):
        try_out(*planned, threads=1, num_processes=1, log=quiet)
    assert not list(Path("outputs").glob("estimate-*"))


def test_bad_items_are_passed_over_and_none_left_is_told(planned, tmp_path, monkeypatch):
    contacts = tmp_path / "data/HUMANISE/contact_motion/contacts"
    config = run_config(dataset={"on_bad_item": "skip"})
    bad = sorted(contacts.iterdir())[:5]
    for path in bad:
        np.savez(path, points=np.zeros((1, 6)))
    trials = []
    monkeypatch.setattr(module, "make_trial", lambda *args: trials.append(args[2]) or args[2])
    fake_trials(monkeypatch, [TIMES])
    try_out(*make_plan(config), threads=1, num_processes=1, log=quiet)
    assert [sample.index for sample in trials[0]] == ["5", "6"]
    for path in contacts.iterdir():
        np.savez(path, points=np.zeros((1, 6)))
    with pytest.raises(DataError, match="none of 7 samples can be read; the last: "):
        try_out(*make_plan(config), threads=1, num_processes=1, log=quiet)


def test_a_trial_has_the_runs_settings_but_one_map_of_a_sample(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan, samples = plan_run(tmp_path, sampling={"k_samples": 30})
    seen = []
    monkeypatch.setattr(
        module, "_run_trials", lambda folders: seen.append(look(folders[0])) or [TIMES]
    )

    def look(folder):
        return read_json(folder / "plan" / "plan.json")["config"]

    try_out(plan, samples, threads=1, num_processes=1, log=quiet)
    assert seen[0]["sampling"]["k_samples"] == 1
    assert seen[0]["sampling"]["method"] == plan.config.sampling.method
    assert seen[0]["exp_name"].startswith("estimate-")


def test_the_demos_estimate_says_how_to_get_its_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["estimate"]) == 2
    assert "snakemake --cores 1 demo_data" in capsys.readouterr().err
