"""Other shapes of an archive: right values, and nothing written where one would not be right."""

import pickletools
import zipfile

import numpy as np
import pytest
from archives import make_run, quiet, whole_arrays

from cdm.archive.export import export_npz, export_pred_contact
from cdm.run.merge import merge


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_run()


def test_exported_npz_holds_the_old_scripts_keys_and_fields(plan, tmp_path):
    merge(plan, quiet)
    target = tmp_path / "generated_contact_maps.npz"
    assert export_npz(plan.archive, target, quiet) == 6
    found = np.load(target, allow_pickle=True)
    assert set(found) == {"sample_list", "k_samples_list", "total_batches", "dataset_size"}
    assert (int(found["total_batches"]), int(found["dataset_size"])) == (3, 6)
    arrays, usable = whole_arrays(), [0, 1, 2, 3, 5, 6]
    for position, index in enumerate(usable):
        item, items = found["sample_list"][position], found["k_samples_list"][position]
        assert item["info_index"] == index and item["c_text"] == f"sít {index}"
        np.testing.assert_array_equal(item["sample"], arrays["sample"][index, 0])
        np.testing.assert_array_equal(items["sample"], arrays["sample"][index])
        np.testing.assert_array_equal(item["c_pc_xyz"], arrays["points"][index])


def test_exported_npz_can_be_read_by_numpy_1(plan, tmp_path):
    merge(plan, quiet)
    export_npz(plan.archive, tmp_path / "maps.npz", quiet)
    with zipfile.ZipFile(tmp_path / "maps.npz") as file:
        content = file.read("sample_list.npy")
    header = 10 + int.from_bytes(content[8:10], "little")
    names = [arg for op, arg, _ in pickletools.genops(content[header:]) if op.name == "GLOBAL"]
    assert names and not any("numpy._core" in name for name in names)


def test_exported_pred_contact_is_what_stage_2_reads(plan, tmp_path):
    merge(plan, quiet)
    count = export_pred_contact(plan.archive, tmp_path / "out", tmp_path / "done.json", quiet)
    files = sorted(path.name for path in (tmp_path / "out/HUMANISE/pred_contact").iterdir())
    assert count == 6 and files == [f"{i:05}.npy" for i in (0, 1, 2, 3, 5, 6)]
    distance = np.load(tmp_path / "out/HUMANISE/pred_contact/00003.npy")
    assert distance.dtype == np.float32 and distance.shape == (2, 16, 2)
    np.testing.assert_array_equal(distance, whole_arrays()["distance"][3])
