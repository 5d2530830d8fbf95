"""An archive explains itself to xarray, zarr and tensorstore, and tells nobody's folders."""

import contextlib
import json
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from archives import LAYOUT, SKIPPED_ROW, as_version_1, make_run, quiet, whole_arrays

from cdm.archive import ContactMaps
from cdm.archive.attributes import ARRAY_ATTRIBUTES, without_folders
from cdm.archive.checks import checksum_files
from cdm.archive.layout import AXES, COLUMNS, SHARDED
from cdm.archive.records import read_record, store_path
from cdm.files import seal
from cdm.run.merge import merge

SIX = replace(LAYOUT, contact_dim=6)
STATISTICS = {"mean": [[0.2] * 6], "std": [[0.4] * 6]}
JOINTS = ["pelvis", "left_foot", "right_foot", "neck", "left_wrist", "right_wrist"]
ARCHIVE = "outputs/run/contact_maps.zarr"


def six_joints():
    arrays = SIX.empty()
    for name, values in arrays.items():
        values[:] = np.random.default_rng(len(name)).normal(size=values.shape)
        values[SKIPPED_ROW] = np.nan
    return arrays


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """A folder with a merged run of the usual six joints."""
    folder = tmp_path_factory.mktemp("merged")
    with contextlib.chdir(folder):
        merge(make_run(SIX, six_joints()), quiet)
    return folder


@pytest.fixture
def opened(merged):
    xarray = pytest.importorskip("xarray", reason="pip install -e '.[test]'")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return xarray.open_zarr(merged / ARCHIVE)


def test_xarray_opens_an_archive_without_arguments_or_warnings(opened):
    assert opened["distance"].dims == ("index", "k_sample", "point", "joint")
    assert set(opened.data_vars) == set(SHARDED)
    assert set(opened.coords) == {*COLUMNS, *AXES}
    arrays = six_joints()
    for name in SHARDED:
        np.testing.assert_array_equal(opened[name].values, arrays[name])
    assert opened["joint"].values.tolist() == JOINTS and opened["xyz"].values.tolist() == list(
        "xyz"
    )
    assert opened["key"].values.tolist() == [f"HUMANISE/{row}/0" for row in range(7)]
    neck = opened["distance"].sel(index="3", joint="neck")
    np.testing.assert_array_equal(neck.values, arrays["distance"][3, ..., 3])


def test_every_array_has_a_meaning_and_every_number_a_unit(opened):
    for name, array in opened.variables.items():
        assert array.attrs["long_name"] and array.attrs["description"][-1] in "."
        assert array.attrs.get("units") == (None if array.dtype.kind in "OT" else ANY_UNIT[name])
    assert opened.attrs["title"] == "Contact maps of run"
    assert opened.attrs["archive_version"] == 2 and "Rows of skipped" in opened.attrs["description"]
    assert set(ARRAY_ATTRIBUTES) == set(opened.variables)


ANY_UNIT = {"distance": "m", "points": "m", "sample": "1", "caption_idx": "1"}
ANY_UNIT |= {"scene_trans": "1", "aug_trans": "1"}


def test_arithmetic_pairs_no_two_different_samples(opened, tmp_path, monkeypatch):
    import xarray

    assert opened.indexes["index"].is_unique
    halves = opened.isel(index=slice(0, 3)), opened.isel(index=slice(3, 7))
    assert (halves[0].distance - halves[1].distance).sizes["index"] == 0  # no row of one is other's

    # Another archive has some of the samples, in other rows.
    monkeypatch.chdir(tmp_path)
    order = [6, 5, 3, 2, SKIPPED_ROW, 1, 0]
    arrays = {name: values[order] for name, values in six_joints().items()}
    plan = make_run(SIX, arrays, first=50)
    for path in plan.chunk_records():
        content = asdict(read_record(Path(path)))
        for row in content["samples"]:
            row["index"] = str(order[int(row["index"])])
        Path(path).write_bytes(seal(content))
    merge(plan, quiet)
    other = xarray.open_zarr(ARCHIVE).isel(index=slice(1, None))
    difference = opened.swap_dims(index="key").sample - other.swap_dims(index="key").sample
    assert difference["key"].values.tolist() == [f"HUMANISE/{row}/0" for row in range(6)]
    rows = [row for row in range(6) if row != SKIPPED_ROW]
    assert not difference.isel(key=rows).values.any()


def test_zarr_opens_an_archive_without_a_warning(merged):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open(merged / ARCHIVE, mode="r")
        assert set(dict(group.arrays())) == {*SHARDED, *COLUMNS, *AXES}
        np.testing.assert_array_equal(group["points"][:], six_joints()["points"])
    # The copy in the group's metadata is what each array says itself.
    for name, array in zarr.open_group(merged / ARCHIVE, use_consolidated=False).arrays():
        assert str(array.metadata.to_dict()) == str(group[name].metadata.to_dict())


