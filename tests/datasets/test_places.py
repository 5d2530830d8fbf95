"""Every dataset on a server: the samples and items that the same folder on disk gives."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import raw_config
from web_server import serve

from cdm.config import load_config
from cdm.datasets import FileReader, make_dataset
from cdm.datasets.motion_facts import seal_motions
from cdm.datasets.statistics import compute_statistics
from cdm.errors import Unreachable
from cdm.files import remote

H3D = {"name": "ContactHumanML3DDataset", "on_bad_item": "skip"}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.001)


@pytest.fixture
def server(data_dir):
    with serve(data_dir) as started:
        yield started


def open_dataset(data_dir, facts_path=None, point_feat_dim=None, **changes):
    changes = {"sets": ["HUMANISE", "PROX"], "num_points": 16, "use_openscene": False} | changes
    config = load_config(raw_config(exp_dir="x", dataset={"data_dir": str(data_dir), **changes}))
    return make_dataset(config.dataset, point_feat_dim, facts_path=facts_path)


def assert_same_items(a, b):
    readers = FileReader(a.data_dir), FileReader(b.data_dir)
    samples = a.samples()
    assert samples and samples == b.samples() and a.dropped.keys() == b.dropped.keys()
    assert a.all_files(samples) == b.all_files(samples)
    for sample in samples:
        x, y = (
            dataset.load(sample, reader) for dataset, reader in zip((a, b), readers, strict=True)
        )
        for name in ("c_pc_xyz", "c_pc_feat", "distance", "info_scene_trans", "info_aug_trans"):
            np.testing.assert_array_equal(getattr(x, name), getattr(y, name), err_msg=name)


@pytest.mark.parametrize(
    "changes",
    [{}, {"name": "ContactMapCustomDataset"}, H3D, {"captions": "reference"}],
    ids=["sets", "custom", "H3D", "reference"],
)
def test_items_over_http_are_those_of_the_folder(data_dir, server, changes):
    assert_same_items(open_dataset(data_dir, **changes), open_dataset(server.url, **changes))


def test_a_list_of_examples_is_read_beside_the_data_or_from_a_url(data_dir, server):
    (data_dir / "examples").mkdir()
    (data_dir / "examples/contact_examples.txt").write_text("sit#PROX#00002\n")
    (data_dir / "mine.txt").write_text("stand#HUMANISE#1\n")
    named = {"name": "ContactMapExampleDataset"}
    assert_same_items(open_dataset(data_dir, **named), open_dataset(server.url, **named))
    listed = open_dataset(server.url, examples=f"{server.url}/mine.txt", **named)
    assert [sample.text for sample in listed.samples()] == ["stand"]


def test_which_features_an_item_has_is_asked_for_all_items_at_once(data_dir, server):
    folder = data_dir / "PROX/contact_motion/affordance"
    folder.mkdir()
    for index in (0, 1, 3):
        np.save(folder / f"{index:05}.npy", np.full((16, 1), index, np.float32))
    changes = {"sets": ["PROX"], "use_openscene": True, "use_color": False, "point_feat_dim": 1}
    there = open_dataset(server.url, **changes)
    assert_same_items(open_dataset(data_dir, **changes), there)
    assert server.asked("HEAD", "affordance") == 3


def test_statistics_over_http_are_those_of_the_folder(data_dir, server):
    a, b = (open_dataset(place) for place in (data_dir, server.url))
    x, y = (compute_statistics(each, FileReader(each.data_dir)) for each in (a, b))
    assert x.numbers() == y.numbers()


def test_motions_on_a_server_are_read_once_and_again_after_an_edit(data_dir, server):
    facts = data_dir / "facts.json"
    first = open_dataset(server.url, facts, **H3D)
    samples = first.samples()
    assert server.asked("GET", "new_joint_vecs") == 4
    facts.write_bytes(seal_motions(first.motions))
    assert open_dataset(server.url, facts, **H3D).samples() == samples
    assert server.asked("GET", "new_joint_vecs") == 4
    np.save(data_dir / "H3D/new_joint_vecs/a.npy", np.zeros((30, 263), np.float32))
    fewer = open_dataset(server.url, facts, **H3D).samples()
    assert server.asked("GET", "new_joint_vecs") == 5
    assert {s.index for s in samples} - {s.index for s in fewer} == {"a"}


@pytest.mark.parametrize("part", ["new_joint_vecs", "texts"])
def test_a_clip_that_cannot_be_reached_is_not_left_out(server, part):
    server.trouble = lambda method, path, before: 503 if f"H3D/{part}/b" in path else None
    with pytest.raises(Unreachable, match=f"H3D/{part}/b"):
        open_dataset(server.url, **H3D).samples()


def test_statistics_of_a_split_that_cannot_be_reached_are_an_error(server):
    dataset = open_dataset(server.url)
    dataset.config = replace(dataset.config, on_bad_item="skip")
    server.trouble = lambda method, path, before: (
        503 if "PROX/contact_motion/contacts" in path else None
    )
    with pytest.raises(Unreachable):
        compute_statistics(dataset, FileReader(dataset.data_dir))
