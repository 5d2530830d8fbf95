"""Statistics: the model's, exact for any number of rows, never half written."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from example_datasets import dataset_config, make, make_h3d, parity_cases, parity_dataset

from cdm.datasets import FileReader
from cdm.datasets.statistics import (
    Moments,
    Statistics,
    checked_statistics,
    compute_statistics,
    computed_statistics_path,
    find_statistics,
    load_statistics,
    name_contradictions,
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
        # afford-motion's float32 sum over this many rows may be off by so much
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
            for recorded_there in (expected[key], getattr(recorded, key)):
                error = np.abs(computed - recorded_there)
                assert (error < 1e-6 + rounding * recorded_there).all(), (name, key, error.max())
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
    source = compute_statistics(dataset, FileReader(data_dir)).source
    assert source.endswith("computed from 2 items (1 left out)")


def test_where_all_items_are_bad_the_message_says_why(data_dir):
    for path in (data_dir / "PROX/contact_motion/contacts").iterdir():
        path.write_bytes(b"cut off")
    with pytest.raises(DataError, match=r"(?s)none of 3 items .*00000.npz: .*dataset.statistics"):
        compute_statistics(make(data_dir, on_bad_item="skip"), FileReader(data_dir))


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
    huge, tiny = np.full((1, 6), 1e300), np.full((1, 6), 1e-300)
    for arrays, text in (
        ({"mean": ones}, "'std' not in the file, found mean"),
        ({"mean": ones, "std": ones[:, :1]}, r"'std' is \(1, 1\), expected \(1, 6\)"),
        ({"mean": zeros, "std": zeros}, "positive std"),
        ({"mean": zeros, "std": -ones}, "positive std"),
        ({"mean": zeros, "std": tiny}, "positive std"),  # 0 in float32
        ({"mean": zeros, "std": huge}, "holds 6 NaN or infinite"),
        ({"mean": zeros / np.float32("nan"), "std": ones}, "holds 6 NaN or infinite"),
        ({"mean": zeros, "std": np.full((1, 6), None)}, "of type object, expected numbers"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(DataError, match=text) as error:
            load_statistics(path, 6)
        assert "on_bad_item" not in str(error.value)
    for content in (b"PK", b"", b"\x93NUMPY"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"Mean_Std.npz: .*restore the file"):
            load_statistics(path, 6)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match=r"cannot be read \(not a file\); restore the file"):
        load_statistics(path, 6)


@pytest.mark.parametrize("std", [1e-46, 1e-40, 1e39, 0.0, -1.0, np.nan])
def test_what_float32_makes_of_the_std_must_be_usable(std):
    with pytest.raises(DataError, match=r"test: mean is .*positive std"):
        checked_statistics(np.zeros((1, 1)), np.full((1, 1), std), "test", 1)


def test_statistics_are_those_of_train_whatever_is_sampled(data_dir):
    reader = FileReader(data_dir)
    train = compute_statistics(make(data_dir, phase="train"), reader)
    sampled_all = compute_statistics(make(data_dir, phase="all"), reader)
    trained_on_all = compute_statistics(
        make(data_dir, phase="train", statistics_phase="all"), reader
    )
    assert np.array_equal(train.mean, sampled_all.mean)
    assert np.array_equal(train.std, sampled_all.std)
    assert trained_on_all.source.endswith("computed from 6 items")
    assert not np.array_equal(train.mean, trained_on_all.mean)


def test_statistics_of_h3d_are_those_of_all_clips(data_dir):
    (data_dir / "H3D/train.txt").write_text("a\n")
    train = make_h3d(data_dir, phase="train")
    assert {s.index for s in train.statistics_samples()} == {"a", "b", "c", "d"}
    chosen = make_h3d(data_dir, phase="all", statistics_phase="train")
    assert {s.index for s in chosen.statistics_samples()} == {"a"}


def test_without_the_training_split_the_message_says_what_to_set(data_dir):
    (data_dir / "PROX/train.txt").unlink()
    with pytest.raises(DataError) as error:
        make(data_dir, phase="all").statistics_samples()
    assert "PROX/train.txt: no such file" in str(error.value)
    assert "dataset.statistics_phase" in str(error.value)


def kept_at(dataset, run_dir="outputs/x"):
    """Where a run keeps the statistics that it computes for a dataset."""
    return computed_statistics_path(dataset, dataset.statistics_samples(), run_dir)


def test_computed_statistics_are_kept_by_folder_split_and_joints(data_dir, tmp_path_factory):
    def path(folder=data_dir, **options):
        return kept_at(make(folder, **options))

    first = path()
    assert first == path(phase="all") == path(captions="all")
    assert first.startswith("outputs/x/statistics/") and first.endswith(".npz")
    other = tmp_path_factory.mktemp("copy") / "data"
    shutil.copytree(data_dir, other)
    others = [
        path(other),
        path(statistics_phase="all"),
        path(data_repr_joints=(0, 1)),
        path(sets=("HUMANISE",)),
    ]
    (data_dir / "PROX/train.txt").write_text("000003\n000000\n")
    assert len({first, path(), *others}) == 6


@pytest.mark.parametrize("linked", [".", "PROX", "PROX/contact_motion", "H3D/contacts"])
def test_a_link_that_leads_to_other_data_has_other_statistics(data_dir, tmp_path_factory, linked):
    """The data folder itself is a link, or a folder in it."""
    places = tmp_path_factory.mktemp("places")
    shutil.copytree(data_dir, places / "other")
    shutil.copytree(data_dir, places / "data")
    shutil.rmtree(places / "data" / linked)
    link = Path(os.path.normpath(places / "data" / linked))

    def path_with(target):
        link.unlink(missing_ok=True)
        link.symlink_to(target / linked)
        folder = places / "data"
        return kept_at(make_h3d(folder) if "H3D" in linked else make(folder))

    first = path_with(data_dir)
    assert path_with(places / "other") != first
    assert path_with(data_dir) == first


def test_a_relative_data_folder_is_another_one_in_another_working_folder(
    data_dir, tmp_path_factory, monkeypatch
):
    """Unless the run's folder is relative too: a project that moves keeps its statistics."""
    places = tmp_path_factory.mktemp("places")

    def path(place, run_dir):
        monkeypatch.chdir(places / place)
        return kept_at(make("data"), run_dir)

    for place in ("a", "b"):
        shutil.copytree(data_dir, places / place / "data")
    assert path("a", "outputs/x") == path("b", "outputs/x")
    assert path("a", "/scratch/x") != path("b", "/scratch/x")


