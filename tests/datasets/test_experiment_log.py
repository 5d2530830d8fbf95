"""The split that a model was trained on, by the log of its experiment."""

import os

import pytest
from helpers import REPO

from cdm.datasets.experiment_log import trained_split
from cdm.errors import DataError

BLOCK = """2024-01-15 10:23:18.495 | INFO     | __main__:main:71 - [Configuration]
exp_name: mine
exp_dir: ${output_dir}/${now:%Y-%m-%d}_${exp_name}
task:
  name: contact map generation
  train:
    phase: PHASE
  dataset:
    sigma: 0.8


2024-01-15 10:23:18.495 | INFO     | __main__:main:72 - [Train] ==> Begin training..
"""


def write_log(folder, text):
    (folder / "log").mkdir(exist_ok=True)
    (folder / "log/runtime.log").write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize("phase", ["train", "all"])
def test_the_split_is_the_one_in_the_configuration(tmp_path, phase):
    write_log(tmp_path, BLOCK.replace("PHASE", phase))
    assert trained_split(tmp_path) == phase


def test_of_a_resumed_training_the_last_configuration_counts(tmp_path):
    first, last = (BLOCK.replace("PHASE", phase) for phase in ("train", "all"))
    write_log(tmp_path, f"an odd line\n{first}\nphase: val\n{last}")
    assert trained_split(tmp_path) == "all"


def test_line_ends_of_windows_and_foreign_bytes_are_no_obstacle(tmp_path):
    write_log(
        tmp_path, b"\xff\xfe\n" + BLOCK.replace("PHASE", "all").replace("\n", "\r\n").encode()
    )
    assert trained_split(tmp_path) == "all"


@pytest.mark.parametrize("text", [None, "", "2024-01-15 10:23:18.495 | INFO | step 100\n"])
def test_without_a_configuration_nothing_is_told(tmp_path, text):
    if text is not None:
        write_log(tmp_path, text)
    assert trained_split(tmp_path) is None


@pytest.mark.parametrize(
    "text",
    [
        BLOCK.replace("phase: PHASE", "phase: everything"),
        BLOCK.replace("phase: PHASE", "phase: [all]"),
        BLOCK.replace("phase: PHASE", "steps: 5"),
        BLOCK.replace("phase: PHASE", 'phase: "all'),
        BLOCK[: BLOCK.index("  train:")],  # cut off
        BLOCK.replace("phase: PHASE", "phase: !!python/object/apply:os.system [ls]"),
    ],
)
def test_a_configuration_that_does_not_tell_the_split_is_an_error(tmp_path, text):
    write_log(tmp_path, text)
    with pytest.raises(DataError, match=r"log/runtime.log: .*dataset.statistics_phase"):
        trained_split(tmp_path)


def test_a_pipe_in_place_of_the_log_is_not_waited_for(tmp_path):
    (tmp_path / "log").mkdir()
    os.mkfifo(tmp_path / "log/runtime.log")
    with pytest.raises(DataError, match=r"runtime.log"):
        trained_split(tmp_path)


@pytest.mark.parametrize("name", ["novel_perceiver", "t2m_perceiver", "t2m_pointmamba"])
def test_logs_as_the_public_forks_write_them(name):
    folder = REPO / "../shared/experiments" / name
    if not folder.exists():
        pytest.skip(f"no logs of experiments: {folder} is missing")
    assert trained_split(folder) == "train"
