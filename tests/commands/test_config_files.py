"""The commands and the workflow read the configuration alike, as it was typed."""

import json
import shlex
import subprocess

import pytest
import yaml
from helpers import DEMO_MODEL, REPO, run_config, write_dataset

from cdm.__main__ import main
from cdm.commands.config_files import as_typed, config_arguments, fast_config, overlay, read_config
from cdm.config import Config
from cdm.errors import ConfigError

FILE = {"exp_dir": "demo", "sampling": {"batch_size": 7}}
FAST = {
    "diffusion": {"timestep_respacing": "snr18"},
    "sampling": {"method": "dpmpp_2m_sde", "eta": 0.0},
}
ARGUMENTS = ["dataset={data_dir: data, sets: [HUMANISE], num_points: 64}", "seed=5", "gpu=null"]


def test_the_configuration_is_the_one_snakemake_plans_with(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "data", 3)
    slow = {"diffusion": {"steps": 400, "timestep_respacing": 250}, "sampling": {"method": "ddpm"}}
    content = "exp_name: 007\n" + yaml.safe_dump(overlay(FILE, slow) | {"model": DEMO_MODEL})
    (tmp_path / "mine.yaml").write_text(content)
    files = ["mine.yaml", REPO / "config/fast.yaml"]
    command = ["snakemake", "-s", REPO / "Snakefile", "--cores", "1", "--configfile", *files]
    command += ["--config", *ARGUMENTS, "--until", "demo_data"]  # plans, and runs nothing
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    plan = json.loads((tmp_path / "outputs/007/plan/plan.json").read_bytes())
    assert plan["config"] == read_config(files, ARGUMENTS).as_dict()
    # config/fast.yaml wins over the user's own steps and sampler, and changes nothing else.
    own = read_config(["mine.yaml"], ARGUMENTS)
    assert plan["config"] == overlay(own.as_dict(), FAST)
    steps = plan["identity"]["diffusion"][2]
    assert len(steps) == 18 and steps[0] == 0 and steps[-1] == 399
    assert fast_config(own).as_dict() == plan["config"]


def test_fast_yaml_wins_over_the_noise_of_ddim(tmp_path):
    (tmp_path / "mine.yaml").write_text("sampling: {method: ddim, eta: 0.5}\n")
    config = read_config([tmp_path / "mine.yaml", REPO / "config/fast.yaml"], [])
    assert (config.sampling.method, config.sampling.eta) == ("dpmpp_2m_sde", 0.0)


def test_the_demo_runs_with_the_settings_of_fast_yaml():
    demo = read_config([], [])
    assert fast_config(demo) == demo


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


@pytest.fixture
def typed(tmp_path):
    """A file whose values YAML would read as other ones."""
    path = tmp_path / "mine.yaml"
    path.write_text("exp_name: 2024_10_01\nexp_dir: 1.10\nsampling: {batch_size: 16}\n")
    return path


def test_text_keys_are_those_that_were_typed(typed):
    config = read_config([typed], ["exp_name=007", "dataset={statistics: 2024-10-01}"])
    assert (config.exp_name, config.exp_dir, config.sampling.batch_size) == ("007", "1.10", 16)
    assert config.dataset.statistics == "2024-10-01"
    assert config == read_config([], shlex.split(config_arguments(config))[1:])


def test_what_snakemake_made_of_a_value_is_undone(typed):
    merged = {"exp_name": 7, "exp_dir": 1.1, "seed": 3, "sampling": {"batch_size": 16, "eta": 0.0}}
    assert as_typed(merged, [typed], ["exp_name=007"]) == {
        "exp_name": "007",
        "exp_dir": "1.10",
        "seed": 3,
        "sampling": {"batch_size": "16", "eta": 0.0},
    }
    assert as_typed(merged, [], None) == merged


def test_a_key_that_comes_twice_is_refused_in_files_and_in_assignments(typed):
    typed.write_text("seed: 1\n" + typed.read_text() + "seed: 2\n")
    with pytest.raises(
        ConfigError, match=r"mine.yaml: the key 'seed' comes twice, in lines 1 and 5"
    ):
        as_typed({}, [typed], [])
    with pytest.raises(ConfigError, match=r"--config dataset=.*'phase' comes twice"):
        read_config([], ["dataset={phase: val, phase: test}"])


def test_a_configuration_file_in_the_home_folder_is_found(typed, monkeypatch):
    monkeypatch.setenv("HOME", str(typed.parent))
    assert read_config(["~/mine.yaml"], []).exp_dir == "1.10"


def test_a_file_that_is_no_mapping_is_refused(typed):
    typed.write_text("- a\n")
    with pytest.raises(ConfigError, match=r"mine.yaml: holds a list, expected keys with values"):
        read_config([typed], [])
    typed.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"mine.yaml: not UTF-8 text"):
        read_config([typed], [])
