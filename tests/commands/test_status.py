"""`cdm status`: what a run is doing, from files alone."""

import io
import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import plan_run, run_config, write_dummy_chunk

from cdm.__main__ import main
from cdm.archive.records import store_path
from cdm.commands.colour import PLAIN, RED
from cdm.commands.status import count, progress_line, read_status
from cdm.files import seal, unseal
from cdm.jobs.progress import STALE_S, Heartbeat, heartbeat_path
from cdm.run.merge import merge
from cdm.run.plan_files import save_plan
from cdm.run.planning import make_plan

RUN = "outputs/run"


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return plan_run(tmp_path, num_items=12)[0]


def write_log(tmp_path, chunk, *lines):
    path = tmp_path / RUN / "logs/generate_chunk" / f"{chunk.name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"12:00:0{i} {line}\n" for i, line in enumerate(lines)))
    return path


def status_json(capsys, expected=0):
    assert main(["status", RUN, "--json"]) == expected
    return json.loads(capsys.readouterr().out)


def test_status_tells_done_running_failed_and_waiting_chunks(tmp_path, plan, capsys):
    done, running, failed, _ = plan.chunks
    write_dummy_chunk(plan, done)
    log = write_log(tmp_path, failed, "model: PointMamba", "error: x.npz: damaged;\nrebuild it")
    with Heartbeat(RUN, running.name) as heartbeat:
        heartbeat.report(1.5, 3, 0.5)
        heartbeat._write()
        found = status_json(capsys, expected=1)
    assert found["chunks"] == {
        "total": 4,
        "done": 1,
        "running": 1,
        "next": 0,
        "failed": 1,
        "waiting": 1,
    }
    assert found["maps"] == {"done": 4.5, "total": 12}
    assert found["failed"] == [
        {
            "chunk": failed.name,
            "error": "x.npz: damaged;\nrebuild it",
            "log": str(log.relative_to(tmp_path)),
        }
    ]
    assert [job["name"] for job in found["running"]] == [running.name]
    assert found["maps_per_second"] == 0.5 and found["eta_seconds"] == pytest.approx(15)
    assert found["seconds_per_map"] == 2.0 and found["gpu_busy"] is None


def test_a_job_that_stands_by_is_next_and_makes_no_maps_yet(plan, capsys):
    write_dummy_chunk(plan, plan.chunks[0])  # 2 s a map
    running, following = plan.chunks[1:3]
    with Heartbeat(RUN, running.name) as computes, Heartbeat(RUN, following.name) as stands_by:
        computes.report(1.0, 3, 0.25)
        computes._write()
        stands_by.report_turn(False)
        stands_by._write()
        found = status_json(capsys)
        assert main(["status", RUN]) == 0
        printed = capsys.readouterr().out
        stands_by.report_turn(True)
        stands_by._write()
        both = status_json(capsys)
    assert found["chunks"] == {
        "total": 4, "done": 1, "running": 1, "next": 1, "failed": 0, "waiting": 1,
    }  # fmt: skip
    assert [job["name"] for job in found["next"]] == [following.name] and not found["cut_off"]
    assert found["maps_per_second"] == 0.25 and found["eta_seconds"] == pytest.approx(8 / 0.25)
    assert "1 running   1 next   0 failed   1 waiting" in printed
    assert "next, getting ready or standing by:" in printed
    # once it has its turn, it is as fast as finished chunks until it tells its own rate
    assert both["chunks"]["running"] == 2 and both["maps_per_second"] == 0.25 + 0.5


def test_a_retried_chunk_is_not_failed_any_more(tmp_path, plan, capsys):
    write_log(tmp_path, plan.chunks[0], "error: out of luck")
    assert status_json(capsys, expected=1)["chunks"]["failed"] == 1
    write_dummy_chunk(plan, plan.chunks[0])
    assert status_json(capsys)["chunks"]["failed"] == 0


def test_a_defect_is_told_by_the_last_line_of_its_traceback(tmp_path, plan, capsys):
    lines = ("Traceback (most recent call last):", '  File "x.py"', "KeyError: 'y'")
    write_log(tmp_path, plan.chunks[0], "started").write_text("\n".join(lines) + "\n")
    assert status_json(capsys, expected=1)["failed"][0]["error"] == "KeyError: 'y'"


def test_a_stale_heartbeat_is_a_chunk_that_was_cut_off_and_waits(plan, capsys):
    chunk = plan.chunks[1]
    with Heartbeat(RUN, chunk.name):
        content = json.loads(heartbeat_path(RUN, chunk.name).read_bytes())
    content |= {"host": "node7", "updated": time.time() - STALE_S - 5}
    heartbeat_path(RUN, chunk.name).write_text(json.dumps(content))
    found = status_json(capsys)
    assert found["chunks"]["running"] == 0 and found["chunks"]["waiting"] == 4
    assert found["cut_off"][0]["host"] == "node7" and found["cut_off"][0]["age_s"] > STALE_S


