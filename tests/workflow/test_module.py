"""This workflow as a module of another one: imported twice, planned, run and resumed."""

import re
import shutil

import forked
import pages
import pytest
import yaml
from helpers import NUM_POINTS, REPO, SMALL_RUN, write_dataset

from cdm.archive import ContactMaps

# Two imports with a part of the keys each; the second one's outputs lie under a prefix.
AROUND = f"""
configfile: workflow.source_path("around.yaml")

rule all:
    default_target: True
    input: "lengths.txt"

module contact_maps:
    snakefile: "{REPO}/Snakefile"
    config: config["maps"]

use rule * from contact_maps as cm_*

module other_maps:
    snakefile: "{REPO}/Snakefile"
    config: config["maps"] | config["other"]
    prefix: "results/other"

use rule * from other_maps as other_*

rule count:
    input: rules.cm_merge.output, rules.other_merge.output
    output: "lengths.txt"
    shell: "echo {{input}} >{{output}}"

onstart:
    print("the workflow around has started")
"""
ARCHIVES = ("outputs/run/contact_maps.zarr", "results/other/outputs/second/contact_maps.zarr")
COMMAND = ("--cores", "2", "--resources", "gpu=1", "--rerun-triggers", "mtime", "input")


def write_around(folder, text=AROUND):
    """A workflow of somebody else, with a file of its own settings."""
    folder.mkdir()
    write_dataset(folder / "data", 3, NUM_POINTS)
    (folder / "Snakefile").write_text(text)
    maps = SMALL_RUN | {"workflow": {"chunk_size": 2}}
    settings = {"maps": maps, "other": {"exp_name": "second", "seed": 7}, "theirs": 1}
    (folder / "around.yaml").write_text(yaml.safe_dump(settings))


def run(folder, *arguments):
    """The workflow around, typed in another folder than the one it works in."""
    where = ("-s", folder / "Snakefile", "--directory", folder)
    done = forked.snakemake(folder.parent, *arguments, *where, *COMMAND)
    assert done.returncode == 0, done.stdout
    return done.stdout


def jobs(output):
    """Rule -> number of its jobs, from the table that Snakemake prints."""
    table = re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE)
    return {name: int(count) for name, count in table if name not in ("total", "all")}


def test_looking_lists_the_jobs_of_both_imports_and_writes_nothing(tmp_path):
    folder = tmp_path / "around"
    write_around(folder)
    before = {path.name for path in folder.iterdir()}
    assert jobs(run(folder, "-n")) == {
        **{"cm_generate_chunk": 2, "cm_merge": 1},
        **{"other_generate_chunk": 2, "other_merge": 1, "count": 1},
    }
    assert {path.name for path in folder.iterdir()} - before <= {".snakemake"}


def test_the_example_of_the_page_runs_the_rule_behind_the_maps(tmp_path):
    folder, page = tmp_path / "around", (REPO / "docs/as-a-module.md").read_text()
    [example] = [content for language, content in pages.blocks(page) if language == "snakemake"]
    write_around(folder, 'configfile: "around.yaml"\n' + example)
    (folder / "around.yaml").write_text(yaml.safe_dump({"contact_maps": SMALL_RUN}))
    assert jobs(run(folder, "-n")) == {"cm_generate_chunk": 1, "cm_merge": 1, "stage_2": 1}


def test_a_wrong_part_of_the_keys_is_told_with_the_name_of_the_module(tmp_path):
    folder = tmp_path / "around"
    write_around(folder, AROUND.replace('config["other"]', '{"seeds": 7}'))
    done = forked.snakemake(folder, "-n", *COMMAND)
    assert done.returncode == 1 and "Traceback" not in done.stdout
    assert "module other_maps: configuration:" in done.stdout
    assert "unknown key 'seeds'; did you mean 'seed'" in done.stdout


@pytest.fixture(scope="session")
def finished(made_once):
    """The folder of a workflow around this one, finished."""

    def make(folder):
        write_around(folder)
        assert "the workflow around has started" in run(folder)

    return made_once("module", make)


@pytest.fixture
def folder(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy", copy_function=shutil.copy2)


@pytest.mark.long
def test_two_imports_with_a_part_of_the_keys_run_in_one_workflow(finished):
    first, second = (ContactMaps(finished / path) for path in ARCHIVES)
    assert len(first) == len(second) == 3
    assert (first.group["sample"][:] != second.group["sample"][:]).any()  # another seed
    assert (finished / "lengths.txt").read_text().count("contact_maps-") == 2


@pytest.mark.long
def test_a_finished_module_has_nothing_to_do(finished):
    assert "Nothing to be done" in run(finished, "-n")


@pytest.mark.long
def test_a_module_goes_on_where_it_was(folder):
    outputs = folder / "results/other/outputs/second"
    before = ContactMaps(folder / ARCHIVES[1]).group["sample"][:]
    for path in [*outputs.glob("chunks/00001-*"), *outputs.glob("contact_maps*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / "lengths.txt").unlink()
    shown = run(folder)
    assert jobs(shown) == {"other_generate_chunk": 1, "other_merge": 1, "count": 1}
    assert (ContactMaps(folder / ARCHIVES[1]).group["sample"][:] == before).all()
