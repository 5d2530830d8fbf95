"""Pictures of the demo are drawn."""

import matplotlib

from cdm.demo import picture


def test_overview_and_sheet_are_written(tmp_path):
    matplotlib.use("Agg")
    picture.draw_overview(tmp_path / "overview.png")
    picture.draw_sheet(tmp_path / "sheet.png", [24])
    for name in ("overview.png", "sheet.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_closeness_is_largest_where_a_joint_comes_closest():
    scene = picture.make_scene(24)
    close = picture.contact(scene)
    nearest = picture.distances(scene.points[:, :3], scene.joints)[:, 0].argmin()
    assert close.shape == (len(scene.points), 22) and close[:, 0].argmax() == nearest
    assert 0 <= close.min() and close.max() <= 1
