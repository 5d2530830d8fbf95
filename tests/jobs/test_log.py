"""A job's log: how it ends, and that nothing in it is obeyed by a terminal."""

import os
import signal
import subprocess
import sys
import time

import pytest
from waiting import PATIENCE_S

from cdm.errors import BadItem, RunEnded
from cdm.jobs.log import FAILED, FINISHED, STOPPED, Ending, job_log, read_ending, signals_wait


@pytest.fixture
def path(tmp_path):
    return tmp_path / "logs" / "job.log"


def test_a_job_that_ends_well_says_so_last(path):
    with job_log(path) as log:
        log("one line")
    lines = path.read_text().splitlines()
    assert lines[0].endswith(" one line") and lines[-1].endswith(" finished")
    assert read_ending(path) == Ending(FINISHED)


def test_the_last_line_may_say_more(path):
    with job_log(path, lambda: "9.1 s: import 2.0, sample 7.0") as log:
        log("one line")
    assert path.read_text().splitlines()[-1].endswith(" finished: 9.1 s: import 2.0, sample 7.0")
    assert read_ending(path) == Ending(FINISHED)


def test_a_job_whose_run_has_ended_was_stopped(path):
    with pytest.raises(SystemExit) as ended, job_log(path):
        raise RunEnded("the run has ended")
    assert ended.value.code == 1
    assert read_ending(path) == Ending(STOPPED)


def test_leaving_ends_the_process_at_once_with_all_it_wrote():
    code = (
        "import atexit, sys, threading, time; from cdm.jobs.log import leave; "
        "atexit.register(time.sleep, 600); threading.Thread(target=time.sleep, args=(600,)).start()"
        "; sys.stdout.write('all'); leave()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=PATIENCE_S
    )
    assert (done.returncode, done.stdout) == (0, "all")


def test_an_error_is_one_message_and_exit_status_1(path, capsys):
    with pytest.raises(SystemExit) as ended, job_log(path):
        raise BadItem("x.npz: damaged;\nrebuild it")
    assert ended.value.code == 1
    assert read_ending(path) == Ending(FAILED, "x.npz: damaged;\nrebuild it")
    assert "error: x.npz: damaged" in capsys.readouterr().err


def test_a_defect_keeps_its_traceback(path):
    with pytest.raises(ZeroDivisionError), job_log(path):
        1 / 0  # noqa: B018
    assert read_ending(path) == Ending(FAILED, "ZeroDivisionError: division by zero")


def test_a_signal_is_told_as_the_ending(path, monkeypatch):
    monkeypatch.setattr("cdm.jobs.log.GRACE_S", 3600)  # then it would end this process
    with pytest.raises(SystemExit) as ended, job_log(path):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert ended.value.code == 128 + signal.SIGTERM
    assert read_ending(path) == Ending(STOPPED)


def test_a_log_that_breaks_off_tells_no_ending_and_none_is_none(path):
    assert read_ending(path) is None
    path.parent.mkdir()
    path.write_text("12:00:00 model: PointMamba\n")
    assert read_ending(path) == Ending("")
    path.write_text("")
    assert read_ending(path) == Ending("")


def test_a_pipe_in_place_of_a_log_is_not_waited_for(path):
    path.parent.mkdir()
    os.mkfifo(path)
    assert read_ending(path) is None


def test_a_line_that_quotes_an_ending_is_none(path):
    path.parent.mkdir()
    path.write_text("12:00:00 chunk 00000-ab: 3 samples; finished\n")
    assert read_ending(path) == Ending("")
    path.write_text("12:00:00 skipped: no error: here\n12:00:01 finished\n")
    assert read_ending(path) == Ending(FINISHED)


def test_only_the_end_of_a_long_log_is_read(path):
    path.parent.mkdir()
    path.write_text("12:00:00 error: early\n" + "x" * 10_000 + "\n12:00:01 finished\n")
    assert read_ending(path) == Ending(FINISHED)


def test_what_a_terminal_would_obey_is_written_escaped(path, capsys):
    with job_log(path) as log:
        log("skipped: \x1b[2Jclip\x9b1m \ud800 椅")
    escaped = r"skipped: \u001b[2Jclip\u009b1m \ud800 椅"
    assert escaped in path.read_text("utf-8") and escaped in capsys.readouterr().err


def test_a_log_that_is_a_link_leaves_the_file_behind_it_alone(path, tmp_path):
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    path.parent.mkdir()
    path.symlink_to(precious)
    with job_log(path):
        pass
    assert precious.read_text() == "mine" and not path.is_symlink()


def test_a_log_that_cannot_be_written_is_told_in_one_line(path):
    path.parent.write_text("a file where the folder should be")
    with pytest.raises(SystemExit, match="cannot write"), job_log(path):
        pass


def test_signals_wait_until_they_are_let_through():
    came = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        with signals_wait() as let_through:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            assert came == []
            let_through()
            assert came == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
