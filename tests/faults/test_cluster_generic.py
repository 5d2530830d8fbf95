"""The profile for any scheduler, with one made of three bash scripts."""

import os
import signal
from pathlib import Path

import pytest
from helpers import REPO
from runs import SLOW, Run, arrays, assert_same
from waiting import wait_until

pytest.importorskip(
    "snakemake_executor_plugin_cluster_generic", reason="pip install -e '.[cluster]'"
)
SCRIPTS = Path(__file__).parent / "scheduler"
PROFILE = (
    *("--workflow-profile", f"{REPO}/profiles/cluster-generic"),
    *("--cluster-generic-submit-cmd", f"{SCRIPTS}/submit.sh {{resources.gpu}}"),
    *("--cluster-generic-status-cmd", f"{SCRIPTS}/status.sh"),
    *("--cluster-generic-cancel-cmd", f"{SCRIPTS}/cancel.sh"),
    *("--set-threads", "generate_chunk=1", "merge=1", "--jobs", "2"),
    *("--seconds-between-status-checks", "1", "--latency-wait", "5"),
)


@pytest.mark.long
def test_a_job_killed_under_any_scheduler_is_submitted_again(tmp_path, slow_run):
    run, jobs = Run(tmp_path / "run", **SLOW), tmp_path / "jobs"
    jobs.mkdir()
    run.make_chunks(2)
    process = run.start(*PROFILE, SCHEDULER_DIR=str(jobs))
    try:
        wait_until(lambda: "model:" in run.logs(), "sampling")
        pid = next(
            int((job / "pid").read_text())
            for job in sorted(jobs.iterdir())
            if "model:" in (job / "output").read_text() and not (job / "done").exists()
        )
        os.killpg(pid, signal.SIGKILL)
        assert process.wait(180) == 0, (run.folder / "run.log").read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    requests = [(job / "request").read_text() for job in jobs.iterdir()]
    assert sorted(requests) == ["gpus 0\n"] + ["gpus 1\n"] * 3  # merge, two chunks, one again
    run.check()
    assert_same(arrays(run), slow_run)
    assert not run.leftovers()
