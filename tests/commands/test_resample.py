"""`cdm verify --resample` with the real model on the CPU."""

import json
from pathlib import Path

import pytest
import zarr
from helpers import plan_run

from cdm.__main__ import main
from cdm.commands import resample as module
from cdm.run.generate import generate_chunk
from cdm.run.merge import merge

RUN = Path("outputs/run")
ARCHIVE = RUN / "contact_maps.zarr"


@pytest.fixture
def generated(tmp_path, monkeypatch):
    """A merged run of real maps: 4 samples, 2 maps each, 2 steps."""
    monkeypatch.chdir(tmp_path)
    plan, _ = plan_run(tmp_path, num_items=4, sampling={"k_samples": 2})
    for chunk in plan.chunks:
        generate_chunk(plan, chunk, lambda line: None)
    merge(plan, lambda line: None)
    return plan


def verify_json(capsys, expected, *arguments):
    assert main(["verify", str(RUN), "--json", *arguments]) == expected
    return json.loads(capsys.readouterr().out)


def spoil(by):
    """Change sample 2 in the archive, and take the record away that would tell."""
    for path in [*RUN.glob("contact_maps-*.json"), *ARCHIVE.rglob("*")]:
        path.chmod(0o755)
    next(RUN.glob("contact_maps-*.json")).unlink()
    group = zarr.open_group(ARCHIVE, mode="r+")
    sample = group["sample"][2]
    sample[1, 5, 3] += by
    group["sample"][2] = sample


def test_samples_generated_again_are_the_same_to_the_last_bit(generated, capsys):
    found = verify_json(capsys, 0, "--resample", "3")["resampled"]
    assert (found["num_samples"], found["num_maps"], found["num_equal"]) == (3, 6, 6)
    assert found["tolerance"] == 0 and found["largest"] == 0
    assert verify_json(capsys, 0, "--resample", "99")["resampled"]["num_samples"] == 4


def test_samples_are_generated_again_from_anywhere_and_of_a_run_that_was_moved(
    generated, tmp_path, capsys, monkeypatch
):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    words = ["--json", "--resample", "1"]
    assert main(["verify", f"../{RUN}", *words]) == 0
    assert json.loads(capsys.readouterr().out)["resampled"]["num_equal"] == 2
    (tmp_path / RUN).rename("moved")
    assert main(["verify", "moved", *words]) == 2  # its data is not here
    error = capsys.readouterr().err
    assert f"looked for from {tmp_path}/other\n" in error and "00000.npz: cannot be read" in error
    monkeypatch.chdir(tmp_path)
    assert main(["verify", "other/moved", *words]) == 0
    assert json.loads(capsys.readouterr().out)["resampled"]["num_equal"] == 2


def test_a_map_that_differs_is_named(generated, capsys, monkeypatch):
    monkeypatch.setattr("cdm.archive.map_checks.TOLERANCE", {"float32": 1})
    spoil(by=1e-4)
    found = verify_json(capsys, 1, "--resample", "4")
    assert found["resampled"]["num_equal"] == 7
    assert "'2', " in found["problems"][0] and "map 1" in found["problems"][0]


def test_other_versions_are_given_the_stated_tolerance(generated, capsys, monkeypatch):
    monkeypatch.setattr("cdm.archive.map_checks.TOLERANCE", {"float32": 1})
    monkeypatch.setattr(module.torch, "__version__", "0.0")
    spoil(by=0.5 * module.TOLERANCE["fp32"])
    found = verify_json(capsys, 0, "--resample", "4")["resampled"]
    assert found["tolerance"] == module.TOLERANCE["fp32"] and found["largest"] > 0
    spoil_more = 2 * module.TOLERANCE["fp32"]
    group = zarr.open_group(ARCHIVE, mode="r+")
    group["sample"][2] = group["sample"][2] + spoil_more
    assert verify_json(capsys, 1, "--resample", "4")["problems"]


def test_an_archive_that_names_its_device_as_earlier_versions_did_is_of_the_same_device(generated):
    (ARCHIVE / "zarr.json").chmod(0o644)
    group = zarr.open_group(ARCHIVE, mode="r+")
    assert group.attrs["devices"][0]["kind"] == "cpu"
    group.attrs["devices"] = ["CPU (64 thread(s))"]
    assert module.resample(ARCHIVE, 1, lambda line: None).tolerance == 0
    group.attrs["devices"] = ["NVIDIA H100 80GB HBM3"]
    assert module.resample(ARCHIVE, 1, lambda line: None).tolerance == module.TOLERANCE["fp32"]


def test_a_number_of_samples_below_one_is_refused(generated, capsys):
    assert main(["verify", str(RUN), "--resample", "-3"]) == 2
    assert "--resample is -3, expected a number of samples above 0" in capsys.readouterr().err
