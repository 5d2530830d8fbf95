"""What the log of an experiment tells, and which log and which configuration in it counts."""

import os

import pytest
from helpers import REPO
from training_logs import block, composed, write_log

from cdm.config.training_log import locate, read_log, read_reference
from cdm.errors import ConfigError


def test_of_a_resumed_training_the_last_configuration_counts(tmp_path):
    path = write_log(tmp_path, composed(seed=1), "step 1\n", composed(seed=2))
    found = read_log(tmp_path)
    assert found.values["seed"] == "2" and found.source == str(path)
    lines = path.read_text().splitlines()
    place, line = found.places["seed"].split(" line ")
    assert place == str(path) and lines[int(line) - 1] == "seed: 2"


def test_a_log_of_windows_with_colours_reads_alike(tmp_path):
    text = block(composed(seed=5)).replace("\n", "\r\n").replace("2023", "\x1b[32m2023")
    write_log(tmp_path, text.encode())
    assert read_log(tmp_path).values["seed"] == "5"


def test_where_the_last_configuration_is_cut_off_the_one_before_counts(tmp_path):
    whole = block(composed(), end=False)
    for end in range(whole.index("project"), len(whole), 97):
        write_log(tmp_path, composed(), whole[:end])
        found = read_log(tmp_path)
        assert found.values["dataset.sigma"] == "0.8" and found.values["diffusion.steps"] == "500"
        assert len(found.notes) == 1 and "is cut off" in found.notes[0]


def test_a_part_that_contradicts_the_one_before_is_told(tmp_path):
    part = block(composed(diffusion__steps=900), end=False)
    write_log(tmp_path, composed(), part[: part.index("platform") + 200])
    with pytest.raises(ConfigError, match=r"diffusion.steps is 900, but 500"):
        read_log(tmp_path)


def test_a_configuration_that_is_cut_off_alone_is_told(tmp_path):
    whole = block(composed(), end=False)
    for end in (whole.index("sigma: 0.8") + 8, whole.index("  arch:"), whole.index("task:")):
        write_log(tmp_path, whole[:end])
        with pytest.raises(ConfigError, match="the configuration is cut off"):
            read_log(tmp_path)


@pytest.mark.parametrize("name", ["eval/test-0102/test.log", "log/test.log"])
def test_a_test_run_tells_where_the_training_left_no_log(tmp_path, name):
    write_log(tmp_path, composed(seed=1), name="eval/test-0101/test.log")
    write_log(tmp_path, composed(seed=2), name=name)
    assert read_log(tmp_path).values["seed"] == "2"
    write_log(tmp_path, composed(seed=3))
    assert read_log(tmp_path).values["seed"] == "3"


@pytest.mark.parametrize("text", ["", "2023-01-01 10:00:00 | step 1\n", b"\0\xff" * 999])
def test_a_log_without_a_configuration_tells_nothing(tmp_path, text):
    assert read_log(tmp_path) is None
    write_log(tmp_path, text)
    assert read_log(tmp_path) is None


def test_what_is_no_file_or_too_large_is_told(tmp_path):
    (tmp_path / "log").mkdir()
    path = tmp_path / "log/runtime.log"
    os.mkfifo(path)
    with pytest.raises(ConfigError, match=r"runtime.log: cannot be read"):
        read_log(tmp_path)
    path.unlink()
    path.touch()
    os.truncate(path, 1 << 40)  # sparse
    with pytest.raises(ConfigError, match=r"expected at most .* reference=FILE"):
        read_log(tmp_path)


def test_a_file_of_something_else_is_no_reference(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("dataset: {sigma: 1}\n")
    with pytest.raises(ConfigError, match=r"mine.yaml line 1: found dataset, expected"):
        read_reference(str(path))


def test_a_path_of_the_log_is_looked_for_near_the_experiment_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exp_dir = tmp_path / "a/b/c/d/exp"
    exp_dir.mkdir(parents=True)
    found, looked = locate("./data", exp_dir)
    assert found is None
    assert looked == ["data", *(str(exp_dir.parents[i] / "data") for i in range(3))]
    (exp_dir.parents[1] / "data").mkdir()
    assert locate("data/", exp_dir)[0] == str(exp_dir.parents[1] / "data")
    assert locate(str(tmp_path), exp_dir) == (str(tmp_path), [str(tmp_path)])


SHARED = {
    "t2m_perceiver": ("ContactHumanML3DDataset", "Perceiver", "20", "false"),
    "t2m_pointmamba": ("ContactHumanML3DDataset", "PointMamba", "20", "false"),
    "novel_perceiver": ("ContactMapDataset", "Perceiver", "32", "true"),
}


@pytest.mark.parametrize("name", SHARED)
def test_logs_as_the_public_forks_write_them_tell_everything(name):
    folder = REPO / "../shared/experiments" / name
    if not folder.exists():
        pytest.skip(f"no logs of experiments: {folder} is missing")
    dataset, arch, length, scene_model = SHARED[name]
    found = read_log(folder)
    assert found.values["dataset.name"] == dataset
    assert found.values["model.arch"] == arch
    assert found.values["model.text_model.max_length"] == length
    assert found.values["model.scene_model.use_scene_model"] == scene_model
    assert found.values["dataset.sigma"] == "0.8" and found.values["diffusion.steps"] == "500"
    assert found.values["dataset.data_repr"] == "contact_cont_joints"
    assert not found.refused and not found.unknown and not found.notes
