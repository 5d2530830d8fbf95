"""The snakemake command of what was typed to `cdm run`, and of a run that is there."""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from cdm.commands.config_files import config_arguments, flow
from cdm.commands.old_words import Job, config_words
from cdm.config import SCHEMA, Config
from cdm.errors import ConfigError

SNAKEFILE = SCHEMA.parents[1] / "Snakefile"


def known_rules() -> set[str]:
    """The names of the workflow's rules."""
    files = [SNAKEFILE, *SNAKEFILE.parent.glob("rules/*.smk")]
    text = "\n".join(path.read_text("utf-8") for path in files)
    return set(re.findall(r"^ *rule (\w+):", text, re.MULTILINE))


def snakemake_words(job: Job, options: Sequence[str]) -> list[str]:
    """The snakemake command of a job.

    Args:
        options: of Snakemake, as typed behind `--`; they win over the usual ones.
    """
    words = ["snakemake", *job.targets]
    if not _has(options, "--workflow-profile", "--profile"):
        if not _has(options, "--cores", "-c", "--jobs", "-j"):
            words += ["--cores", "1"]
        if not _has(options, "--resources", "--res"):
            words += ["--resources", "gpu=1"]
    if not _has(options, "--snakefile", "-s") and not _is_beside():
        words += ["--snakefile", str(SNAKEFILE)]
    words += [*options]
    settings = [*config_words(job, flow)]
    return [*words, "--config", *settings] if settings else words


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


def _is_beside() -> bool:
    """Whether Snakemake finds the workflow in the working folder by itself."""
    return Path("Snakefile").exists() and Path("Snakefile").samefile(SNAKEFILE)


def program(words: Sequence[str]) -> list[str]:
    """How to start Snakemake: the one of this Python, else the one on the path."""
    beside = Path(sys.executable).with_name(words[0])
    found = str(beside) if beside.exists() else shutil.which(words[0])
    return [found, *words[1:]] if found else [sys.executable, "-m", *words]


# --- of a run that is there ----------------------------------------------------------------------


def started_in(run: Path, config: Config) -> Path:
    """The folder that a run was started in: the one that holds outputs/EXP_NAME.

    Raises:
        ConfigError: the run's folder does not lie where its plan says.
    """
    # outputs/ may be a link to another disk: first the path as it was typed.
    for path in (Path(os.path.abspath(run)), run.resolve()):
        folder = path.parent.parent
        if (folder / config.run_dir).resolve() == run.resolve():
            return folder
    raise ConfigError(
        f"{run}: its plan is of {config.run_dir}; the run's folder was renamed. Name it as before, "
        "or give its --configfile with the new exp_name"
    )


def command_again(
    run: Path | None, configfiles: Sequence[str], assignments: Sequence[str], config: Config
) -> str:
    """What to type to run a configuration: that of a run's folder, or one that was typed."""
    words = ["snakemake", "--cores", "1", "--resources", "gpu=1"]
    if run is not None:
        folder = started_in(run, config)
        there = "" if folder == Path.cwd() else f"cd {shlex.quote(str(folder))} && "
        return f"{there}{shlex.join(words)} {config_arguments(config)}".rstrip()
    if configfiles:
        words += ["--configfile", *configfiles]
    if assignments:
        words += ["--config", *assignments]
    return shlex.join(words)
