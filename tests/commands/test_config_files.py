"""The commands and the workflow read the configuration alike, as it was typed."""

import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from helpers import DEMO_MODEL, REPO, raw_config, run_config, write_dataset
from training_logs import block, composed, write_log

from cdm.__main__ import main
from cdm.commands.config_files import (
    config_arguments,
    configure,
    read_config,
)
from cdm.config import Config, load_config
from cdm.errors import ConfigError
from cdm.model.checkpoint import DEMO_EXP_DIR
from cdm.run.plan_files import read_plan

FILE = {"exp_dir": "demo", "sampling": {"batch_size": 7}}
FAST = {
    "diffusion": {"timestep_respacing": "snr20"},
    "sampling": {"method": "dpmpp_2m_sde", "eta": 0.0},
}
ARGUMENTS = ["dataset={data_dir: data, sets: [HUMANISE], num_points: 64}", "seed=5", "gpu=null"]


def test_the_configuration_is_the_one_snakemake_plans_with(tmp_path, monkeypatch):
    """With an experiment whose log tells what neither the file nor the command line does."""
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "data", 3)
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp/ckpt").symlink_to(DEMO_EXP_DIR / "ckpt")
    told = {"diffusion__steps": 900, "model__text_model__version": "hashing"}
    told |= {"model__arch": "PointMamba"}
    write_log(tmp_path / "exp", composed(sets=True, **told))
    content = "exp_name: 007\n" + yaml.safe_dump(FILE | {"exp_dir": "exp", "model": DEMO_MODEL})
    (tmp_path / "mine.yaml").write_text(content)
    arguments = [*ARGUMENTS, "trust=mine"]  # the demo's model has point features
    command = ["snakemake", "-s", REPO / "Snakefile", "--configfile", "mine.yaml", "--cores", "1"]
    command += ["--config", *arguments, "--until", "demo_data"]  # plans, and runs nothing
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = read_plan("outputs/007").asked
    assert found == read_config(["mine.yaml"], arguments)
    assert (found.diffusion.steps, found.seed) == (900, 5)
    table = (tmp_path / "outputs/007/checkpoint_info.txt").read_text()
    [row] = [line for line in table.splitlines() if line.startswith("diffusion.steps")]
    assert row.split()[1:] == ["900", "exp/log/runtime.log", "line", row.split()[-1]]


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


def test_what_is_to_be_typed_names_no_section_that_changes_nothing():
    config = read_config([], ["exp_name=b", "dataset={data_dir: demo}"])
    assert config_arguments(config) == "--config exp_name=b"


def test_what_snakemake_made_of_a_value_is_undone(typed):
    merged = raw_config(exp_name=7, exp_dir=1.1, seed=3, sampling={"batch_size": 16})
    found = configure(merged, [typed], ["exp_name=007"])
    assert (found.raw["exp_name"], found.raw["exp_dir"], found.raw["seed"]) == ("007", "1.10", 3)
    assert load_config(found.raw).sampling.batch_size == 16
    assert found.provenance.places == {
        "exp_name": "--config",
        "exp_dir": f"{typed} line 2",
        "seed": "the workflow's config",
        "sampling.batch_size": f"{typed} line 3",
    }


def test_in_a_module_every_key_that_is_passed_counts_as_set():
    found = configure({"exp_dir": "x", "dataset": {"sigma": 0.8}}, [], None)
    assert set(found.provenance.places) == {"exp_dir", "dataset.sigma"}
    assert load_config(found.raw).diffusion.steps == 500


def test_a_key_that_comes_twice_is_refused_in_files_and_in_assignments(typed):
    typed.write_text("seed: 1\n" + typed.read_text() + "seed: 2\n")
    with pytest.raises(
        ConfigError, match=r"mine.yaml: the key 'seed' comes twice, in lines 1 and 5"
    ):
        configure({}, [typed], [])
    with pytest.raises(ConfigError, match=r"--config dataset=.*'phase' comes twice"):
        read_config([], ["dataset={phase: val, phase: test}"])


