"""The built-in demo: rooms in the real layout whose words, places and motions belong together."""

import csv
import hashlib
import itertools
import re

import numpy as np
import pytest
from example_datasets import dataset_config

from cdm.datasets import FileReader, stat_files
from cdm.datasets.actions import ACTIONS, action_of
from cdm.datasets.contact_map import ContactMapDataset
from cdm.datasets.statistics import compute_statistics, load_statistics
from cdm.demo.furniture import COLORS, SIZES, Footprints
from cdm.demo.motion import NUM_FRAMES, seat_of
from cdm.demo.paths import shortest_paths, sight
from cdm.demo.scenes import (
    NUM_POINTS,
    NUM_WRITTEN,
    TARGET,
    TEST,
    TRAIN,
    VAL,
    DemoDataset,
    distances,
    make_item,
    make_row,
    make_scene,
    splits,
    write_demo,
)
from cdm.model.checkpoint import DEMO_EXP_DIR

PELVIS, ANKLES, FEET = 0, [7, 8], [10, 11]
ITEMS = range(TEST.start, TEST.start + 40)


def demo_config(**options):
    defaults = {"data_dir": "demo", "sets": ("HUMANISE",), "phase": "val", "num_points": NUM_POINTS}
    return dataset_config(**{**defaults, **options})


@pytest.fixture(scope="module")
def demo_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder, phase="train", num_train=3)
    return folder


@pytest.fixture(scope="module")
def scenes():
    return [make_scene(item) for item in ITEMS]


def test_samples_are_known_without_files(tmp_path):
    for phase, items in {"val": VAL, "test": TEST, "train": TRAIN}.items():
        samples = DemoDataset(demo_config(phase=phase), tmp_path / "not yet there").samples()
        assert [sample.index for sample in samples] == list(map(str, items))
        assert all(sample.text for sample in samples)


@pytest.mark.parametrize("phase", ["all", "val", "test"])
def test_samples_are_those_of_the_files(tmp_path, monkeypatch, phase):
    monkeypatch.setattr("cdm.demo.scenes.make_item", lambda *_: np.zeros((3, 1, 1)))
    write_demo(tmp_path, phase)
    config = demo_config(phase=phase, captions="all")
    dataset = ContactMapDataset(config, tmp_path)
    from_files = dataset.samples()
    assert DemoDataset(config, tmp_path).samples() == from_files
    assert len({sample.index for sample in from_files}) == len(splits()[phase])
    stat_files(dataset, [name for sample in from_files for name in dataset.files(sample)])


def test_an_item_of_train_is_the_same_from_memory_and_from_disk(demo_dir, tmp_path):
    config = demo_config(phase="train")
    from_disk = ContactMapDataset(config, demo_dir)
    from_code = DemoDataset(config, tmp_path / "not there")
    samples = from_code.samples()
    for sample in from_disk.samples():
        assert sample in samples[:3] and from_code.files(sample) == []
        disk = from_disk.load(sample, FileReader(demo_dir))
        code = from_code.load(sample, FileReader(tmp_path))
        for name in ("c_pc_xyz", "c_pc_feat", "distance", "info_scene_trans", "info_aug_trans"):
            np.testing.assert_array_equal(getattr(disk, name), getattr(code, name), err_msg=name)


def test_statistics_are_those_of_train_in_every_phase(demo_dir, monkeypatch):
    monkeypatch.setattr("cdm.demo.scenes.NUM_WRITTEN", 3)
    monkeypatch.setattr("cdm.demo.scenes.splits", lambda: splits(3))
    found = [
        compute_statistics(DemoDataset(demo_config(phase=phase), demo_dir), FileReader(demo_dir))
        for phase in ("train", "val", "test")
    ]
    assert found[0].numbers() == found[1].numbers() == found[2].numbers()


def test_the_shipped_statistics_are_those_of_the_rooms(scenes):
    """To sample with others gives maps that look right and are not."""
    name = ContactMapDataset(demo_config(), "").statistics_name()
    shipped = load_statistics(DEMO_EXP_DIR / name, 6)
    dist = [distances(scene.points[:, :3], scene.joints) for scene in scenes]
    contact = np.exp(-(np.stack(dist)[..., [0, 10, 11, 12, 20, 21]] ** 2) / (2 * 0.8**2))
    np.testing.assert_allclose(shipped.mean.ravel(), contact.mean((0, 1)), atol=0.03)
    np.testing.assert_allclose(shipped.std.ravel(), contact.std((0, 1)), atol=0.03)