NAMES = "Mean_Std_{}_HumanML3D_HUMANISE_PROX_{}{}.npz"


@pytest.mark.parametrize(
    "name, options, said",
    [
        (NAMES.format("Cont", "contact_cont_joints", "_0.8"), {}, []),
        (NAMES.format("Cont", "contact_cont_joints", "_0.8_fur"), {}, []),
        (NAMES.format("Cont", "contact_cont_joints", "_0.80"), {}, []),
        (NAMES.format("Dist", "contact_cont_joints", ""), {"use_raw_dist": True}, []),
        ("mine.npz", {}, []),
        (NAMES.format("Cont", "contact_cont_joints", "_0.5"), {}, ["sigma 0.5"]),
        (NAMES.format("Cont", "contact_all_joints", "_0.8"), {}, ["data_repr contact_all_joints"]),
        (NAMES.format("Dist", "contact_cont_joints", ""), {}, ["kind Dist", "sigma None"]),
        (NAMES.format("Cont", "contact_pelvis", "_0.5_fur"), {}, ["data_repr", "sigma 0.5"]),
        ("Mean_Std_Cont_OriH3D_contact_cont_joints_0.5.npz", {"sigma": 0.5}, []),
    ],
)
def test_a_name_that_contradicts_the_configuration_is_told(name, options, said):
    lines = name_contradictions(f"data/{name}", dataset_config(**options))
    assert len(lines) == len(said)
    for line, text in zip(lines, said, strict=True):
        assert f"data/{name}: its name says {text}" in line


def test_a_second_download_is_told_too_and_a_name_of_another_form_ends_nothing():
    stem = "Mean_Std_Cont_HUMANISE_contact_cont_joints"
    config = dataset_config()
    assert "sigma 0.5" in name_contradictions(f"{stem}_0.5 (1).npz", config)[0]
    assert name_contradictions(f"{stem}_0.8(2).npz", config) == []
    for other in ("0.5.1", ".", "e", "0.8-old"):
        assert name_contradictions(f"{stem}_{other}.npz", config) == []


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


def test_statistics_are_those_of_the_sets_the_model_was_trained_on(data_dir):
    """Whichever of them are sampled: the name of the file, and the items they are computed from."""
    sets = {"sets": ("PROX",), "statistics_sets": ("HUMANISE", "PROX")}
    dataset = make(data_dir, **sets)
    assert dataset.statistics_name().startswith("Mean_Std_Cont_HUMANISE_PROX_")
    assert {sample.set for sample in dataset.statistics_samples()} == {"HUMANISE", "PROX"}
    assert {sample.set for sample in dataset.samples()} == {"PROX"}
    assert dataset.statistics_origin() == "computed from train of HUMANISE PROX"
    same = make(data_dir, sets=("PROX",), statistics_sets=("PROX",))
    assert same.statistics_origin() == "computed"


