"""`cdm config`: an experiment in our keys, with the place of each value."""

import json
from pathlib import Path

import pytest
import yaml
from helpers import REPO
from training_logs import composed, write_log

from cdm.__main__ import main
from cdm.commands.config_files import read_config


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    write_log(Path("exp"), composed(sets=True, task__dataset__sigma=0.7))
    return Path("exp")


def printed(capsys, *arguments, status=0):
    assert main(["config", *arguments]) == status
    return capsys.readouterr().out


def test_what_is_printed_is_the_configuration_of_the_experiment(experiment, capsys):
    text = printed(capsys, "exp", "--config", "seed=3")
    Path("mine.yaml").write_text(text)
    assert read_config(["mine.yaml"], []) == read_config([], ["exp_dir=exp", "seed=3"])
    lines = {line.split(":")[0].strip(): line for line in text.splitlines() if "  # " in line}
    assert lines["sigma"].startswith("  sigma: 0.7 ")
    assert "  # exp/log/runtime.log line " in lines["sigma"]
    assert lines["seed"].endswith("  # --config") and lines["eta"].endswith("  # default")
    assert yaml.safe_load(text)["model"]["text_model"]["max_length"] == 20


def test_every_other_key_is_listed_with_its_reason(experiment, capsys):
    write_log(experiment, composed(sets=True, model__extra=1))
    text = printed(capsys, "exp")
    listed = text[text.index("without a meaning here") :]
    for key in ("task.train.lr", "platform", "model.arch_mlp.last_dim"):
        assert f"#   {key} " in listed
    assert listed.splitlines()[-2].split() == ["#", "model.extra", "not", "known", "here"]


def test_json_holds_the_same(experiment, capsys):
    found = json.loads(printed(capsys, "exp/", "--json"))
    assert found["config"]["dataset"]["sigma"] == 0.7
    assert found["places"]["seed"].startswith("exp/log/runtime.log line")
    assert found["no_meaning"]["task.name"] == "a title" and found["errors"] == []


def test_a_file_is_taken_as_well_as_a_folder(experiment, capsys):
    Path("theirs.yaml").write_text(yaml.safe_dump(composed(seed=99)))
    text = printed(capsys, "theirs.yaml")
    assert "seed: 99" in text and "reference: theirs.yaml" in text


def test_what_cannot_be_sampled_is_told_and_the_rest_is_shown(experiment, capsys):
    write_log(experiment, composed(sets=True, diffusion__learn_sigma=True))
    Path("data").rmdir()
    text = printed(capsys, "exp", "--config", "dataset={sigma: 0.5}", status=1)
    assert "# error: exp/log/runtime.log line" in text and "learn_sigma is true" in text
    assert "# error: dataset.sigma: 0.8 there, 0.5 configured" in text
    assert "data_dir: data" in text or "data_dir: null" in text
    assert "# error: dataset.data_dir: nothing is at data; name it: --config dataset='{d" in text


def test_an_experiment_without_a_log_is_all_default(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("exp").mkdir()
    text = printed(capsys, "exp")
    assert text.startswith("# no log and no record tells how the model was trained")
    assert "# warning: exp has no ckpt/: is it the folder that the training wrote?" in text
    Path("exp/ckpt").mkdir()
    assert "warning" not in printed(capsys, "exp")
    assert (
        read_config([], ["exp_dir=exp"]).dataset.sigma == yaml.safe_load(text)["dataset"]["sigma"]
    )


def test_a_folder_that_is_not_there_is_told(tmp_path, capsys):
    assert main(["config", str(tmp_path / "no")]) == 2
    assert "no such folder or file" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["novel_perceiver", "t2m_perceiver", "t2m_pointmamba"])
def test_logs_as_the_public_forks_write_them(name, capsys):
    folder = REPO / "../shared/experiments" / name
    if not folder.exists():
        pytest.skip(f"no logs of experiments: {folder} is missing")
    main(["config", str(folder), "--config", "dataset={data_dir: x}"])
    found = yaml.safe_load(capsys.readouterr().out)
    assert (found["diffusion"]["steps"], found["dataset"]["sigma"]) == (500, 0.8)
    novel = name.startswith("novel")
    assert found["model"]["text_model"]["max_length"] == (32 if novel else 20)
    assert found["model"]["scene_model"]["use_scene_model"] == novel