def test_an_item_does_not_depend_on_the_others_and_files_repeat(demo_dir, tmp_path):
    write_demo(tmp_path, phase="train", num_train=1)
    written = sorted(tmp_path.rglob("0*.np?"))
    assert len(written) == 2
    for path in written:
        assert path.read_bytes() == (demo_dir / path.relative_to(tmp_path)).read_bytes()
    assert make_row(5, seed=1) != make_row(5)


def test_the_test_split_never_changes():
    rows = repr([make_row(item) for item in TEST]).encode()
    assert hashlib.sha256(rows).hexdigest()[:16] == "ff7b770c3ae8a40f"
    made = [make_item(item) for item in TEST[:4]]
    found = [[array.mean() for array in arrays] for arrays in made]  # points, dist, target
    np.testing.assert_allclose(
        found,
        [
            [0.207431, 2.161324, 0.049805],
            [-0.017157, 1.489389, 0.137695],
            [0.035987, 2.100006, 0.12207],
            [0.091019, 2.240784, 0.042969],
        ],
        rtol=1e-4,
    )


def test_table_is_valid_csv_and_states_the_action(demo_dir):
    with open(demo_dir / "HUMANISE/contact_motion/anno.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == TRAIN.start + 3 <= TRAIN.start + NUM_WRITTEN
    for item, row in enumerate(rows):
        expected, others = make_row(item)
        assert row["utterance"] == expected.utterance and row["others"] == others
        for _, text in expected.captions():
            assert action_of(text) == action_of(row["others"]) == ACTIONS[item % 4]
    assert {len(row["utterance"].split("$$")) for row in rows} == {1, 2, 3}


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("sit down on the chair that is beside the desk", "sit"),
        ("lie down on the bed", "lie"),
        ("Stand up from the toilet near the sink", "stand up"),
        ("walk to the standing lamp", "walk"),
        ("a person walks forward, then sits down", "walk"),
        ("stand up from the sofa; target object label: sofa (6)", "stand up"),
        ("action=lie;target=bed", "lie"),
        ("a man waves", ""),
        ("", ""),
    ],
)
def test_actions_are_told_from_words(text, action):
    assert action_of(text) == action


def outline(piece):
    """Points on the edge of a piece's footprint."""
    corners = piece.footprint().corners[0]
    t = np.linspace(0, 1, 60)[:, None, None]
    return (corners + t * (np.roll(corners, 1, axis=0) - corners)).reshape(-1, 2)


def distance_m(piece, other):
    gaps = outline(piece)[:, None] - outline(other)[None]
    return np.linalg.norm(gaps, axis=-1).min()


def meant(caption, pieces):
    """The pieces a caption can mean, as a reader would find them."""
    noun = re.search(r"the (?:(\w+) )?(\w+)(?: (?:near|next to|beside) the (\w+))?$", caption)
    color, kind, near = noun.groups()
    found = [p for p in pieces if p.kind == kind and color in (None, p.color)]
    if near:
        (neighbour,) = (p for p in pieces if p.kind == near)
        found = [p for p in found if distance_m(p, neighbour) < 0.9]
    return found


def test_every_caption_means_exactly_the_target(scenes):
    told_by = {scene.task.told_by for scene in scenes}
    assert told_by == {"kind", "color", "neighbour"}
    for scene in scenes:
        for caption in scene.task.captions:
            assert meant(caption, scene.room.pieces) == [scene.room.pieces[0]], caption
        rivals = [p for p in scene.room.pieces[1:] if p.kind == scene.task.kind]
        assert bool(rivals) == (scene.task.told_by != "kind")


def test_nothing_overlaps_or_stands_in_a_wall(scenes):
    for scene in scenes:
        for a, b in itertools.combinations(scene.room.pieces, 2):
            assert a.footprint().gaps(b.footprint())[0, 0] > 0.05
        for piece in scene.room.pieces:
            assert (np.abs(piece.footprint().corners[0]) < np.array(scene.room.size) / 2).all()
        assert np.abs(scene.joints[..., :2]).max((0, 1)) @ [1, 0] < scene.room.size[0] / 2
        assert np.abs(scene.joints[..., :2]).max((0, 1)) @ [0, 1] < scene.room.size[1] / 2


def test_the_pelvis_rests_on_the_target(scenes):
    for scene in scenes:
        joints, pieces = scene.joints, scene.room.pieces
        xyz = scene.points[:, :3].astype(float)
        nearest = distances(xyz, joints)[:, PELVIS].argmin()
        assert scene.labels[nearest] == TARGET
        if scene.task.action == "walk":
            assert outline_distance(joints[-1, PELVIS, :2], pieces[0]) < 0.3
            continue
        rest = joints[0 if scene.task.action == "stand up" else -1]
        assert scene.labels[np.linalg.norm(xyz - rest[PELVIS], axis=1).argmin()] == TARGET
        assert 0 < rest[PELVIS, 2] - pieces[0].size[2] < 0.15
        if scene.task.action != "lie":
            seat = pieces[0].to_room(seat_of(pieces[0], scene.room.side, 1.0))
            assert np.linalg.norm(rest[PELVIS] - seat) < 0.15
            assert (rest[FEET, 2] < 0.05).all() and (rest[ANKLES, 2] < 0.1).all()


