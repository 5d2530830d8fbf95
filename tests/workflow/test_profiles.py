"""Plain `snakemake`: the profile beside the Snakefile, and the command line, which wins over it."""

import re
import subprocess
import sys

import forked
import pytest
import yaml
from helpers import NUM_POINTS, REPO, SMALL_RUN, write_dataset
from in_process import make_chunks


@pytest.fixture(scope="session")
def unmerged(made_once):
    """A folder with a run whose chunks are finished."""

    def make(folder):
        write_dataset(folder / "data", 3, NUM_POINTS)
        (folder / "mine.yaml").write_text(yaml.safe_dump(SMALL_RUN))
        make_chunks(folder)

    return made_once("unmerged", make)


@pytest.mark.parametrize(
    ("options", "cores", "gpus"),
    [
        ([], 1, 1),
        (["--cores", "2"], 2, 1),
        (["--cores", "2", "--resources", "gpu=2"], 2, 2),
        (["--workflow-profile", f"{REPO}/profiles/slurm"], None, 16),
    ],
)
def test_the_profile_gives_a_core_and_a_gpu_and_the_command_line_wins(options, cores, gpus):
    from snakemake.cli import parse_args

    _, args = parse_args(["-s", str(REPO / "Snakefile"), *options])
    assert (args.cores, args.resources["gpu"].value) == (cores, gpus)


def run_unmerged(unmerged, folder, *options) -> str:
    """The log of a run that has only to merge, with what its scheduler says of itself."""
    subprocess.run(["cp", "-a", unmerged, folder], check=True)
    files = ["-s", REPO / "Snakefile", "--configfile", "mine.yaml"]
    done = forked.snakemake(folder, *files, "--verbose", *options)
    assert done.returncode == 0, done.stdout
    assert (folder / "outputs/run/contact_maps.zarr").exists()
    return done.stdout


def jobs_that_may_start(log: str) -> set[int]:
    """How many jobs Snakemake's limit on their rate allowed, each time that it looked for jobs."""
    looked = re.findall("Resources after job selection:.*'_job_count': ([0-9]+)", log)
    return set(map(int, looked))


def test_plain_snakemake_runs_and_starts_its_jobs_at_once(unmerged, tmp_path):
    log = run_unmerged(unmerged, tmp_path / "copy")
    assert "Provided cores: 1" in log
    assert jobs_that_may_start(log) == {sys.maxsize}


@pytest.mark.long
def test_a_typed_rate_of_jobs_is_kept(unmerged, tmp_path):
    log = run_unmerged(unmerged, tmp_path / "copy", "--max-jobs-per-timespan", "50/1s")
    assert max(jobs_that_may_start(log)) == 50


@pytest.mark.long
def test_jobs_typed_for_cores_are_told(unmerged, tmp_path):
    log = run_unmerged(unmerged, tmp_path / "copy", "-j8")
    assert "--jobs 8 is for a cluster" in log
    assert jobs_that_may_start(log) == {sys.maxsize}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # On one machine: on the CPU no job stands by, so none needs a turn.
        (
            ["--cores", "6", "--config", "workflow={threads: 2}"],
            ["threads: 0", "chunk_jobs=1, turns=0, compute_threads=2"],
        ),
        # On a cluster, each job has a GPU and cores of its own.
        (["--jobs", "2", "--cores", "9"], ["threads: 4", "gpu=1"]),
        (["--jobs", "2", "--cores", "9", "--config", "workflow={threads: 8}"], ["threads: 8"]),
    ],
)
def test_what_a_chunk_job_is_given(unmerged, tmp_path, options, expected):
    folder = tmp_path / "copy"
    subprocess.run(["cp", "-a", unmerged, folder], check=True)
    subprocess.run("rm -r outputs/*/chunks", shell=True, cwd=folder, check=True)
    (folder / "profile").mkdir()
    (folder / "profile/config.yaml").write_text("rerun-triggers: [mtime, input]\n")
    if "--jobs" in options:
        submit = "--cluster-generic-submit-cmd"
        options = [*options, "--executor", "cluster-generic", submit, "submit {resources.gpu}"]
    files = ["-s", REPO / "Snakefile", "--configfile", "mine.yaml"]
    done = forked.snakemake(folder, "-n", "--workflow-profile", "profile", *files, *options)
    assert done.returncode == 0, done.stdout
    given = done.stdout.split("rule generate_chunk:")[1].split("\n[")[0]
    assert all(text in given for text in expected), given
    assert ("gpu" in given) == ("--jobs" in options), given