def test_statistics_without_an_item_are_not_used_once_it_can_be_read(data_dir, tmp_path):
    """Nor do they come back before the same items are bad again."""
    run_dir, dataset = str(tmp_path / "run"), make(data_dir, on_bad_item="skip")
    items = [data_dir / f"PROX/contact_motion/contacts/{index:05}.npz" for index in (0, 1)]
    whole = [item.read_bytes() for item in items]

    def run():
        path = Path(kept_at(dataset, run_dir))
        if not path.exists():
            save_statistics(path, compute_statistics(dataset, FileReader(data_dir)))
        assert kept_at(dataset, run_dir) == str(path)
        return path, np.load(path)["mean"][0, 0]

    items[0].write_bytes(b"cut off")
    items[1].unlink()
    without_both = run()
    items[1].write_bytes(whole[1])
    without_one = run()
    items[0].write_bytes(whole[0])
    of_all = run()
    assert of_all[1] == compute_statistics(dataset, FileReader(data_dir)).mean[0, 0]
    assert len({path for path, _ in (without_both, without_one, of_all)}) == 3
    items[0].write_bytes(b"cut off")
    assert run() == without_one


BESIDE = "Mean_Std_Cont_HumanML3D_PROX_contact_cont_joints_0.8_fur.npz"


@pytest.mark.parametrize(
    "sampled",
    [
        {"sets": ("PROX",)},
        {"sets": ("PROX", "HumanML3D")},
        {"sets": ("HumanML3D", "PROX"), "sets_config": {"HumanML3D": {"use_fur": False}}},
        {"name": "ContactHumanML3DDataset"},
        {"name": "ContactMapCustomDataset"},
    ],
)
def test_the_file_beside_the_checkpoint_is_the_models_whatever_is_sampled(data_dir, sampled):
    beside, dataset = data_dir / "exp" / BESIDE, make(data_dir, **sampled)
    beside.parent.mkdir()
    for path, value in ((beside, 0.25), (data_dir / dataset.statistics_name(), 0.5)):
        np.savez(path, mean=np.full((1, 6), value), std=np.full((1, 6), value))
    found = find_statistics(dataset, beside.parent)
    assert found.source == str(beside) and found.mean[0, 0] == 0.25
    other = beside.with_name(beside.name.replace("0.8", "0.5"))  # of another model
    other.write_bytes(beside.read_bytes())
    assert find_statistics(dataset, beside.parent).source == str(beside)
    beside.unlink()
    assert find_statistics(dataset, beside.parent).mean[0, 0] == 0.5


def test_several_files_beside_the_checkpoint_are_told_apart_by_name_alone(data_dir):
    folder, dataset = data_dir / "exp", make(data_dir, sets=("PROX",))
    folder.mkdir()
    for name in (BESIDE, BESIDE.replace("PROX", "HUMANISE")):
        np.savez(folder / name, mean=np.full((1, 6), 0.25), std=np.full((1, 6), 0.25))
    with pytest.raises(DataError, match=r"exp: holds Mean.*_HUMANISE_.*, Mean.*_PROX_.*one file"):
        find_statistics(dataset, folder)
    usual = folder / dataset.statistics_name()
    np.savez(usual, mean=np.full((1, 6), 0.5), std=np.full((1, 6), 0.5))
    assert find_statistics(dataset, folder).source == str(usual)


@pytest.mark.parametrize("use_raw_dist", [False, True])
@pytest.mark.parametrize("mean, std", [(2.0, 0.3), (-0.1, 0.3), (0.2, 1.5)])
def test_statistics_that_no_contact_maps_have_are_refused(data_dir, mean, std, use_raw_dist):
    path = data_dir / "mine.npz"
    np.savez(path, mean=np.full((1, 6), mean), std=np.full((1, 6), std))
    dataset = make(data_dir, statistics=str(path), use_raw_dist=use_raw_dist)
    if use_raw_dist:  # distances in metres may have them
        assert find_statistics(dataset).mean[0, 0] == np.float32(mean)
        return
    with pytest.raises(DataError, match=r"mine.npz: mean goes from .* expected 0 to 1") as error:
        find_statistics(dataset)
    assert "dataset.use_raw_dist: true" in str(error.value)
