"""Statistics: those of the reference, exact for any number of rows, never half written."""

import numpy as np
import pytest
from example_datasets import make, parity_cases, parity_dataset

from cdm.datasets import FileReader
from cdm.datasets.statistics import (
    Moments,
    Statistics,
    compute_statistics,
    find_statistics,
    load_statistics,
    save_statistics,
)
from cdm.errors import BadItem, DataError


def test_computed_statistics_match_afford_motion(parity, parity_index):
    case, compared = parity / "10_dataset", 0
    for name, entry in parity_cases(parity_index).items():
        if entry["meta"]["stats_computed_from"] == "already present":
            continue
        phase = entry["meta"]["phase"]  # afford-motion takes the sampled split, for H3D all
        phase = {"statistics_phase": None if "HumanML3DD" in entry["meta"]["dataset"] else phase}
        dataset = parity_dataset(entry, case / "tree/data", **phase)
        statistics = compute_statistics(dataset, FileReader(dataset.data_dir))
        expected = np.load(case / name)
        # what the reference's own float32 sum over this many rows may be off by
        num_rows = len(dataset.statistics_samples()) * dataset.config.num_points
        rounding = num_rows**0.5 * 2.0**-24
        recorded = load_statistics(
            case
            / name.replace("expected/", "expected/stats/").removesuffix(".npz")
            / dataset.statistics_name(),
            dataset.config.contact_dim,
        )
        for key in ("mean", "std"):
            computed = getattr(statistics, key)
            assert computed.dtype == np.float32
            for reference in (expected[key], getattr(recorded, key)):
                error = np.abs(computed - reference)
                assert (error < 1e-6 + rounding * reference).all(), (name, key, error.max())
        compared += 1
    assert compared


def test_moments_do_not_drift_over_many_rows():
    constant, total = Moments.of(np.full((600_000, 1), 0.3, np.float32)), Moments()
    rows = np.random.default_rng(0).uniform(size=(600_000, 2)).astype(np.float32)
    block, varied = Moments.of(rows), Moments()
    for _ in range(100):  # 6e7 rows
        total.add(*constant)
        varied.add(*block)
    assert total.count == 60_000_000
    assert abs(total.mean[0] - np.float32(0.3)) < 1e-12 and total.std[0] < 1e-7
    assert np.allclose(varied.mean, rows.mean(0, np.float64), rtol=1e-12)
    assert np.allclose(varied.std, rows.std(0, np.float64), rtol=1e-12)


def test_moments_of_parts_are_moments_of_the_whole():
    rows = np.random.default_rng(1).normal(5, 0.01, (1001, 3))
    total = Moments()
    for part in np.array_split(rows, 7):
        total.add(*Moments.of(part))
    assert np.allclose(total.mean, rows.mean(0), rtol=1e-13)
    assert np.allclose(total.std, rows.std(0), rtol=1e-10)


def test_each_item_counts_once_whatever_the_captions(data_dir):
    computed = [
        compute_statistics(make(data_dir, captions=captions), FileReader(data_dir))
        for captions in ("all", "first", "random")
    ]
    assert all(np.array_equal(computed[0].mean, other.mean) for other in computed)
    assert computed[0].source.endswith("computed from 3 items")


def test_bad_item_stops_or_is_left_out(data_dir):
    np.savez(data_dir / "PROX/contact_motion/contacts/00001.npz", dist=np.zeros((3, 22)))
    with pytest.raises(BadItem, match=r"00001.npz: 'dist' is \(3, 22\)"):
        compute_statistics(make(data_dir), FileReader(data_dir))
    dataset = make(data_dir, on_bad_item="skip")
    assert "from 2 items" in compute_statistics(dataset, FileReader(data_dir)).source


def test_saved_statistics_come_back(tmp_path):
    statistics = Statistics(np.full((1, 6), 0.25, np.float32), np.ones((1, 6), np.float32), "test")
    path = tmp_path / "new/Mean_Std.npz"
    save_statistics(path, statistics)
    loaded = load_statistics(path, 6)
    assert np.array_equal(loaded.mean, statistics.mean)
    assert np.array_equal(loaded.std, statistics.std)
    assert loaded.source == str(path)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_bad_statistics_are_explained(tmp_path):
    path = tmp_path / "Mean_Std.npz"
    ones, zeros = np.ones((1, 6), np.float32), np.zeros((1, 6), np.float32)
    with pytest.raises(DataError, match=r"Mean_Std.npz: no such file; correct dataset.statistics"):
        load_statistics(path, 6)
    for arrays, text in (
        ({"mean": ones}, "std not in the file, found mean"),
        ({"mean": ones, "std": ones[:, :1]}, r"'std' is float32 \(1, 1\), expected float \(1, 6\)"),
        ({"mean": zeros, "std": zeros}, "positive std"),
        ({"mean": zeros / np.float32("nan"), "std": ones}, "expected finite numbers"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(DataError, match=text):
            load_statistics(path, 6)
    path.write_bytes(b"PK")
    with pytest.raises(DataError, match=r"not a readable .npz"):
        load_statistics(path, 6)


def test_configured_file_comes_first_and_custom_needs_one(data_dir):
    dataset = make(data_dir)
    assert find_statistics(dataset) is None
    ones = Statistics(np.ones((1, 6), np.float32), np.ones((1, 6), np.float32), "")
    save_statistics(data_dir / dataset.statistics_name(), ones)
    assert find_statistics(dataset).source.endswith(dataset.statistics_name())
    save_statistics(data_dir / "mine.npz", ones)
    chosen = make(data_dir, statistics=str(data_dir / "mine.npz"))
    assert find_statistics(chosen).source.endswith("mine.npz")
    custom = make(data_dir, name="ContactMapCustomDataset", sets=("HUMANISE",))
    with pytest.raises(DataError) as error:
        find_statistics(custom)
    assert "Mean_Std_Cont_HUMANISE_contact_cont_joints_0.8.npz: no such file" in str(error.value)
    assert f"holds {dataset.statistics_name()}" in str(error.value)
    assert "statistics: path/to" in str(error.value)
