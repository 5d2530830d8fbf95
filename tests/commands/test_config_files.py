"""The commands read the configuration as Snakemake does."""

import json
import shlex
import subprocess

import pytest
import yaml
from helpers import DEMO_MODEL, REPO, run_config, write_dataset

from cdm.__main__ import main
from cdm.commands.config_files import config_arguments, read_config
from cdm.config import Config

FILE = {"exp_name": "mine", "exp_dir": "demo", "sampling": {"batch_size": 7}}
ARGUMENTS = ["dataset={data_dir: data, sets: [HUMANISE], num_points: 64}", "seed=5", "gpu=null"]


def test_the_configuration_is_the_one_snakemake_plans_with(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "data", 3)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(FILE | {"model": DEMO_MODEL}))
    command = ["snakemake", "-s", REPO / "Snakefile", "--configfile", "mine.yaml", "--cores", "1"]
    command += ["--config", *ARGUMENTS, "--until", "demo_data"]  # plans, and runs nothing
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "outputs/mine/plan/plan.json").read_bytes())["config"]
    assert found == read_config(["mine.yaml"], ARGUMENTS).as_dict()


def test_nothing_configured_is_the_demo():
    assert read_config([], []).run_dir == "outputs/demo"
    assert read_config([], ["exp_name=other"]).is_demo_data


@pytest.mark.parametrize(
    "config", [run_config(), read_config([], []), run_config(seed=3, diffusion={"steps": 7})]
)
def test_the_printed_arguments_give_the_configuration_back(config: Config):
    words = shlex.split(config_arguments(config))
    assert words[:1] in ([], ["--config"])
    assert read_config([], words[1:]) == config


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["why", "--config", "seed"], "expected key=value"),
        (["why", "--config", "sampling={batch: 3}"], "did you mean 'sampling.batch_size'"),
        (["why", "--configfile", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["why", "outputs/x", "--config", "seed=1"], "not both"),
    ],
)
def test_a_wrong_configuration_is_told_in_one_message(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
