"""Where the values of a run come from, in words."""

from pathlib import Path

import pytest
from training_logs import composed, write_log

from cdm.commands.config_files import read_config
from cdm.config import load_config
from cdm.run.sources import describe_sources, describe_values


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("exp").mkdir()
    Path("mine.yaml").write_text("exp_dir: exp\nsampling: {eta: 0.0}\n")
    return tmp_path


def test_each_value_is_shown_with_its_place(folder):
    write_log(Path("exp"), composed(sets=True, task__dataset__sigma=0.7))
    config = read_config(["mine.yaml"], ["seed=3"])
    rows = dict(line.split(None, 1) for line in describe_values(config).splitlines()[2:])
    assert (
        rows["dataset.sigma"].startswith("0.7 ")
        and "exp/log/runtime.log line" in rows["dataset.sigma"]
    )
    assert rows["seed"].split() == ["3", "--config"]
    assert rows["sampling.eta"].split() == ["0.0", "mine.yaml", "line", "2"]
    assert rows["sampling.precision"].endswith(" default")
    assert "model.arch_pointmamba.depth" not in rows and "exp_name" not in rows


def test_one_line_counts_the_values_of_each_file(folder):
    write_log(Path("exp"), composed())
    line = describe_sources(read_config(["mine.yaml"], ["seed=3"]))
    assert line.startswith("settings        ") and len(line.splitlines()) == 1
    assert " from exp/log/runtime.log, 1 from mine.yaml, 1 from --config, the rest" in line


def test_without_a_log_one_line_says_what_is_taken_for_granted(folder):
    [_, assumed] = describe_sources(read_config(["mine.yaml"], [])).splitlines()
    assert assumed.startswith(
        "assumed         diffusion.steps 500, diffusion.noise_schedule cosine,"
    )
    assert assumed.endswith("exp/log/runtime.log does not tell how the model was trained")
    given = read_config(["mine.yaml"], ["dataset={sigma: 0.8}"])
    assert "dataset.sigma" in assumed and "dataset.sigma" not in describe_sources(given)


def test_a_key_that_is_not_in_the_log_is_told(folder):
    content = composed()
    del content["task"]["dataset"]["sigma"]
    write_log(Path("exp"), content)
    [_, assumed] = describe_sources(read_config(["mine.yaml"], [])).splitlines()
    assert assumed == "assumed         dataset.sigma 0.8: exp/log/runtime.log does not tell"


def test_warnings_are_shown_and_the_demo_says_nothing(folder):
    write_log(Path("exp"), composed(model__extra__size=3))
    assert "unknown in exp/log/runtime.log: model.extra.size" in describe_sources(
        read_config(["mine.yaml"], [])
    )
    assert describe_sources(read_config([], [])) == ""
    plain = load_config(read_config(["mine.yaml"], []).as_dict())
    assert describe_sources(plain) == describe_values(plain) == ""
