"""The package as people install it: a wheel and an sdist, without the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from helpers import REPO

import cdm

WORKFLOW = ("Snakefile", "rules/", "scripts/", "envs/", "config/", "profiles/")


# Without the checkout, which conftest.py puts on the path.
CLEAN = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def run(*command, env=CLEAN, **options):
    pipes = {"capture_output": True, "text": True}
    done = subprocess.run(list(map(str, command)), env=env, **pipes, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def sources():
    """Every file of the checkout that git knows or would add."""
    command = ["git", "-C", REPO, "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in names if (REPO / name).is_file()]


def contents(wheel):
    """Name -> bytes of a wheel's files, but for its list of them."""
    with zipfile.ZipFile(wheel) as archive:
        return {n: archive.read(n) for n in archive.namelist() if not n.endswith("RECORD")}


@pytest.fixture(scope="session")
def built(made_once):
    """A folder with the wheel of the checkout, and in sdist/ the sdist and the wheel made of it."""

    def make(folder):
        for name in sources():
            target = folder / "source" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / name, target)
        build = (sys.executable, "-m", "build", "--no-isolation", folder / "source")
        run(*build, "--outdir", folder / "sdist")
        run(*build, "--wheel", "--outdir", folder)

    return made_once("built", make)


@pytest.fixture(scope="session")
def installed(made_once, built):
    """The bin/ of an environment with the wheel; what it depends on is this environment's."""

    def make(folder):
        run(sys.executable, "-m", "venv", "--without-pip", folder)
        [wheel] = built.glob("*.whl")
        python = folder / "bin/python"
        run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", wheel)
        # A plain path: installations "-e" of that environment, such as the checkout, are not seen.
        [site] = folder.glob("lib/*/site-packages")
        (site / "depends.pth").write_text(sysconfig.get_path("purelib"))

    return made_once("installed", make) / "bin"


@pytest.mark.long
def test_the_wheel_holds_the_package_and_the_workflow(built):
    [wheel] = built.glob("*.whl")
    found = contents(wheel)
    for name in sources():
        inside = f"cdm/_workflow/{name}" if name.startswith(WORKFLOW) else name
        if name.startswith(("cdm/", *WORKFLOW)):
            assert found.get(inside) == (REPO / name).read_bytes(), name
    assert wheel.name.startswith(f"contact_map_diffusion-{cdm.__version__}-py3-none-any")


@pytest.mark.long
def test_the_sdist_holds_all_but_what_is_gits_and_gives_the_same_wheel(built):
    [sdist] = built.glob("sdist/*.tar.gz")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert set(sources()) - held == {".gitattributes", ".gitignore"}
    [wheel], [again] = built.glob("*.whl"), built.glob("sdist/*.whl")
    assert contents(wheel) == contents(again)


AROUND = """
import cdm

module contact_maps:
    snakefile: cdm.SNAKEFILE
    config: {"exp_name": "mine"}

use rule * from contact_maps as cm_*
"""


@pytest.mark.long
def test_a_wheel_runs_the_demo_in_an_empty_folder(installed, tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()

    def type_(*words):
        return run(*words, cwd=folder, env=CLEAN | {"PATH": f"{installed}:/usr/bin:/bin"})

    place = Path(type_("python", "-c", "import cdm; print(cdm.__file__)").strip())
    assert place.is_relative_to(installed.parent)
    assert f"cdm {cdm.__version__}" in type_("cdm", "--version")
    # A run, and the same command again.
    type_("cdm", "init")
    small = ("dataset.num_points=512", "diffusion.timestep_respacing=2", "workflow.chunk_size=24")
    job = ("cdm", "run", "mine.yaml", *small, "gpu=null", "--", "--cores", "2")
    assert "2 of 1000 steps" in type_(*job)
    assert "Nothing to be done" in type_(*job)
    # What looks at it.
    assert "1 done" in type_("cdm", "status", "outputs/mine")
    assert "all is well" in type_("cdm", "verify", "outputs/mine")
    why = type_("cdm", "why", "outputs/mine")
    assert "nothing to do" in why
    again = type_("cdm", "why", "--configfile", "mine.yaml", "--config", "seed=3")
    assert f"--snakefile {place.parent}/_workflow/Snakefile" in again
    # Environments of conda do not have the package.
    words = ("cdm", "run", "mine.yaml", "--", "-n", "--sdm", "conda")
    environment = CLEAN | {"PATH": f"{installed}:/usr/bin:/bin"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "--sdm conda needs a checkout" in done.stdout + done.stderr
    # As a module of another workflow.
    (folder / "Snakefile").write_text(AROUND)
    shown = type_("python", "-m", "snakemake", "-n", "--cores", "1", "cm_all")
    assert "cm_generate_chunk" in shown