def test_skipped_samples_and_their_reasons_are_listed(plan, capsys):
    write_dummy_chunk(plan, plan.chunks[1], skipped={2: 'caption with "reason": inside'})
    skipped = status_json(capsys)["skipped"]
    assert [(s["set"], s["index"], s["reason"]) for s in skipped] == [
        ("HUMANISE", "5", 'caption with "reason": inside')
    ]
    main(["status", RUN])
    assert "HUMANISE/5 caption" in capsys.readouterr().out


def test_captions_that_lose_words_are_counted_and_listed(plan, capsys):
    for chunk, cut in ((plan.chunks[0], ()), (plan.chunks[2], (0, 2))):
        path = write_dummy_chunk(plan, chunk)
        content = unseal(path.read_bytes())
        for row in cut:
            content["samples"][row]["caption_cut"] = True
        path.chmod(0o644)
        path.write_bytes(seal(content))
    found = status_json(capsys)["captions_cut"]
    assert [(s["set"], s["index"]) for s in found] == [("HUMANISE", "6"), ("HUMANISE", "8")]
    assert {s["chunk"] for s in found} == {plan.chunks[2].name}
    main(["status", RUN])
    text = capsys.readouterr().out
    assert "shortened  2 caption(s)" in text and "HUMANISE/8 caption" in text


def test_a_truncated_record_is_told_and_a_record_without_store_is_not_done(plan, capsys):
    damaged = write_dummy_chunk(plan, plan.chunks[0])
    damaged.write_bytes(damaged.read_bytes()[:-40])
    orphan = write_dummy_chunk(plan, plan.chunks[1])
    store_path(orphan).rename("elsewhere")
    found = status_json(capsys, expected=1)
    assert found["chunks"]["done"] == 1
    assert len(found["damaged"]) == 1 and damaged.name in found["damaged"][0]


def test_the_gpu_busy_share_is_the_mean_of_what_records_say(plan, capsys):
    import orjson

    from cdm.files import seal

    for chunk, share in zip(plan.chunks[:2], (0.9, 0.8), strict=True):
        path = write_dummy_chunk(plan, chunk)
        content = orjson.loads(path.read_bytes())
        content.pop("sha256")
        content["gpu_busy"] = share
        path.write_bytes(seal(content))
    assert status_json(capsys)["gpu_busy"] == pytest.approx(0.85)
    main(["status", RUN])
    assert "GPU busy   85 %" in capsys.readouterr().out


def test_one_line_on_the_whole_job_fits_its_width(plan):
    write_dummy_chunk(plan, plan.chunks[0])
    counts = count(plan, RUN)
    plain = progress_line("run", counts, 0.5, 4)
    assert plain == "run  3/12 maps  25 %  0.5 maps/s  ETA 0:00:18  chunks 1/4, 0 running"
    for width in (40, 80, 100, 200):
        assert len(progress_line("run", counts, 0.5, 4, width)) <= width
    assert "█" in progress_line("run", counts, 0.5, 4, 100)


def test_all_done_is_a_hundred_percent_and_nothing_less_is(plan):
    for chunk in plan.chunks:
        write_dummy_chunk(plan, chunk)
    status = read_status(plan, RUN)
    assert "100 %" in progress_line("run", status.counts, 0, 4)
    status.counts.maps_done -= 0.001
    assert "99.9 %" in progress_line("run", status.counts, 0, 4)


