"""The sheet of the demo's rooms is drawn."""

import matplotlib

from cdm.demo import picture


def test_a_sheet_is_written(tmp_path):
    matplotlib.use("Agg")
    picture.draw_sheet(tmp_path / "sheet.png", [24])
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_closeness_is_largest_where_a_joint_comes_closest():
    scene = picture.make_scene(24)
    close = picture.contact(scene)
    nearest = picture.distances(scene.points[:, :3], scene.joints)[:, 0].argmin()
    assert close.shape == (len(scene.points), 22) and close[:, 0].argmax() == nearest
    assert 0 <= close.min() and close.max() <= 1