@pytest.mark.parametrize(
    "words",
    [
        ["status", "--configfile", "a.yaml", "--configfile", "b.yaml"],
        ["run", "sampling.k_samples=2", "--", "-n", "--config", "seed=1"],
    ],
)
def test_the_commands_refuse_them_too(words, monkeypatch, capsys):
    monkeypatch.setattr("os.execv", None)  # would fail
    assert main(words) == 2
    assert "is there 2 times" in capsys.readouterr().err


def test_a_configuration_file_in_the_home_folder_is_found(typed, monkeypatch):
    monkeypatch.setenv("HOME", str(typed.parent))
    assert read_config(["~/mine.yaml"], []).exp_dir == "1.10"


def test_a_file_that_is_no_mapping_is_refused(typed):
    typed.write_text("- a\n")
    with pytest.raises(ConfigError, match=r"mine.yaml: holds a list, expected keys with values"):
        read_config([typed], [])
    typed.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"mine.yaml: cannot be read as UTF-8 text.*iconv"):
        read_config([typed], [])


# --- what the experiment's log tells -------------------------------------------------------------


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """An experiment folder with a log, and the data folder that it names, in the working folder."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    write_log(Path("outputs/mine"), composed(task__dataset__sigma=0.6, diffusion__steps=900))
    return Path("outputs/mine")


def test_the_log_wins_over_the_defaults_and_the_user_over_the_log(experiment):
    config = read_config([], ["exp_dir=outputs/mine", "seed=3", "dataset={phase: test}"])
    assert (config.dataset.sigma, config.diffusion.steps) == (0.6, 900)
    assert (config.seed, config.dataset.phase) == (3, "test")
    assert (config.dataset.name, config.data_dir) == ("ContactHumanML3DDataset", "data")
    places = config.provenance.places
    assert places["dataset.sigma"].startswith("outputs/mine/log/runtime.log line ")
    assert places["seed"] == "--config" and "sampling.eta" not in places
    assert config.provenance.training == "outputs/mine/log/runtime.log"


@pytest.mark.parametrize("form", ["slash", "link", "read-only", "absolute"])
def test_an_experiment_is_found_however_it_is_named(experiment, form, tmp_path):
    named = {"slash": "outputs/mine/", "absolute": str(tmp_path / experiment), "link": "exp"}
    Path("exp").symlink_to(experiment)
    if form == "read-only":
        (experiment / "log/runtime.log").chmod(0o400)
        experiment.chmod(0o500)
    assert read_config([], [f"exp_dir={named.get(form, experiment)}"]).diffusion.steps == 900


def test_data_is_looked_for_here_and_then_beside_the_experiment(experiment, tmp_path, monkeypatch):
    work = tmp_path / "elsewhere"
    work.mkdir()
    monkeypatch.chdir(work)
    config = read_config([], [f"exp_dir={tmp_path}/outputs/mine"])
    assert config.data_dir == f"{tmp_path}/data"
    (work / "data").mkdir()
    assert read_config([], [f"exp_dir={tmp_path}/outputs/mine"]).data_dir == "data"
    for folder in (work / "data", tmp_path / "data"):
        folder.rmdir()
    with pytest.raises(ConfigError, match=r"(?s)dataset.data_dir: .*--config dataset='{data_dir:"):
        read_config([], [f"exp_dir={tmp_path}/outputs/mine"])
    given = read_config([], [f"exp_dir={tmp_path}/outputs/mine", "dataset={data_dir: /x}"])
    assert given.data_dir == "/x"


def test_a_run_is_found_by_its_configuration_whatever_became_of_the_data(experiment, capsys):
    Path("data").rmdir()
    write_log(experiment, composed(diffusion__learn_sigma=True))
    assert main(["status", "--config", "exp_dir=outputs/mine", "exp_name=x"]) == 2
    assert "outputs/x/plan/plan.json: no such file" in capsys.readouterr().err


def test_weights_of_a_scene_model_are_found_beside_the_data(experiment):
    scene = {"model__scene_model__use_scene_model": True}
    write_log(experiment, composed(sets=True, **scene))
    with pytest.raises(ConfigError, match=r"(?s)pretrained_weight: .*.*model='{scene_model: {pre"):
        read_config([], ["exp_dir=outputs/mine"])
    path = Path("data/POINTTRANS_C_N8192_E300/model.pth")
    path.parent.mkdir()
    path.touch()
    config = read_config([], ["exp_dir=outputs/mine"])
    assert config.model.scene_model.pretrained_weight == str(path)
    write_log(experiment, composed(sets=True, task__dataset__use_openscene=True, **scene))
    path.unlink()
    assert read_config([], ["exp_dir=outputs/mine"]).model.scene_model.pretrained_weight is None


def test_another_dataset_than_the_trained_one_is_rotated_as_it_always_is(experiment):
    write_log(experiment, composed(sets=True))
    assert read_config([], ["exp_dir=outputs/mine"]).dataset.transforms == ("RandomRotation",)
    name = "dataset={name: ContactMapCustomDataset}"
    assert read_config([], ["exp_dir=outputs/mine", name]).dataset.transforms is None


def test_what_is_refused_may_be_insisted_upon_and_is_then_told(experiment):
    write_log(experiment, composed(diffusion__learn_sigma=True))
    with pytest.raises(ConfigError, match=r"(?s)learn_sigma is true: .*trust=mine"):
        read_config([], ["exp_dir=outputs/mine"])
    config = read_config([], ["exp_dir=outputs/mine", "trust=mine"])
    assert "learn_sigma is true" in config.provenance.notes[0]


@pytest.mark.parametrize(
    "log",
    [
        block(composed(), end=False)[:500],
        block(composed()).replace("seed: 7", "seed: !!python/object/apply:os.system [touch x]"),
        "x [Configuration]\nfoo: 1\n2023-01-01 10:00:00 | x\n",
        "x [Configuration]\n\0\1\n2023-01-01 10:00:00 | x\n",
    ],
)
def test_a_log_that_cannot_be_read_is_told_with_what_to_do(experiment, log):
    write_log(experiment, log)
    with pytest.raises(ConfigError, match=r"(?s)runtime.log line \d+: .*--config reference=FILE"):
        read_config([], ["exp_dir=outputs/mine"])
    assert not Path("x").exists()
    config = read_config([], ["exp_dir=outputs/mine", "trust=mine"])
    assert config.diffusion.steps == 500 and "runtime.log" in config.provenance.notes[0]


def test_a_file_with_the_configuration_takes_the_place_of_a_log(experiment, tmp_path):
    (experiment / "log/runtime.log").unlink()
    for text in (yaml.safe_dump(composed(seed=9)), block(composed(seed=9))):
        Path("theirs.yaml").write_text(text)
        config = read_config([], ["exp_dir=outputs/mine", "reference=theirs.yaml"])
        assert (config.seed, config.provenance.training) == (9, "theirs.yaml")
    assert read_config([], ["exp_dir=outputs/mine"]).provenance.training is None
    with pytest.raises(ConfigError, match=r"nowhere.yaml: no such file"):
        read_config([], ["exp_dir=outputs/mine", "reference=nowhere.yaml"])


def test_a_wrong_value_names_its_place_in_the_log(experiment):
    write_log(experiment, composed(model__text_model__version="RoBERTa"))
    with pytest.raises(ConfigError, match=r"text_model.version: .*runtime.log line \d+\]"):
        read_config([], ["exp_dir=outputs/mine"])


def test_arguments_that_are_printed_give_back_what_the_log_told(experiment):
    for extra in ([], ["trust=mine", "dataset={sigma: 0.8}"], ["seed=1"]):
        config = read_config([], ["exp_dir=outputs/mine", *extra])
        assert read_config([], shlex.split(config_arguments(config))[1:]) == config