def test_tensorstore_reads_the_numbers(merged):
    tensorstore = pytest.importorskip("tensorstore", reason="pip install -e '.[test]'")
    for name in SHARDED:
        store = {"driver": "file", "path": f"{merged / ARCHIVE}/{name}/"}
        array = tensorstore.open({"driver": "zarr3", "kvstore": store}).result()
        np.testing.assert_array_equal(array.read().result(), six_joints()[name])
    assert array.domain.labels == ("index", "row", "column")


def test_columns_whose_joints_are_not_known_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    merge(make_run(), quiet)  # two columns, where the configuration has six joints
    assert ContactMaps(ARCHIVE).group["joint"][:].tolist() == ["joint 0", "joint 1"]


def test_chunks_of_the_version_before_are_merged_into_an_archive_of_this_one(tmp_path, monkeypatch):
    """As where a run began before an update: no attributes, and no word of who made them."""
    monkeypatch.chdir(tmp_path)
    plan = make_run(SIX, six_joints())
    for path in map(Path, plan.chunk_records()):
        store, content = store_path(path), asdict(read_record(path))
        content["provenance"].pop("workflow", None)
        for file in store.rglob("zarr.json"):
            file.chmod(0o644)
            metadata = json.loads(file.read_text())
            for attribute in ("units", "long_name", "description"):
                metadata["attributes"].pop(attribute, None)
            file.write_text(json.dumps(metadata))
        content["files"] = checksum_files(store)
        path.write_bytes(seal(content))
    merge(plan, quiet)
    maps, arrays = ContactMaps(ARCHIVE), six_joints()
    for name in SHARDED:
        for row in range(7):
            np.testing.assert_array_equal(maps.read(name, row), arrays[name][row])
    assert maps.attributes["archive_version"] == 2
    assert maps.attributes["workflow"]["made_chunks"] == []
    assert maps.group["distance"].attrs["units"] == "m"


def test_archives_of_version_1_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_run()
    merge(plan, quiet)
    as_version_1(Path(ARCHIVE))
    Path(plan.archive_record).unlink()
    maps = ContactMaps(ARCHIVE)
    assert maps.keys[3] == ("HUMANISE", "3", 0)
    np.testing.assert_array_equal(maps.distance("HUMANISE", 3), whole_arrays()["distance"][3])


HERE, HOME = Path("/scratch/ada/work"), Path("/home/ada")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/scratch/ada/work/outputs/CDM/ckpt/model1.pt", "outputs/CDM/ckpt/model1.pt"),
        ("/scratch/ada/work", "."),
        ("/home/ada/exps/CDM", "~/exps/CDM"),
        ("/home/ada", "~"),
        ("/home/bob/CDM/ckpt/model1.pt", ".../CDM/ckpt/model1.pt"),
        ("/home/bob/data", ".../data"),
        ("/data/sets/afford/v1/PROX", ".../afford/v1/PROX"),
        ("outputs/CDM", "outputs/CDM"),
        ("s3://bucket/home/ada/x", "s3://bucket/home/ada/x"),
        ("read from /home/ada/x.pt, dict 'ema'", "read from ~/x.pt, dict 'ema'"),
    ],
)
def test_paths_tell_neither_the_machine_nor_the_user(path, expected):
    value = {"a": [path, 3, None], "b": {"/home/ada/key": path}}
    found = without_folders(value, HERE, HOME)
    assert found == {"a": [expected, 3, None], "b": {"/home/ada/key": expected}}


@pytest.mark.parametrize("absolute", [False, True])
def test_the_provenance_has_absolute_paths_only_where_they_are_asked_for(
    tmp_path, monkeypatch, absolute
):
    monkeypatch.chdir(tmp_path)
    plan = make_run()
    workflow = replace(plan.config.workflow, absolute_paths=absolute)
    dataset = replace(plan.config.dataset, data_dir=str(tmp_path / "data"))
    plan = replace(plan, config=replace(plan.config, workflow=workflow, dataset=dataset))
    for path in map(Path, plan.chunk_records()):
        content = asdict(read_record(path))
        content["provenance"]["checkpoint"] = {"path": f"{tmp_path}/ckpt/model1.pt"}
        path.write_bytes(seal(content))
    merge(plan, quiet)
    attributes = ContactMaps(ARCHIVE).attributes
    start = f"{tmp_path}/" if absolute else ""
    assert attributes["checkpoint"]["path"] == f"{start}ckpt/model1.pt"
    assert attributes["config"]["dataset"]["data_dir"] == f"{start}data"
    assert (str(tmp_path) in Path(ARCHIVE, "zarr.json").read_text()) == absolute
