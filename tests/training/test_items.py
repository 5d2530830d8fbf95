"""The items of a training: read once, shown in epochs, turned and captioned anew."""

import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import NUM_POINTS, run_config, write_contacts, write_dataset, write_split
from trainings import tiny
from web_server import serve

from cdm.datasets import FileReader, make_dataset
from cdm.datasets.base import gravity_rotation
from cdm.datasets.statistics import load_statistics
from cdm.demo.scenes import DemoDataset
from cdm.errors import BadItem, CheckpointError, DataError, Unreachable
from cdm.files import remote
from cdm.training.items import TrainingItems, epoch_order, read_training_items, rotate_about
from cdm.training.record import changed_since_finished
from cdm.training.train import train
from cdm.training.trainer import Trainer

CONTACTS = "data/HUMANISE/contact_motion/contacts"


def test_every_epoch_shows_every_item_once():
    order = epoch_order(7, seed=1, start=0, count=21)
    assert all(sorted(order[i : i + 7]) == list(range(7)) for i in (0, 7, 14))
    assert list(order[5:12]) == list(epoch_order(7, seed=1, start=5, count=7))


def test_batches_turn_items_and_pick_captions():
    points = torch.randn(2, 4, 3)
    items = TrainingItems(points, None, torch.zeros(2, 4, 1), [["a", "b"], ["c"]])
    items.gravity_dim = 2
    items.encode(lambda texts: torch.eye(len(texts)), "cpu")
    batches = [items.batch(step, 2, seed=3) for step in range(20)]
    assert {tuple(row) for b in batches for row in b.c_text.tolist()} == {
        (1, 0, 0), (0, 1, 0), (0, 0, 1)
    }  # fmt: skip
    for batch in batches:
        torch.testing.assert_close(batch.c_pc_xyz[..., 2].sum(), points[..., 2].sum())
    angle = torch.tensor([0.3, -2.0], dtype=torch.float64)
    for dim in range(3):
        turned = rotate_about(points, angle, dim)
        for i in range(2):
            expected = points[i].double() @ torch.from_numpy(
                gravity_rotation(float(angle[i]), dim)[:3, :3].T
            )
            torch.testing.assert_close(turned[i].double(), expected, rtol=1e-6, atol=1e-6)


def test_the_demos_rooms_are_read_with_as_many_points_as_asked_for(few_items):
    config = replace(tiny().dataset, phase="train", num_points=700)
    items = read_training_items(DemoDataset(config, "", 3, 0), 3, 0, print)
    assert items.xyz.shape == (6, 700, 3) and items.contact.shape == (6, 700, 6)


def test_examples_are_not_trained_on(tmp_path):
    (tmp_path / "list.txt").write_text("sit#PROX#0\n")
    (tmp_path / "PROX/contact_motion").mkdir(parents=True)
    header = "scene_id,scene_trans_x,scene_trans_y,scene_trans_z,utterance\n"
    (tmp_path / "PROX/contact_motion/anno.csv").write_text(f"{header}room,0,0,0,walk\n")
    name, examples = "ContactMapExampleDataset", str(tmp_path / "list.txt")
    config = replace(tiny().dataset, name=name, examples=examples)
    with pytest.raises(DataError, match=f"{name} has no splits to train on"):
        read_training_items(make_dataset(config, data_dir=tmp_path), 0, 0, print)


def test_bad_items_are_left_out_or_end_the_training(few_items, monkeypatch):
    def damaged(self, sample, reader: FileReader, whole=DemoDataset.read_item):
        item = whole(self, sample, reader)
        return item if sample.index != SECOND else replace(item, c_pc_feat=item.c_pc_feat[:, :1])

    config = replace(tiny().dataset, phase="train", captions="all")
    samples = DemoDataset(config, "", 3, 0).samples()
    SECOND = list(dict.fromkeys(s.index for s in samples))[1]
    monkeypatch.setattr(DemoDataset, "read_item", damaged)
    with pytest.raises(DataError, match="has 1 point features, expected 3"):
        read_training_items(DemoDataset(config, "", 3, 0), 3, 0, print)
    lines = []
    skipping = replace(config, on_bad_item="skip")
    items = read_training_items(DemoDataset(skipping, "", 3, 0), 3, 0, lines.append)
    assert len(lines) == 1 and len(items) == len(items.captions) == len(items.contact)

    # None that can be used.
    def lost(self, sample, reader):
        raise BadItem(f"{sample}: lost")

    monkeypatch.setattr(DemoDataset, "read_item", lost)
    with pytest.raises(DataError, match=r"none of the \d+ items of phase train can .*Restore them"):
        read_training_items(DemoDataset(skipping, "", 3, 0), 3, 0, lines.append)


def test_items_on_a_server_are_read_by_workers_and_never_left_out_for_its_failures(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.001)
    write_dataset(tmp_path, 3, NUM_POINTS)
    with serve(tmp_path) as server:
        changes = {"data_dir": server.url, "captions": "all", "on_bad_item": "skip"}
        dataset = make_dataset(run_config(dataset=changes).dataset)
        assert len(read_training_items(dataset, 0, 1, print)) == 3
        server.trouble = lambda method, path, before: 503 if "00001.npz" in path else None
        with pytest.raises(Unreachable, match=r"00001\.npz: cannot be read after 5 attempts"):
            read_training_items(dataset, 0, 1, print)


