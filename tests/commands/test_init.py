"""The file that a run begins with, and the clusters' profiles."""

import pytest
import yaml
from helpers import REPO

from cdm.__main__ import main
from cdm.commands.config_files import read_config
from cdm.commands.init import profiles, settings_to_begin_with


def test_the_file_as_it_is_runs_the_demo(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init"]) == 0
    assert "cdm run mine.yaml" in capsys.readouterr().out
    config = read_config(["mine.yaml"], [])
    assert (config.run_dir, config.exp_dir) == ("outputs/mine", "demo")


def test_without_its_comment_signs_it_holds_every_default():
    _, _, keys = settings_to_begin_with("mine.yaml").partition("\n\n")
    text = "\n".join(line.removeprefix("# ") for line in keys.splitlines())
    defaults = yaml.safe_load((REPO / "config/config.yaml").read_text())
    assert yaml.safe_load(text) == defaults | {"exp_name": "mine"}


def test_a_file_that_is_there_is_not_replaced(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("exp_name: kept\n")
    assert main(["init", "a.yaml"]) == 2
    assert "a.yaml: is there already" in capsys.readouterr().err
    assert (tmp_path / "a.yaml").read_text() == "exp_name: kept\n"


@pytest.mark.parametrize("name", profiles())
def test_a_profile_is_found_under_the_name_that_is_told(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "--profile", name]) == 0
    path = f"profiles/{name}/config.yaml"
    assert f"--workflow-profile profiles/{name}" in capsys.readouterr().out
    assert (tmp_path / path).read_text() == (REPO / path).read_text()
    assert not (tmp_path / "mine.yaml").exists()


def test_the_clusters_have_profiles():
    assert {"slurm", "cluster-generic"} <= set(profiles())