def outline_distance(xy, piece):
    return np.linalg.norm(outline(piece) - xy, axis=1).min()


def test_the_way_keeps_clear_of_other_furniture(scenes):
    for scene in scenes:
        for xy in scene.joints[::4, PELVIS, :2]:
            for piece in scene.room.pieces[1:]:
                assert outline_distance(xy, piece) > 0.2


def test_points_show_every_piece_in_its_color(scenes):
    for scene in scenes:
        for label, piece in enumerate(scene.room.pieces, start=TARGET):
            rgb = scene.points[scene.labels == label, 3:]
            assert len(rgb) > 20
            named = min(COLORS, key=lambda name: np.abs(rgb.mean(0) - COLORS[name]).sum())
            assert named == piece.color
        assert scene.points.dtype == np.float32 and np.abs(scene.points[:, 3:]).max() <= 1


def test_motion_is_smooth_and_keeps_its_size(scenes):
    for scene in scenes:
        joints = scene.joints
        assert joints.shape == (NUM_FRAMES, 22, 3) and joints[..., 2].min() >= 0
        assert np.linalg.norm(np.diff(joints, axis=0), axis=-1).max() < 0.35  # metres a frame
        reach = np.linalg.norm(joints - joints[:, :1], axis=-1).max()
        assert 0.5 < reach < 1.1


def test_distances_match_the_naive_ones(scenes):
    scene = scenes[0]
    dist = distances(scene.points[:, :3], scene.joints)
    assert dist.dtype == np.float32 and dist.shape == (NUM_POINTS, 22)
    offsets = scene.points[::50, None, None, :3].astype(np.float64) - scene.joints
    naive = np.linalg.norm(offsets, axis=-1).min(1)
    np.testing.assert_allclose(dist[::50], naive, atol=1e-6)


def test_every_kind_action_and_color_occurs():
    tasks = [make_row(item)[1] for item in TEST]
    kinds = {re.search(r"target=(\w+)", others)[1] for others in tasks}
    assert kinds == set(SIZES) and {action_of(others) for others in tasks} == set(ACTIONS)
    words = " ".join(make_row(item)[0].utterance for item in TEST)
    assert all(color in words for color in COLORS)


def test_sight_matches_points_along_the_line():
    rng = np.random.default_rng(0)
    obstacles = Footprints(rng.uniform(-1, 1, (3, 2)), rng.uniform(0.2, 1, (3, 2)), rng.random(3))
    a, b = rng.uniform(-2, 2, (2, 12, 2))
    t = np.linspace(0, 1, 2001)[:, None]
    for i, j in itertools.product(range(12), repeat=2):
        offset = (a[i] + t * (b[j] - a[i]))[None] - obstacles.centers[:, None]
        local = np.abs(np.einsum("kij,knj->kni", obstacles.axes, offset))
        inside = local - obstacles.halves[:, None]
        deepest = inside.max(-1).min()  # how far the line goes into an obstacle, negative
        if abs(deepest) > 1e-3:
            assert sight(a[i : i + 1], b[j : j + 1], obstacles)[0, 0] == (deepest > 0)


def test_a_path_goes_around_an_obstacle_and_is_the_shortest():
    wall = Footprints([(0, 0)], [(2, 0.2)], [0.0])
    half = np.array([3.0, 3.0])
    (path,) = shortest_paths(np.array([0.3, 1.0]), np.array([[0.3, -1.0]]), wall, half)
    assert path[0].tolist() == [0.3, -1.0] and path[-1].tolist() == [0.3, 1.0]
    length = np.linalg.norm(np.diff(path, axis=0), axis=1).sum()
    around = 2 * np.hypot(0.7, 0.9) + 0.2  # by the nearer end
    assert around < length < around + 0.05
    blocked = shortest_paths(np.array([0.3, 0.0]), np.array([[0.3, -1.0]]), wall, half)
    assert blocked == []


def test_gaps_lie_between_overlap_and_distance(scenes):
    for scene in scenes[:8]:
        for a, b in itertools.combinations(scene.room.pieces, 2):
            gap, distance = a.footprint().gaps(b.footprint())[0, 0], distance_m(a, b)
            assert gap - 1e-9 <= distance <= np.sqrt(2) * gap + 0.05
    piece = scenes[0].room.pieces[0].footprint()
    assert piece.gaps(piece)[0, 0] < 0
