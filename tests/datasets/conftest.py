"""A small folder with every dataset in it."""

import numpy as np
import pytest


@pytest.fixture
def data_dir(tmp_path):
    """HUMANISE, PROX, custom and H3D with random contacts; returns the data folder."""
    rng = np.random.default_rng(0)

    def contacts(path, columns=6):
        path.parent.mkdir(parents=True, exist_ok=True)
        points = rng.uniform(-1, 1, (16, columns)).astype(np.float32)
        dist = rng.uniform(0, 2, (16, 22)).astype(np.float32)
        np.savez(path, points=points, dist=dist, mask=np.arange(16))

    header = "scene_id,scene_trans_x,scene_trans_y,scene_trans_z,utterance,others\n"
    captions = ["sit$$sit down$$have a seat", "", "walk"]
    rows = "".join(f"scene{i},0.5,1.0,-0.25,{captions[i % 3]},\n" for i in range(6))
    for set_name in ("HUMANISE", "PROX"):
        folder = tmp_path / set_name
        for i in range(6):
            contacts(folder / f"contact_motion/contacts/{i:05d}.npz")
        (folder / "contact_motion/anno.csv").write_text(header + rows)
        (folder / "train.txt").write_text("000003\n000000\n000001\n")
        (folder / "all.txt").write_text("\n".join(f"{i:06d}" for i in range(6)))

    custom = tmp_path / "custom"
    (custom / "points").mkdir(parents=True)
    (custom / "anno.csv").write_text(header + "room,1,2,3,sit on the sofa,\n")
    points = rng.uniform(-1, 1, (16, 6)) * (1, 1, 1, 100, 100, 100) + (0, 0, 0, 100, 100, 100)
    np.savez(custom / "points/0000.npz", points=points.astype(np.float32))

    h3d = tmp_path / "H3D"
    for folder in ("texts", "new_joint_vecs"):
        (h3d / folder).mkdir(parents=True)
    for name, length in {"a": 60, "b": 45, "c": 20, "d": 199}.items():
        contacts(h3d / f"contacts/{name}.npz", columns=3)
        np.save(h3d / f"new_joint_vecs/{name}.npy", np.zeros((length, 263), np.float32))
        (h3d / f"texts/{name}.txt").write_text("hops#x#0.0#0.0\nlands#x#nan#nan\nlater#x#0.5#2.6\n")
    for phase in ("train", "all", "test"):
        (h3d / f"{phase}.txt").write_text("a\nb\nc\nd\nmissing\n")
    return tmp_path
