"""The snakemake command of what was typed to `cdm run`, and of a run that is there."""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cdm import SNAKEFILE, WORKFLOW
from cdm.commands.config_files import config_arguments, flow
from cdm.commands.old_words import Job, config_words
from cdm.config import Config
from cdm.config.layers import config_file, read_file
from cdm.errors import ConfigError, listed


def known_rules() -> set[str]:
    """The names of the workflow's rules."""
    files: list[Any] = [SNAKEFILE, *WORKFLOW.glob("rules/*.smk")]
    text = "\n".join(Path(path).read_text("utf-8") for path in files)
    return set(re.findall(r"^ *rule (\w+):", text, re.MULTILINE))


def snakemake_words(job: Job, options: Sequence[str]) -> list[str]:
    """The snakemake command of a job.

    Args:
        options: of Snakemake, as typed behind `--`; they win over the usual ones.
    Raises:
        ConfigError: configuration files both among the words and behind `--`.
    """
    words = ["snakemake", *job.targets]
    if not _has(options, "--workflow-profile", "--profile"):
        if not _has(options, "--cores", "-c", "--jobs", "-j"):
            words += ["--cores", "1"]
        if not _has(options, "--resources", "--res"):
            words += ["--resources", "gpu=1"]
    if not _has(options, "--snakefile", "-s") and not _is_beside():
        words += ["--snakefile", SNAKEFILE]
    if job.configfiles:
        if _has(options, "--configfile", "--configfiles"):
            raise ConfigError("name all .yaml files before the --, or all behind --configfile")
        words += ["--configfile", *job.configfiles]
    words += options
    settings = [*config_words(job, flow)]
    return [*words, "--config", *settings] if settings else words


def found_configfiles(names: Sequence[str]) -> list[str]:
    """The configuration files that were named, each where it is.

    Raises:
        ConfigError: a file is not there, which Snakemake would say in a traceback; or it is not
            YAML, and Snakemake would not say which file and line.
    """
    paths = [config_file(name) for name in names]
    for path in paths:
        if not Path(path).exists():
            near = sorted(each.name for each in Path(path).parent.glob("*.y*ml"))
            beside = f"the folder has {listed(near, 8, ', ')}" if near else "cdm init writes one"
            raise ConfigError(f"{path}: no such file; {beside}")
        read_file(Path(path))
    return paths


def _has(options: Sequence[str], *names: str) -> bool:
    """Whether one of these options is there, also as -j4 or --cores=4."""
    long = tuple(name for name in names if name.startswith("--"))
    short = tuple(name for name in names if not name.startswith("--"))
    return any(
        option.partition("=")[0] in long
        or (bool(short) and re.match(rf"({'|'.join(short)})", option))
        for option in options
        if option.startswith("-")
    )


def _is_beside(folder: Path = Path()) -> bool:
    """Whether Snakemake finds the workflow by itself, started in this folder."""
    path = folder / "Snakefile"
    return path.exists() and path.samefile(SNAKEFILE)


def program(words: Sequence[str]) -> list[str]:
    """How to start Snakemake: the one of this Python, else the one on the path."""
    beside = Path(sys.executable).with_name(words[0])
    found = str(beside) if beside.exists() else shutil.which(words[0])
    return [found, *words[1:]] if found else [sys.executable, "-m", *words]


# --- of a run that is there ----------------------------------------------------------------------


def started_in(run: Path, config: Config) -> Path:
    """The folder that a run was started in: the one that holds outputs/EXP_NAME.

    If output_dir is absolute, no folder of the run tells it. Then it is the working directory.

    Raises:
        ConfigError: the run's folder does not lie where its plan says.
    """
    # outputs/ may be a link to another disk: first the path as it was typed.
    for path in (Path(os.path.abspath(run)), run.resolve()):
        folder = path
        for _ in Path(os.path.normpath(config.run_dir)).parts:
            folder = folder.parent
        if Path(config.run_dir).is_absolute():
            folder = Path.cwd()
        if (folder / config.run_dir).resolve() == run.resolve():
            return folder
    raise ConfigError(
        f"{run}: its plan is of {config.run_dir}; the run's folder was renamed or moved. Put it "
        "back there, or give its --configfile with the new exp_name"
    )


def command_again(
    run: Path | None, configfiles: Sequence[str], assignments: Sequence[str], config: Config
) -> str:
    """What to type to run a configuration: that of a run's folder, or one that was typed."""
    words = ["snakemake", "--cores", "1", "--resources", "gpu=1"]
    folder = Path() if run is None else started_in(run, config)
    if not _is_beside(folder):
        words += ["--snakefile", SNAKEFILE]
    if run is not None:
        there = "" if folder == Path.cwd() else f"cd {shlex.quote(str(folder))} && "
        return f"{there}{shlex.join(words)} {config_arguments(config)}".rstrip()
    if configfiles:
        words += ["--configfile", *map(config_file, configfiles)]
    if assignments:
        words += ["--config", *assignments]
    return shlex.join(words)