def test_a_folder_without_a_plan_is_told_in_one_line(tmp_path, capsys):
    assert main(["status", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "plan.json: no such file" in told and told.count("\n") == 1


def test_a_lost_shard_is_told_and_the_archive_is_damaged(plan, capsys):
    for chunk in plan.chunks:
        write_dummy_chunk(plan, chunk)
    merge(plan, lambda line: None)
    assert status_json(capsys)["archive"] == "merged"
    Path(plan.archive, "distance/c.2.0.0.0").unlink()
    found = status_json(capsys, expected=1)
    assert found["archive"] == "damaged" and found["chunks"]["done"] == 4
    assert "distance/c.2.0.0.0: is missing; it is made again" in found["damaged"][0]


def test_clips_that_the_dataset_dropped_are_shown_with_their_reasons(plan, capsys):
    samples = make_plan(run_config())[1]
    save_plan(replace(plan, dropped={"000021": "has NaN", "M000007": "no caption"}), samples)
    assert status_json(capsys)["dropped"] == {"000021": "has NaN", "M000007": "no caption"}
    main(["status", RUN])
    shown = capsys.readouterr().out
    assert "dropped    2 clip(s)" in shown and "  000021: has NaN\n  M000007: no caption" in shown
    assert (
        "dropped         2 clip(s) or parts: 1 has NaN, 1 no caption"
        in Path(RUN, "checkpoint_info.txt").read_text()
    )


def test_an_ascii_terminal_gets_a_bar_and_escaped_text(plan, monkeypatch):
    write_dummy_chunk(plan, plan.chunks[0], skipped={1: "data/\x1b[2J椅.npz: broken"})
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["status", RUN]) == 0
    shown = terminal.buffer.getvalue().decode("ascii")
    assert "############---" in shown and r"data/\u001b[2J\u6905.npz: broken" in shown


def test_json_for_an_ascii_terminal_is_still_the_same_json(plan, monkeypatch):
    reason = "data/\x9b2J椅.npz: broken"
    write_dummy_chunk(plan, plan.chunks[0], skipped={1: reason})
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    main(["status", RUN, "--json"])
    (skipped,) = json.loads(terminal.buffer.getvalue())["skipped"]
    assert skipped["reason"] == reason


WRONG_STATES = (
    b"[]",
    b"{}",
    b"[" * 100_000,
    b'{"updated": NaN}',
    b'{"name": "a", "host": "h", "pid": 1, "process_space": "", "job": "", "started": 0, '
    b'"updated": 1e300, "maps": 0, "total": 1, "rate": 0}',
    b'{"name": "a", "host": "h", "pid": 1, "process_space": "", "job": "", "started": 0, '
    b'"updated": 1, "maps": 5, "total": 1, "rate": -1e308}',
    b'{"name": "a", "host": "h", "pid": "1", "process_space": "", "job": "", "started": 0, '
    b'"updated": 1}',
)


@pytest.mark.parametrize("content", WRONG_STATES)
def test_a_heartbeat_of_another_shape_counts_as_not_there(plan, capsys, content):
    for name in (plan.chunks[0].name, "merge"):
        path = heartbeat_path(RUN, name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    found = status_json(capsys)
    assert found["running"] == found["cut_off"] == [] and found["chunks"]["waiting"] == 4


def test_a_chunk_of_skipped_samples_only_leaves_the_speed_unknown(plan, capsys):
    rows = dict.fromkeys(range(3), "broken")
    write_dummy_chunk(plan, plan.chunks[0], skipped=rows)
    found = status_json(capsys)
    assert found["seconds_per_map"] is None and len(found["skipped"]) == 3


def test_failed_chunks_are_red_on_a_terminal_and_never_in_json(tmp_path, plan, capsys, monkeypatch):
    write_log(tmp_path, plan.chunks[0], "error: x.npz: damaged \033[32m")
    assert main(["status", RUN]) == 1
    assert RED not in capsys.readouterr().out
    monkeypatch.setattr("cdm.commands.colour.allows_colour", lambda stream: True)
    assert main(["status", RUN]) == 1
    text = capsys.readouterr().out
    assert f"{RED}1 failed{PLAIN}" in text and f"{RED}failed:{PLAIN}" in text
    assert r"damaged \u001b[32m" in text  # what a log holds is shown, not obeyed
    assert main(["status", RUN, "--json"]) == 1
    assert RED not in capsys.readouterr().out


@pytest.mark.parametrize("removed", [[0], [1], [0, 1, 2, 3]])
def test_chunks_that_were_removed_after_the_merge_are_done(plan, capsys, removed):
    """The archive has their maps, and its record tells which samples have none."""
    for chunk in plan.chunks:
        write_dummy_chunk(plan, chunk, skipped={1: "bad"} if chunk.number < 2 else None)
    merge(plan, lambda line: None)
    before = status_json(capsys)
    for number in removed:
        record = Path(plan.chunk_record(plan.chunks[number]))
        record.unlink()
        shutil.rmtree(store_path(record))
    after = status_json(capsys)
    same = ("maps", "chunks", "archive", "damaged")
    assert {key: after[key] for key in same} == {key: before[key] for key in same}
    assert after["chunks"]["done"] == 4 and after["maps"]["done"] == 12
    shown = [{(s["index"], s["reason"]) for s in told["skipped"]} for told in (before, after)]
    assert shown == [{("1", "bad"), ("4", "bad")}] * 2 and len(after["skipped"]) == 2


def test_chunks_that_were_removed_with_the_archive_wait(plan, capsys):
    for chunk in plan.chunks:
        write_dummy_chunk(plan, chunk)
    merge(plan, lambda line: None)
    shutil.rmtree(Path(RUN, "chunks"))
    Path(plan.archive_record).unlink()
    found = status_json(capsys)
    assert found["chunks"]["waiting"] == 4 and found["maps"]["done"] == 0
