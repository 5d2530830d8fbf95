"""The plan on disk: read as it was written, refused when it was edited, old forms understood."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import orjson
import pytest
from helpers import plan_run, run_config

import cdm.run.plan_files as plan_files
from cdm.errors import ArchiveError
from cdm.files import seal, unseal
from cdm.run.dataset import open_dataset
from cdm.run.plan_files import (
    UNSEALED_KEYS,
    is_saved,
    read_plan,
    read_plan_for,
    read_samples,
    save_plan,
)
from cdm.run.planning import make_plan

RUN, PLAN = "outputs/run", Path("outputs/run/plan/plan.json")


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return plan_run(tmp_path)[0]


def edit(**changes):
    """Edit plan.json as a person would, and seal it again."""
    content = unseal(PLAN.read_bytes())
    PLAN.write_bytes(seal(content | changes))


def test_a_plan_is_read_as_it_was_saved(plan):
    assert read_plan(RUN) == plan == read_plan_for(run_config())
    assert read_plan(RUN).num_steps == 2


def test_the_plan_of_another_configuration_is_not_taken(plan):
    assert read_plan_for(run_config(seed=1)) is None


def test_a_plan_is_saved_only_if_every_byte_of_its_files_is_there(plan):
    samples = make_plan(run_config())[1]
    table = Path(RUN, "plan/samples.tsv")
    assert is_saved(plan, samples)
    for path in (PLAN, table):
        whole = path.read_bytes()
        for content in (b"", whole[:-9], whole + b"x", whole.replace(b"2", b"3")):
            path.write_bytes(content)
            assert not is_saved(plan, samples)
        path.unlink()
        assert not is_saved(plan, samples)
        save_plan(plan, samples)
        assert is_saved(plan, samples) and path.read_bytes() == whole
    save_plan(*make_plan(run_config(seed=1)))  # another run began in this folder
    assert not is_saved(plan, samples)


def test_a_folder_that_is_no_run_is_told_with_what_is_expected(plan):
    for place in (PLAN, "data", "nothing"):
        told = f"^{place}/plan/plan.json: no such file; expected the folder of a run"
        with pytest.raises(ArchiveError, match=told):
            read_plan(place)


def test_a_lost_plan_of_a_run_with_chunks_is_written_anew(plan):
    Path(PLAN).unlink()
    Path(RUN, "chunks").mkdir(exist_ok=True)
    with pytest.raises(ArchiveError, match=f"^{PLAN}: no such file; start snakemake again"):
        read_plan(RUN)


def test_a_plan_of_another_user_is_told(plan, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(plan_files, "read_bytes", refuse)  # root may read every file
    with pytest.raises(ArchiveError, match=f"^{PLAN}: you may not read it; check the owner"):
        read_plan(RUN)


@pytest.mark.parametrize("place", [30, -30, len('{\n  "config"') + 40])
def test_a_flipped_bit_is_refused_by_commands_and_not_taken_by_jobs(plan, place):
    data = bytearray(PLAN.read_bytes())
    data[place] ^= 1
    PLAN.write_bytes(data)
    with pytest.raises(ArchiveError, match=r"plan\.json: not a plan of this version"):
        read_plan(RUN)
    assert read_plan_for(run_config()) is None


def test_an_architecture_that_is_not_that_of_the_settings_is_refused(plan):
    sizes = plan.architecture.sizes | {"depth": 3}
    edit(architecture=asdict(replace(plan.architecture, sizes=sizes)))
    with pytest.raises(ArchiveError, match="the architecture is not that of the settings"):
        read_plan(RUN)
    assert read_plan_for(run_config()) is None


def test_weights_statistics_and_chunks_must_agree_with_the_settings(plan):
    chunks = [asdict(chunk) for chunk in plan.chunks]
    edits = {
        "weights are not those": {"checkpoint": {"path": "x.pt", "sha256": "0" * 64}},
        "statistics are not those": {"statistics": {"path": "x.npz", "values": None}},
        "do not follow each other": {"chunks": chunks[1:]},
        "have no rows|has no rows": {"chunks": [*chunks[:2], chunks[2] | {"stop": 6}]},
        "not those that were planned": {"chunks": [*chunks[:2], chunks[2] | {"fingerprint": "0"}]},
        "start is '0', expected int": {"chunks": [chunks[0] | {"start": "0"}, *chunks[1:]]},
        "the notes are no list": {"notes": {"items": 7}},
        "path is 7, expected str": {"checkpoint": {"path": 7, "sha256": "0" * 64}},
    }
    whole = PLAN.read_bytes()
    for message, changes in edits.items():
        PLAN.write_bytes(whole)
        edit(**changes)
        with pytest.raises(ArchiveError, match=message):
            read_plan(RUN)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{}", b"[" * 100_000, b"\xff", b'"a"'])
def test_what_is_no_plan_is_told_in_one_line_with_the_next_step(plan, content):
    PLAN.write_bytes(content)
    with pytest.raises(ArchiveError) as error:
        read_plan(RUN)
    assert str(error.value).startswith(f"{PLAN}: ") and "\n" not in str(error.value)
    assert "start snakemake again" in str(error.value)
    assert read_plan_for(run_config()) is None


@pytest.mark.parametrize("value", [None, [], {}, "x", 1e308, -1, [[]], {"a": {}}])
@pytest.mark.parametrize(
    "key", sorted(UNSEALED_KEYS - {"settings", "key"} | {"identity", "dropped"})
)
def test_a_sealed_plan_of_another_shape_is_refused_not_met_later(plan, key, value):
    before = unseal(PLAN.read_bytes())[key]
    edit(**{key: value})
    if value == before:
        assert read_plan(RUN) == plan
        return
    with pytest.raises(ArchiveError, match="start snakemake again"):
        read_plan(RUN)


def write_old_form(plan):
    """plan.json as versions before the seal wrote it."""
    content = unseal(PLAN.read_bytes())
    old = {key: content[key] for key in UNSEALED_KEYS if key != "settings"}
    old["settings"] = content["identity"]
    old["statistics"] = content["statistics"] | {"computed": plan.statistics.computed}
    PLAN.write_text(json.dumps(old, indent=2))


def test_a_plan_of_the_old_form_is_still_read(plan):
    write_old_form(plan)
    assert read_plan(RUN) == plan == read_plan_for(run_config())


def test_a_seal_cannot_be_taken_off(plan):
    content = orjson.loads(PLAN.read_bytes())
    content.pop("sha256")
    PLAN.write_bytes(orjson.dumps(content))
    with pytest.raises(ArchiveError, match="changed since it was written"):
        read_plan(RUN)


def test_chunks_read_their_own_rows_and_only_those(plan):
    dataset = open_dataset(plan.config, plan.architecture.point_feat_dim)
    rows = [read_samples(plan, chunk, dataset) for chunk in plan.chunks]
    assert [[s.index for s in part] for part in rows] == [["0", "1", "2"], ["3", "4", "5"], ["6"]]
    assert rows[0][1].text == "" and rows[0][2].scene_trans == (0.5, -0.25, 0.25)


DAMAGES = {
    "another caption": lambda data: data.replace(b"chair 4", b"chair 9"),
    "a row less": lambda data: data[: data.rstrip(b"\n").rindex(b"\n") + 1],
    "no table": lambda data: b"\x00\xff" * len(data),
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_table_of_other_rows_is_refused(plan, damage):
    path = Path(RUN, "plan/samples.tsv")
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    dataset = open_dataset(plan.config, plan.architecture.point_feat_dim)
    chunk = plan.chunks[2 if damage == "a row less" else 1]
    with pytest.raises(ArchiveError, match=r"samples\.tsv: its rows are not those of chunk"):
        read_samples(plan, chunk, dataset)


def test_a_missing_table_is_told(plan):
    Path(RUN, "plan/samples.tsv").unlink()
    dataset = open_dataset(plan.config, plan.architecture.point_feat_dim)
    with pytest.raises(ArchiveError, match=r"samples\.tsv: No such file .* start snakemake again"):
        read_samples(plan, plan.chunks[0], dataset)


def test_a_file_in_place_of_a_run_is_told_as_none(tmp_path):
    (tmp_path / "mine.yaml").touch()
    with pytest.raises(ArchiveError, match=r"expected the folder of a run.* --configfile .*mine"):
        read_plan(tmp_path / "mine.yaml")


def test_where_there_is_no_run_those_nearby_are_named(plan):
    for place in ("outputs/demo", "outputs"):  # as typed by mistake
        with pytest.raises(ArchiveError, match=r"the folder of a run that .*: outputs/run$"):
            read_plan(place)
    with pytest.raises(ArchiveError, match=r"the folder of a run that .*, outputs/EXP_NAME$"):
        read_plan("elsewhere/demo")


def test_a_pipe_in_place_of_a_plan_is_told_and_not_waited_for(plan):
    PLAN.unlink()
    os.mkfifo(PLAN)
    with pytest.raises(ArchiveError, match=r"plan\.json: not a plan of this version"):
        read_plan(RUN)
    assert read_plan_for(run_config()) is None
