"""Snakemake's own words for storage, as people type them: what is refused, and what still runs."""

import forked
import pytest
from helpers import REPO

TYPED = (
    *("-n", "-s", REPO / "Snakefile", "--configfile", REPO / "config/test.yaml"),
    *("--config", "gpu=null", "exp_name=run"),
)
CLUSTER = ("--executor", "cluster-generic", "--cluster-generic-submit-cmd", "sh", "--jobs", "1")
FS = ("--default-storage-provider", "fs", "--default-storage-prefix", "store")
PARTLY = ("--shared-fs-usage", "persistence", "software-deployment", "sources", "source-cache")


def needs(plugin):
    pytest.importorskip(f"snakemake_{plugin}", reason="pip install -e '.[test]'")


@pytest.mark.parametrize(
    "words", [FS, FS[:2], (*FS, *CLUSTER), (*FS, *CLUSTER, *PARTLY)], ids=" ".join
)
def test_a_default_storage_provider_is_refused_while_the_snakefile_is_read(tmp_path, words):
    needs("storage_plugin_fs"), needs("executor_plugin_cluster_generic")
    done = forked.snakemake(tmp_path, *TYPED, *words)
    assert done.returncode == 1 and "found default-storage-provider fs" in done.stdout
    assert "Job stats" not in done.stdout and "Traceback" not in done.stdout


def test_a_mistyped_profile_does_not_start_the_run_on_this_machine(tmp_path):
    done = forked.snakemake(tmp_path, *TYPED[1:], "--workflow-profile", "slrm", "--cores", "1")
    assert done.returncode == 1 and "--workflow-profile slrm: no such folder" in done.stdout
    assert "Job stats" not in done.stdout and "Traceback" not in done.stdout


def test_settings_of_which_only_the_last_would_count_do_not_start_a_run(tmp_path):
    done = forked.snakemake(tmp_path, *TYPED, "--configfile", REPO / "config/fast.yaml")
    assert done.returncode == 1 and "--configfile is there 2 times" in done.stdout
    assert "Job stats" not in done.stdout and "Traceback" not in done.stdout


def test_a_default_storage_provider_in_a_profile_is_refused(tmp_path):
    needs("storage_plugin_fs")
    (tmp_path / "cloud").mkdir()
    (tmp_path / "cloud/config.yaml").write_text(
        "cores: 1\ndefault-storage-provider: fs\ndefault-storage-prefix: store\n"
    )
    for option in ("--workflow-profile", "--profile"):
        done = forked.snakemake(tmp_path, *TYPED, option, "cloud")
        assert done.returncode == 1 and "found default-storage-provider fs with" in done.stdout


@pytest.mark.parametrize("usage", [("none",), PARTLY[1:]], ids=" ".join)
def test_jobs_without_a_common_folder_are_refused_while_the_snakefile_is_read(tmp_path, usage):
    needs("executor_plugin_cluster_generic")
    done = forked.snakemake(tmp_path, *TYPED, *CLUSTER, "--shared-fs-usage", *usage)
    assert done.returncode == 1 and "expected input-output among it" in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("--default-storage-provider", "none"),
        ("--shared-fs-usage", "none"),  # all jobs run here
        (*CLUSTER, "--shared-fs-usage", "input-output", "sources"),
    ],
    ids=" ".join,
)
def test_what_does_no_harm_is_not_refused(tmp_path, words):
    needs("executor_plugin_cluster_generic")
    done = forked.snakemake(tmp_path, *TYPED, *words)
    assert done.returncode == 0 and "generate_chunk" in done.stdout, done.stdout
