"""The snakemake command of what was typed, and how it is started."""

import os
import shlex
import sys
from pathlib import Path

import pytest
from helpers import REPO, run_config

from cdm.__main__ import main
from cdm.commands.config_files import read_config
from cdm.commands.old_words import Job, read_words
from cdm.commands.snakemake_line import (
    command_again,
    known_rules,
    program,
    snakemake_words,
    started_in,
)
from cdm.errors import ConfigError


def test_the_rules_are_those_of_the_workflow():
    assert {"all", "train", "merge", "export_npz", "evaluate"} <= known_rules()


@pytest.mark.parametrize(
    ("options", "added"),
    [
        ([], ["--cores", "1", "--resources", "gpu=1"]),
        (["-n"], ["--cores", "1", "--resources", "gpu=1", "-n"]),
        (["--cores=4"], ["--resources", "gpu=1", "--cores=4"]),
        (["-j8", "--resources", "gpu=2"], ["-j8", "--resources", "gpu=2"]),
        (["--workflow-profile", "p"], ["--workflow-profile", "p"]),
    ],
)
def test_options_behind_the_dashes_win_over_the_usual_ones(options, added, monkeypatch):
    monkeypatch.chdir(REPO)
    assert snakemake_words(Job(), options) == ["snakemake", *added]


def test_elsewhere_the_workflow_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = snakemake_words(Job(targets=["evaluate"], values={"seed": 3}), [])
    assert words[:2] == ["snakemake", "evaluate"] and words[-2:] == ["--config", "seed=3"]
    assert words[words.index("--snakefile") + 1] == str(REPO / "Snakefile")
    Path("Snakefile").touch()  # another workflow
    assert "--snakefile" in snakemake_words(Job(), [])


def test_snakemake_of_this_python_is_started():
    assert Path(program(["snakemake", "-n"])[0]).parent == Path(sys.executable).parent
    assert program(["no-such-program", "-n"]) == [sys.executable, "-m", "no-such-program", "-n"]


def test_the_command_is_printed_as_it_can_be_pasted_and_then_started(monkeypatch, capsys):
    started = []
    monkeypatch.chdir(REPO)
    monkeypatch.setattr(os, "execv", lambda path, words: started.append([path, *words[1:]]))
    main(["run", "task.dataset.sigma=0.5", "platform=x", "exp_dir=a b", "--", "-n", "--quiet"])
    out, err = capsys.readouterr()
    words = shlex.split(out)
    assert started[0][1:] == words[1:] and words[0] == "snakemake"
    assert words[words.index("gpu=1") + 1 :][:3] == ["-n", "--quiet", "--config"]
    config = read_config([], words[words.index("--config") + 1 :])
    assert (config.dataset.sigma, config.exp_dir) == (0.5, "a b")
    assert err == "left out, because it changes nothing here: platform=x\n"


def test_an_unknown_key_starts_nothing(monkeypatch, capsys):
    monkeypatch.setattr(os, "execv", None)  # would fail
    assert main(["run", "sigma.x=1"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_files_are_configurations(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = read_words(["evaluate", "mine.yaml", "fast.yml", "seed=3"], known_rules())
    words = snakemake_words(job, ["-n"])
    at = words.index("--configfile")
    assert words[at:] == [*("--configfile", "mine.yaml", "fast.yml"), "-n", "--config", "seed=3"]
    with pytest.raises(ConfigError, match="before the --"):
        snakemake_words(job, ["--configfile", "other.yaml"])


def test_what_a_message_says_with_config_may_be_typed_to_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    started = []
    monkeypatch.setattr(os, "execv", lambda program, words: started.append(words))
    Path("mine.yaml").touch()
    main(["run", "mine.yaml", "seed=1", "dataset={sigma: 0.5}", "--", "-n"])
    main(
        [
            "run",
            "--configfile",
            "mine.yaml",
            "--config",
            "seed=1",
            "dataset={sigma: 0.5}",
            "--",
            "-n",
        ]
    )
    assert started[0] == started[1] and "--configfile" in started[0]
    assert main(["run", "-n"]) == 2  # not argparse's "unrecognized arguments"
    assert "options of Snakemake stand behind --, as in: -- -n" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    assert "examples:" in capsys.readouterr().out


def test_our_own_files_are_found_without_a_checkout(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    started = []
    monkeypatch.setattr(os, "execv", lambda program, words: started.append(words))
    Path("mine.yaml").touch()
    main(["run", "mine.yaml", "config/fast.yaml"])
    at = started[0].index("--configfile")
    assert started[0][at + 1 :] == ["mine.yaml", str(REPO / "config/fast.yaml")]
    typed = command_again(None, ["config/fast.yaml"], [], run_config())
    assert shlex.split(typed)[-1] == started[0][-1]  # also what `cdm why` tells to type
    fast = read_config(["config/fast.yaml"], []).diffusion.timestep_respacing
    assert fast == "snr20" and read_config([], []).diffusion.timestep_respacing == fast
    Path("config").mkdir()
    Path("config/fast.yaml").write_text("diffusion: {timestep_respacing: snr9}")
    assert read_config(["config/fast.yaml"], []).diffusion.timestep_respacing == "snr9"


def test_a_file_that_is_not_there_is_told_before_snakemake_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "execv", None)  # would fail
    assert main(["run", "mine.yml"]) == 2
    assert "mine.yml: no such file; cdm init writes one" in capsys.readouterr().err
    Path("mine.yaml").touch()
    assert main(["run", "mine.yml"]) == 2
    assert "mine.yml: no such file; the folder has mine.yaml" in capsys.readouterr().err


def test_a_file_that_is_not_yaml_is_told_with_its_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "execv", None)  # would fail
    Path("mine.yaml").write_text("exp_name: a\nseed: [3\n")
    assert main(["run", "mine.yaml"]) == 2
    told = capsys.readouterr().err
    assert "mine.yaml: not YAML" in told and "line 2" in told


def test_a_run_is_started_where_its_outputs_folder_is_relative_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for output_dir, folder in [("outputs", tmp_path), ("results/a/outputs", tmp_path)]:
        config = run_config(output_dir=output_dir)
        Path(config.run_dir).mkdir(parents=True)
        assert started_in(tmp_path / config.run_dir, config) == folder
    config = run_config(output_dir=str(tmp_path / "scratch"))
    Path(config.run_dir).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "results")
    assert started_in(Path(config.run_dir), config) == tmp_path / "results"