@pytest.fixture
def impatient(few_items, monkeypatch):
    """torch waits 5 s for its workers to end."""
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "items ended .*out of memory: give fewer"),
        (lambda: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_worker_that_ends_is_told(impatient, monkeypatch, ends, message):
    """Killed for memory, as a container's limit does. Other errors keep their type."""
    config = replace(tiny().dataset, phase="train", captions="all")
    monkeypatch.setattr(DemoDataset, "read_item", lambda self, sample, reader: ends())
    expected = DataError if "memory" in message else Exception
    with pytest.raises(expected, match=message):
        read_training_items(DemoDataset(config, "", 3, 0), 3, 1, print)


def test_what_is_not_wrong_with_an_item_keeps_its_words(impatient, monkeypatch):
    config = replace(tiny().dataset, phase="train", captions="all", on_bad_item="skip")

    def wrong(self, sample, reader):
        raise DataError("anno.csv: another table")

    monkeypatch.setattr(DemoDataset, "read_item", wrong)
    with pytest.raises(DataError) as error:
        read_training_items(DemoDataset(config, "", 3, 0), 3, 1, print)
    assert str(error.value) == "anno.csv: another table"


# --- items that are others when a training goes on ---


@pytest.fixture
def on_disk(tmp_path, monkeypatch):
    """on_disk(**training): a configuration that trains on a data folder of six items."""
    monkeypatch.chdir(tmp_path)
    write_dataset(Path("data"), 6, NUM_POINTS)
    next(Path("data").glob("Mean_Std_*.npz")).unlink()
    scene_model = {"use_scene_model": False, "use_openscene": False, "point_feat_dim": None}
    dataset = {"data_dir": "data", "num_points": NUM_POINTS, "sets": ["HUMANISE"]}
    changes = {"dataset": dataset, "model": {"scene_model": scene_model}}
    return lambda **training: tiny(changes, **training)


def test_statistics_of_a_training_that_took_no_step_are_made_anew(on_disk, monkeypatch):
    """Its items may have been wrong, which is why it was stopped."""
    with monkeypatch.context() as patch, pytest.raises(KeyError):
        patch.setattr(Trainer, "train_step", lambda self, batch: {}["stopped"])
        train(on_disk(), lambda line: None)
    written = next(Path("outputs/mine").glob("Mean_Std_*.npz"))
    before = load_statistics(written, 6).mean
    near = np.full((NUM_POINTS, 22), 0.1, np.float32)
    near[::2] = 0.5
    for index in range(6):
        write_contacts(Path(f"{CONTACTS}/{index:05}.npz"), NUM_POINTS, index, dist=near)
    train(on_disk(), lambda line: None)
    expected = (np.exp(-(0.1**2) / 1.28) + np.exp(-(0.5**2) / 1.28)) / 2
    assert abs(before - expected).min() > 0.2
    np.testing.assert_allclose(load_statistics(written, 6).mean, expected, atol=1e-6)


@pytest.mark.parametrize("what", ["an item less", "an edited item", "an edited caption"])
def test_a_training_does_not_go_on_with_other_items(on_disk, what):
    train(on_disk(steps=2), lambda line: None)
    train(on_disk(steps=3), lambda line: None)  # the same items
    table = Path("data/HUMANISE/contact_motion/anno.csv")
    if what == "an item less":
        write_split(Path("data"), range(5))
    elif what == "an edited item":
        write_contacts(Path(f"{CONTACTS}/00003.npz"), NUM_POINTS, 99)
    else:
        table.write_text(table.read_text().replace("chair 3", "stool 3"))
    with pytest.raises(CheckpointError) as error:
        train(on_disk(), lambda line: None)
    now = 5 if what == "an item less" else 6
    assert re.search(
        rf'items of phase train: "6 of content \w+" there, "{now} of content \w+" configured',
        str(error.value),
    )
    assert "give a new exp_name with training.init_from: outputs/mine, which" in str(error.value)


def test_a_finished_training_tells_that_its_split_lists_other_items_now(on_disk):
    """It is not begun again by itself, so Snakemake alone would say that nothing is to be done."""
    config = on_disk(steps=1)
    assert changed_since_finished(config) is None  # not trained yet
    train(config, lambda line: None)
    assert changed_since_finished(config) is None
    write_split(Path("data"), range(5))
    assert "outputs/mine/training: this training is finished" in changed_since_finished(config)
    assert "with training.init_from: outputs/mine" in changed_since_finished(config)
    write_split(Path("data"), range(6))
    table = Path("data/HUMANISE/contact_motion/anno.csv")
    text = table.read_text()
    table.write_text(text.replace("chair 3", "stool 3"))
    assert changed_since_finished(config)
    table.unlink()
    assert changed_since_finished(config) is None  # the data is away, and not needed
    table.write_text(text)
    assert changed_since_finished(config) is None
