"""What `snakemake --list` and a cluster see of the rules."""

import re

import forked
import pytest
import yaml
from helpers import NUM_POINTS, REPO, SMALL_RUN, write_dataset

TEXTS = [path.read_text() for path in [REPO / "Snakefile", *sorted(REPO.glob("rules/*.smk"))]]
# Name -> what stands in the rule.
RULES = {
    name: body
    for text in TEXTS
    for name, body in re.findall(r"^ *rule (\w+):\n((?:(?: +.*)?\n)+)", text, re.MULTILINE)
}
# They take seconds. What reads every map takes minutes of a large dataset, and is a job.
LOCAL = {"demo_data", "report"}


@pytest.mark.parametrize("name", RULES)
def test_snakemake_lists_each_rule_with_a_sentence(name):
    first = RULES[name].splitlines()[0].strip()
    assert re.fullmatch(r'"""[A-Z].{10,100}\."""', first)


def test_rules_that_take_seconds_are_no_jobs_of_a_cluster():
    assert {name for name, body in RULES.items() if "localrule: True" in body} == LOCAL
    assert len(RULES) >= 11 and not any("gpu=1" in RULES[name] for name in LOCAL)


def test_a_plan_that_cannot_be_written_is_a_message_and_no_traceback(tmp_path):
    write_dataset(tmp_path / "data", 3, NUM_POINTS)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(SMALL_RUN))
    (tmp_path / "outputs/run/plan/.samples.tsv.lock").mkdir(parents=True)
    where = ("-s", REPO / "Snakefile", "--configfile", "mine.yaml", "--cores", "1")
    done = forked.snakemake(tmp_path, *where, "--resources", "gpu=1")
    assert done.returncode == 1 and "WorkflowError in file" in done.stdout, done.stdout
    assert "samples.tsv.lock: a link, folder or pipe stands here" in done.stdout
    assert "cdm/run" not in done.stdout and "contextlib" not in done.stdout


@pytest.mark.long
def test_a_cluster_that_takes_no_jobs_is_not_asked_for_them(tmp_path):
    cluster = ("--executor", "cluster-generic", "--cluster-generic-submit-cmd", "false")
    where = ("-s", REPO / "Snakefile", "--config", "dataset={num_points: 64}")
    done = forked.snakemake(tmp_path, "demo_data", *where, *cluster, "--jobs", "2")
    assert done.returncode == 0, done.stdout
    assert list(tmp_path.glob("outputs/demo/data/*.json"))
    done = forked.snakemake(tmp_path, "merge", *where, *cluster, "--jobs", "2")
    assert done.returncode == 1 and "Error submitting" in done.stdout
