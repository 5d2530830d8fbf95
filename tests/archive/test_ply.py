"""Point clouds as other programs read them."""

import resource
from dataclasses import replace

import numpy as np
import plyfile
import pytest
from archives import LAYOUT, SKIPPED_ROW, make_run, quiet, whole_arrays

from cdm.archive import ContactMaps
from cdm.archive.ply import colours, export_ply, find_rows, write_ply
from cdm.errors import ArchiveError
from cdm.run.merge import merge


@pytest.fixture
def maps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_run()
    merge(plan, quiet)
    return ContactMaps(plan.archive)


def read_ply(path):
    """x, y, z and colours by a reader that is not ours."""
    ply = plyfile.PlyData.read(str(path))
    assert (ply.text, ply.byte_order) == (False, "<")
    vertex = ply["vertex"]
    assert [p.name for p in vertex.properties] == ["x", "y", "z", "red", "green", "blue"]
    columns = [vertex[name] for name in ("x", "y", "z", "red", "green", "blue")]
    assert [column.dtype.str[1:] for column in columns] == ["f4"] * 3 + ["u1"] * 3
    return np.stack(columns[:3], axis=1), np.stack(columns[3:], axis=1)


def test_a_cloud_has_the_points_in_metres_and_a_cloud_for_each_joint(maps, tmp_path):
    names = export_ply(maps.path, tmp_path / "ply", 2, quiet)
    assert names == ["000-sít 0", "001-sít 3"]
    assert sorted(path.name for path in (tmp_path / "ply").iterdir()) == names
    arrays = whole_arrays()
    for name, row in zip(names, (0, 3), strict=True):
        folder = tmp_path / "ply" / name
        files = sorted(path.name for path in folder.iterdir())
        assert files == ["contact.npy", "contact_joint_00.ply", "contact_joint_01.ply"]
        for joint in range(2):
            xyz, rgb = read_ply(folder / f"contact_joint_{joint:02}.ply")
            np.testing.assert_array_equal(xyz, arrays["points"][row])
            nearest_first = np.argsort(arrays["distance"][row, 0, :, joint])
            brightness = rgb[nearest_first].astype(int)
            assert (np.diff(brightness[:, :2], axis=0) <= 0).all()  # red and green fade
            assert (np.diff(brightness[:, 2]) >= 0).all()  # and blue rises with the distance


def test_contact_npy_is_what_stage_2_samples_its_examples_with(maps, tmp_path):
    export_ply(maps.path, tmp_path / "ply", ["HUMANISE/5", "HUMANISE/00002-0"], quiet)
    arrays = whole_arrays()
    # It sorts the folders that have a dash by their numbers.
    found = sorted((tmp_path / "ply").glob("*-*/contact.npy"))
    for path, row in zip(found, (5, 2), strict=True):
        contact = np.load(path)
        assert contact.dtype == np.float32 and contact.shape == (16, 3 + 2)
        np.testing.assert_array_equal(contact[:, :3], arrays["points"][row])
        np.testing.assert_array_equal(contact[:, 3:], arrays["distance"][row, 0])


def test_maps_of_distances_are_bright_where_they_are_small(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_run()
    merge(plan, quiet)
    opened = ContactMaps(plan.archive)
    opened.attributes["config"]["dataset"]["use_raw_dist"] = True
    monkeypatch.setattr("cdm.archive.ply.ContactMaps", lambda path: opened)
    export_ply(plan.archive, tmp_path / "ply", ["HUMANISE/0"], quiet)
    _, rgb = read_ply(next((tmp_path / "ply").rglob("contact_joint_00.ply")))
    metres = opened.contact("HUMANISE", 0)[0, :, 0]
    order = np.argsort(metres)
    assert (np.diff(rgb[order, 0].astype(int)) <= 0).all() and len(np.unique(rgb[:, 0])) > 3


def test_every_channel_changes_one_way_and_closeness_is_cut_to_its_range():
    ramp = colours(np.linspace(0, 1, 101)).astype(int)
    steps = np.diff(ramp, axis=0)
    assert (steps[:, :2] >= 0).all() and (steps[:, 2] <= 0).all() and (steps != 0).any(1).all()
    np.testing.assert_array_equal(colours(np.array([-1.0, 0, 1, 2])), ramp[[0, 0, -1, -1]])


def test_a_cloud_of_one_point_can_be_read_back(tmp_path):
    write_ply(tmp_path / "a.ply", np.float64([[1, 2, 3]]), np.uint8([[4, 5, 6]]))
    xyz, rgb = read_ply(tmp_path / "a.ply")
    assert (xyz.tolist(), rgb.tolist()) == ([[1, 2, 3]], [[4, 5, 6]])


def test_samples_are_chosen_by_number_or_by_name(maps):
    assert find_rows(maps, 100) == [row for row in range(7) if row != SKIPPED_ROW]
    assert find_rows(maps, 1) == [0]
    assert find_rows(maps, ["HUMANISE/6", "HUMANISE/0-0"]) == [6, 0]


@pytest.mark.parametrize("name", ["HUMANISE/99", f"HUMANISE/{SKIPPED_ROW}", "PROX/1", "1"])
def test_a_name_without_a_map_is_refused_and_nothing_is_written(maps, tmp_path, name):
    with pytest.raises(ArchiveError, match=r"has no map of .*export\.items.*HUMANISE/0"):
        export_ply(maps.path, tmp_path / "ply", ["HUMANISE/0", name], quiet)
    assert not (tmp_path / "ply").exists()


def test_captions_of_any_kind_make_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_run()
    merge(plan, quiet)
    opened = ContactMaps(plan.archive)
    texts = ["../up", "a/b\\c", "", "é" * 500, "x", "line\nend\x1b[0m", ".."]
    monkeypatch.setattr(opened, "column", lambda name: np.array(texts, object))
    opened.keys, opened.statuses = [("A", str(i), 0) for i in range(7)], np.array(["ok"] * 7)
    opened.statuses[SKIPPED_ROW] = "skipped"
    monkeypatch.setattr("cdm.archive.ply.ContactMaps", lambda path: opened)
    names = export_ply(plan.archive, tmp_path / "ply", 7, quiet)
    assert names[:3] == ["000-.. up", "001-a b c", "002-"] and names[4:] == [
        "004-line end [0m", "005-.."
    ]  # fmt: skip
    assert len(names[3].encode()) <= 124
    assert len(list((tmp_path / "ply").glob("*-*/contact_joint_01.ply"))) == 6
    assert LAYOUT.contact_dim == 2


def test_a_file_that_the_disk_does_not_take_is_told_by_the_system_s_reason(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_run(replace(LAYOUT, num_points=1024))
    merge(plan, quiet)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, limits[1]))  # as a full disk: a part fits
    try:
        with pytest.raises(ArchiveError, match=r"cannot write .*: File too large"):
            export_ply(plan.archive, tmp_path / "ply", ["HUMANISE/5"], quiet)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
