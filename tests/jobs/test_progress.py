"""Heartbeats and progress lines: what others see of a running job."""

import json
import os
import subprocess
import sys
import time

from waiting import wait_until

from cdm.jobs import progress
from cdm.jobs.progress import (
    Clock,
    Heartbeat,
    Progress,
    duration,
    heartbeat_path,
    per_second,
    read_job_states,
)


def test_a_heartbeat_is_renewed_while_its_job_lives_and_gone_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "BEAT_EVERY_S", 0.02)
    with Heartbeat(tmp_path, "00001-ab") as heartbeat:
        heartbeat.report(1.5, 6, 0.25)
        first = read_job_states(tmp_path)["00001-ab"]
        wait_until(lambda: read_job_states(tmp_path)["00001-ab"].maps == 1.5, "a second beat")
        beat = read_job_states(tmp_path)["00001-ab"]
        assert beat.updated > first.updated and beat.is_alive
        assert (beat.pid, beat.total, beat.rate) == (os.getpid(), 6, 0.25)
    assert read_job_states(tmp_path) == {}
    assert list((tmp_path / "running").iterdir()) == []


def test_a_killed_jobs_heartbeat_is_dead_at_once_on_its_own_machine(tmp_path):
    code = (
        "import os, sys; from cdm.jobs.progress import Heartbeat; "
        "Heartbeat(sys.argv[1], 'x').__enter__(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    beat = read_job_states(tmp_path)["x"]
    assert beat.age_s < progress.STALE_S and not beat.is_alive


def test_a_process_of_this_machine_lives_however_long_it_was_silent(tmp_path):
    code = (
        "import os, signal, sys; from cdm.jobs.progress import Heartbeat; "
        "Heartbeat(sys.argv[1], 'x').__enter__(); print(flush=True); "
        "os.kill(os.getpid(), signal.SIGSTOP)"
    )
    job = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE)
    job.stdout.readline()
    path = heartbeat_path(tmp_path, "x")
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"updated": 0}))
    assert read_job_states(tmp_path)["x"].is_alive
    job.kill()
    job.wait()
    assert not read_job_states(tmp_path)["x"].is_alive


def test_a_pid_that_another_process_has_now_is_a_dead_job(tmp_path):
    with Heartbeat(tmp_path, "x"):
        path = heartbeat_path(tmp_path, "x")
        content = json.loads(path.read_bytes())
    for birth, alive in ((content["birth"], True), ("another boot 123", False)):
        path.write_text(json.dumps(content | {"birth": birth}))
        assert read_job_states(tmp_path)["x"].is_alive == alive


def test_a_heartbeat_of_another_machine_is_trusted_until_it_is_stale(tmp_path):
    with Heartbeat(tmp_path, "x"):
        path = heartbeat_path(tmp_path, "x")
        content = json.loads(path.read_bytes()) | {"host": "elsewhere", "pid": 2**22 + 1}
    path.write_text(json.dumps(content))
    assert read_job_states(tmp_path)["x"].is_alive
    path.write_text(json.dumps(content | {"updated": time.time() - progress.STALE_S - 1}))
    assert not read_job_states(tmp_path)["x"].is_alive


def test_a_folder_that_refuses_the_heartbeat_does_not_stop_the_job(tmp_path):
    (tmp_path / "running").write_text("in the way")
    with Heartbeat(tmp_path, "x") as heartbeat:
        heartbeat.report(1, 2, 1)
    assert (tmp_path / "running").read_text() == "in the way"


def test_a_half_written_heartbeat_is_passed_over(tmp_path):
    heartbeat_path(tmp_path, "x").parent.mkdir()
    heartbeat_path(tmp_path, "x").write_text('{"name": "x", "ho')
    assert read_job_states(tmp_path) == {}


def test_progress_tells_few_lines_and_always_the_last(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    lines = []
    bar = Progress(100, "chunk x", lines.append)
    for _ in range(50):
        bar.start_batch(num_steps=10, size=2)
        for _ in range(10):
            now[0] += 1
            bar.step()
        bar.done(2)
    assert lines[0] == "chunk x: 1/100 maps, 0.2 maps/s, ETA 0:08:15"
    assert lines[-1] == "chunk x: 100/100 maps, 0.2 maps/s, ETA 0:00:00"
    assert 9 <= len(lines) <= 12


def test_the_rate_counts_from_the_first_batch_on(monkeypatch, tmp_path):
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    lines = []
    heartbeat = Heartbeat(tmp_path, "x")
    bar = Progress(600, "chunk x", lines.append, heartbeat)
    now[0] += 20  # kernels are compiled
    for _ in range(3):
        bar.start_batch(num_steps=2, size=60)
        now[0] += 3
        bar.step()
        now[0] += 3
        bar.step()
        bar.done(60)
    assert heartbeat.state.rate == 10.0
    assert lines[-1].endswith("maps, 10 maps/s, ETA 0:00:45") and "150/600" in lines[-1]


def test_a_rate_over_no_time_is_zero_and_no_time_left_is_unknown():
    assert per_second(5, 0.0) == 0.0 and per_second(5, 2) == 2.5
    assert duration(3725.4) == "1:02:05"
    assert (
        duration(float("inf")) == duration(float("nan")) == duration(-1) == duration(1e300) == "-"
    )


def test_progress_on_a_clock_that_stands_still_is_told(monkeypatch):
    monkeypatch.setattr("cdm.jobs.progress.time.perf_counter", lambda: 5.0)
    lines = []
    shown = Progress(2, "chunk", lines.append)
    shown.start_batch(num_steps=1, size=2)
    shown.step()
    shown.done(2)
    assert lines == ["chunk: 2/2 maps, 0 maps/s, ETA -"]


def test_a_heartbeat_never_claims_more_maps_than_there_will_be(tmp_path):
    with Heartbeat(tmp_path, "a") as heartbeat:
        heartbeat.report(7.0, 3, 1.0)
        heartbeat._write()
        assert read_job_states(tmp_path)["a"].maps == 3


def test_a_phase_that_is_entered_twice_counts_both_times(monkeypatch):
    now = iter([100.0, 100.0, 103.0, 110.0, 111.5, 120.0, 120.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(now))
    clock = Clock()
    for _ in range(2):
        with clock("load"):
            pass
    assert clock.seconds == {"load": 4.5}
    assert clock.summary() == "20.0 s: load 4.5, other 15.5"


def test_the_clock_of_a_process_knows_what_passed_before_it():
    code = (
        "import time; time.sleep(0.3); from cdm.jobs.progress import Clock; "
        "clock = Clock.of_process(); assert clock.total_s - clock.seconds['start'] < 0.1; "
        "print(clock.seconds['start'])"
    )
    assert float(subprocess.check_output([sys.executable, "-c", code], text=True)) >= 0.3


def test_a_system_without_ages_gives_a_clock_without_a_start(monkeypatch):
    monkeypatch.setattr(progress, "process_age_s", lambda: None)
    assert Clock.of_process().seconds == {}
