"""The PyTorch dataset: the numbers of the exported files, in any worker and any order."""

import contextlib
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from archives import LAYOUT, SIGMA, SKIPPED_ROW, make_run, quiet, whole_arrays
from torch.utils.data import DataLoader

from cdm.archive import ContactMaps
from cdm.archive.export import export_pred_contact
from cdm.archive.torch_dataset import ContactMapsDataset
from cdm.contact import contact_from_distance
from cdm.datasets.base import gravity_rotation
from cdm.errors import ArchiveError
from cdm.run.merge import merge

ROWS = [row for row in range(7) if row != SKIPPED_ROW]
ARCHIVE = Path("outputs/run/contact_maps.zarr")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A merged run of two maps of each sample, as float16; sample 4 was skipped."""
    folder = tmp_path_factory.mktemp("merged")
    with contextlib.chdir(folder):
        merge(make_run(replace(LAYOUT, dtype="float16")), quiet)
    return folder / ARCHIVE


def test_entries_are_what_stage_2_reads_from_the_exported_files(archive, tmp_path):
    export_pred_contact(archive, tmp_path, tmp_path / "record.json", quiet)
    dataset = ContactMapsDataset(archive, k="all")
    assert len(dataset) == 6 and dataset.keys[4] == ("HUMANISE", "5", 0)
    points = whole_arrays(replace(LAYOUT, dtype="float16"))["points"]
    for number, row in enumerate(ROWS):
        entry = dataset[number]
        assert set(entry) == {"key", "text", "points", "distance"}
        assert entry["key"] == f"HUMANISE/{row}/0" and entry["text"] == f"sít {row}"
        file = np.load(tmp_path / f"HUMANISE/pred_contact/{row:05}.npy")
        np.testing.assert_array_equal(entry["distance"], file)
        np.testing.assert_array_equal(entry["points"], points[row].astype(np.float32))
        assert entry["distance"].dtype == entry["points"].dtype == torch.float32


@pytest.mark.parametrize("sigma", [None, 0.5])
def test_contact_is_that_of_the_distances_with_the_sigma_of_either_stage(archive, sigma):
    distance = ContactMapsDataset(archive, k=1)
    contact = ContactMapsDataset(archive, values="contact", k=1, sigma=sigma)
    for number in range(len(distance)):
        expected = contact_from_distance(
            distance[number]["distance"].numpy(), False, SIGMA if sigma is None else sigma
        )
        found = contact[number]["contact"]
        assert found.shape == (16, 2)
        np.testing.assert_allclose(found, expected, rtol=3e-6)  # exp of -13.8


def test_a_map_is_chosen_by_number_or_drawn_for_each_epoch(archive):
    maps = ContactMaps(archive)
    first, second = (ContactMapsDataset(maps, k=k) for k in (0, 1))
    for number, row in enumerate(ROWS):
        both = maps.read("distance", row).astype(np.float32)
        np.testing.assert_array_equal(first[number]["distance"], both[0])
        np.testing.assert_array_equal(second[number]["distance"], both[1])

    def drawn(dataset, order=range(6)):
        taken = {}
        for number in order:
            found = dataset[number]["distance"]
            taken[number] = int(torch.equal(found, second[number]["distance"]))
            assert torch.equal(found, (first, second)[taken[number]][number]["distance"])
        return [taken[number] for number in range(6)]

    dataset, epochs = ContactMapsDataset(maps, k="random", seed=3), []
    for epoch in range(8):
        dataset.set_epoch(epoch)
        epochs.append(drawn(dataset))
    assert 10 < np.sum(epochs) < 38 and len({*map(tuple, epochs)}) > 4
    dataset.set_epoch(2)
    assert drawn(dataset, reversed(range(6))) == epochs[2]
    other = ContactMapsDataset(archive, k="random", seed=4)
    assert drawn(other) != epochs[0]


def test_random_rotations_are_undone_on_request(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arrays = whole_arrays()
    there = arrays["points"].copy()
    for row in ROWS:
        turned = gravity_rotation(row, 2).astype(np.float32)
        arrays["aug_trans"][row] = turned
        arrays["points"][row] = there[row] @ turned[:3, :3].T
    merge(make_run(arrays=arrays), quiet)
    as_seen, undone = (ContactMapsDataset(ARCHIVE, rotated=rotated) for rotated in (True, False))
    for number, row in enumerate(ROWS):
        np.testing.assert_array_equal(as_seen[number]["points"], arrays["points"][row])
        np.testing.assert_allclose(undone[number]["points"], there[row], atol=1e-6)


def only_key(entry):
    return entry["key"]


def test_entries_are_transformed_and_points_left_out(archive):
    assert "points" not in ContactMapsDataset(archive, points=False)[0]
    dataset = ContactMapsDataset(archive, transform=only_key)
    assert pickle.loads(pickle.dumps(dataset))[5] == "HUMANISE/6/0"


WORKERS = [(0, None), (2, "fork"), pytest.param(2, "spawn", marks=pytest.mark.long)]


@pytest.mark.parametrize(("num_workers", "method"), WORKERS)
def test_workers_give_the_same_batches_and_see_the_epoch(archive, num_workers, method):
    dataset = ContactMapsDataset(archive, k="random")
    dataset[0]  # a shard is open before the workers start
    loader = DataLoader(
        dataset,
        batch_size=4,
        num_workers=num_workers,
        multiprocessing_context=method,
        persistent_workers=num_workers > 0,
    )
    for epoch in (0, 1, 2):
        dataset.set_epoch(epoch)
        batches = list(loader)
        expected = [dataset[number] for number in range(6)]
        assert [len(batch["key"]) for batch in batches] == [4, 2]
        assert [key for batch in batches for key in batch["key"]] == [e["key"] for e in expected]
        assert [text for batch in batches for text in batch["text"]][5] == "sít 6"
        for name in ("points", "distance"):
            found = torch.cat([batch[name] for batch in batches])
            assert torch.equal(found, torch.stack([each[name] for each in expected]))


def test_a_damaged_map_stops_the_loader_with_the_name_of_its_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    merge(make_run(), quiet)
    shard = ARCHIVE / "distance/c.1.0.0.0"
    os.chmod(shard, 0o644)
    content = shard.read_bytes()
    shard.write_bytes(content[:9] + bytes([content[9] ^ 1]) + content[10:])
    loader = DataLoader(ContactMapsDataset(ARCHIVE), num_workers=1)
    with pytest.raises(ArchiveError, match=r"distance/c.1.0.0.0: corrupt \(row 3 does not"):
        list(loader)


def test_entries_of_half_precision_are_the_archives_own_numbers(archive):
    halves = ContactMapsDataset(archive, dtype=torch.float16)
    for half, single in zip(halves, ContactMapsDataset(archive), strict=True):
        for name in ("points", "distance"):
            assert half[name].dtype == torch.float16 and torch.equal(
                half[name].float(), single[name]
            )
    contact = ContactMapsDataset(archive, values="contact", dtype=torch.float16)[0]["contact"]
    expected = ContactMapsDataset(archive, values="contact")[0]["contact"]
    assert contact.dtype == torch.float16
    np.testing.assert_allclose(contact, expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("k", [2, -1, "one", 0.0, True])
def test_a_map_that_is_not_there_is_refused(archive, k):
    with pytest.raises(ArchiveError, match=r"has 2 map\(s\) of each sample, so expected 0 to 1"):
        ContactMapsDataset(archive, k=k)
    with pytest.raises(ArchiveError, match="values is 'sample', expected one of distance, contact"):
        ContactMapsDataset(archive, values="sample")


@pytest.mark.parametrize("sigma", [0, -0.8, float("nan"), float("inf")])
def test_a_sigma_that_makes_no_contact_is_refused(archive, sigma):
    with pytest.raises(ArchiveError, match=r"^sigma is .*, expected metres above 0"):
        ContactMapsDataset(archive, values="contact", sigma=sigma)


def test_distances_are_not_cut_to_whole_metres(archive):
    with pytest.raises(
        ArchiveError, match=r"^dtype is torch\.int32, expected a floating-point type"
    ):
        ContactMapsDataset(archive, dtype=torch.int32)
