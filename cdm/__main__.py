"""The commands beside Snakemake: `python -m cdm COMMAND`, or `cdm COMMAND`."""

import argparse
import contextlib
import io
import json
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cdm import WORKFLOW
from cdm.commands.config_files import read_config
from cdm.commands.options import build_parser
from cdm.commands.snakemake_line import command_again, started_in
from cdm.commands.typed_options import check_profile, check_typed_once
from cdm.config import Config
from cdm.errors import CDMError, ConfigError, printable
from cdm.files import expand_path
from cdm.run.plan import Plan
from cdm.run.plan_files import read_plan
from cdm.run.planning import make_plan

OK, FOUND, REFUSED = 0, 1, 2
WATCH_EVERY_S = 2.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    # Output that is closed, or that has no sign for a letter, ends nothing.
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started this: `cdm status >&-`
            setattr(sys, name, open(os.devnull, "w"))
        elif isinstance(stream, io.TextIOWrapper):  # a locale may be plain ASCII
            stream.reconfigure(errors="backslashreplace")

    # The command. Errors of these kinds are told in a line, others are faults of this program.
    try:
        parser = build_parser()
        args = _parsed(parser, sys.argv[1:] if arguments is None else arguments)
        if args.command is None:
            parser.print_help()
            return OK
        if args.command != "run":  # its words become Snakemake's
            check_typed_once(sys.argv[1:] if arguments is None else arguments)
        if args.run is not None:
            args.run = Path(expand_path(str(args.run), "RUN"))
        return COMMANDS[args.command](args)
    except CDMError as error:
        tell(f"error: {error}")
        return REFUSED
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `cdm status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as error:  # a name that is too long, a folder that may not be entered
        where = error.filename
        if where is None:
            gone = isinstance(error, FileNotFoundError)  # os.getcwd() names no file
            where = "the working folder" if gone else "the output"
        tell(
            f"error: {where}: {error.strerror or error}; look at that path, and type the same "
            "command again"
        )
        return REFUSED


def _parsed(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """The options. The words of `run` stay as they are: argparse would look for --config itself."""
    if arguments[:1] == ["run"] and arguments[1:2] not in (["-h"], ["--help"]):
        return argparse.Namespace(command="run", run=None, words=arguments[1:])
    return parser.parse_args(arguments)


# --- commands ------------------------------------------------------------------------------------


def run_status(args: argparse.Namespace) -> int:
    """Print how far a run is; with --watch again and again."""
    from cdm.commands.colour import paint_failures
    from cdm.commands.status import describe_status, read_status

    while True:
        plan, run = planned(args)
        status = read_status(plan, run)
        columns = shutil.get_terminal_size().columns
        if args.watch and not args.json:
            print("\033[H\033[2J", end="")  # clears the screen
        text = describe_status(status, columns, sys.stdout.encoding)
        show(args, status.as_dict(), text, paint_failures)
        finished = len(status.counts.done) == status.num_chunks and not status.counts.merging
        if not args.watch or finished:
            return FOUND if status.failed or status.damaged else OK
        time.sleep(WATCH_EVERY_S)


def run_verify(args: argparse.Namespace) -> int:
    """Check an archive, and generate samples again if that was asked for."""
    from cdm.commands.verify import describe_report, verify

    path = args.run or run_folder(args)
    report = verify(path, deep=args.deep, log=tell)
    if args.resample and report.problems:
        report.notes.append("no sample was generated again: see to the problems first")
    elif args.resample:
        from cdm.commands.resample import resample  # torch

        report.resampled = resample(report.archive, args.resample, log=tell)
        report.problems += report.resampled.problems
    show(args, report.as_dict(), describe_report(report))
    return FOUND if report.problems else OK


def run_view(args: argparse.Namespace) -> int:
    """Serve the maps of a run until Ctrl-C."""
    from cdm.commands.view import as_json, describe_server, map_server

    with map_server(args.run or run_folder(args), args.port) as server:
        # Also where a script started it in the background: shells have Ctrl-C ignored there.
        for ending in (signal.SIGINT, signal.SIGTERM):
            signal.signal(ending, signal.default_int_handler)
        show(args, as_json(server), describe_server(server))
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    return OK


def run_estimate(args: argparse.Namespace) -> int:
    """Try a chunk job out, and tell what a whole run will take."""
    from cdm.commands.estimate import describe_estimate, estimate

    with in_working_directory(args) as config:
        began = time.perf_counter()
        planned = make_plan(config)
        plan_s = time.perf_counter() - began
        result = estimate(
            *planned, tell, args.cores, args.gpus, args.minutes_per_chunk, plan_s=plan_s
        )
    show(args, asdict(result), describe_estimate(result))
    return OK


def run_clean(args: argparse.Namespace) -> int:
    """List, or remove, what a run no longer needs."""
    from cdm.commands.clean import clean, describe_leftovers, find_leftovers

    with in_working_directory(args) as config:
        # The last plan's chunks stay as well as those of the configuration as it is now.
        plans = [make_plan(config)[0]]
        if (plans[0].folder / "plan.json").exists():
            plans.append(read_plan(config.run_dir))
        leftovers, kept = find_leftovers(plans, config.run_dir)
        if args.yes:
            leftovers, written = clean(leftovers)
            kept += written
    content = {
        "removed": args.yes,
        "leftovers": [asdict(found) | {"path": str(found.path)} for found in leftovers],
        "kept": [asdict(found) | {"path": str(found.path)} for found in kept],
    }
    show(args, content, describe_leftovers(leftovers, kept, removed=args.yes))
    return OK


def run_why(args: argparse.Namespace) -> int:
    """Print which chunks would run, and why."""
    from cdm.commands.why import describe_why, explain

    with in_working_directory(args) as config:
        why = explain(*make_plan(config))
    command = command_again(args.run, args.configfile, args.config, config)
    content = asdict(why) | {"num_todo": why.num_todo, "command": command}
    show(args, content, describe_why(why, command))
    return OK


def run_check_stage2(args: argparse.Namespace) -> int:
    """Print what stage 2 will find in a data folder."""
    from cdm.commands.check_stage2 import check_stage_2, describe_maps

    told = bool(args.configfile or args.config)
    if args.run is not None:
        folder = json.dumps(str(args.run), ensure_ascii=False)
        args.config = [*args.config, f"dataset={{data_dir: {folder}}}"]
    elif not told:
        raise ConfigError("name stage 2's data folder: cdm check-stage2 DATA_DIR --split train")
    config = configured(args)
    joints = config.dataset.contact_dim if told else None
    maps = args.contact_folder
    if maps is not None:
        maps = Path(expand_path(str(maps), "--contact-folder"))
    data_dir = args.run or Path(config.data_dir)
    found = check_stage_2(data_dir, args.split, config, args.sets, maps, joints, args.deep)
    content = {"ok": all(each.ok for each in found), "sets": [each.as_dict() for each in found]}
    show(args, content, describe_maps(found, args.split == "test"))
    return OK if content["ok"] else FOUND


def run_config(args: argparse.Namespace) -> int:
    """Print an experiment's configuration in our keys."""
    from cdm.commands import show_config

    found = show_config.read_experiment(args.run, args.configfile, args.config)
    show(args, show_config.as_json(found), show_config.describe_config(found))
    return FOUND if show_config.told_wrong(found) else OK


def run_init(args: argparse.Namespace) -> int:
    """Write a configuration file or a cluster's profile, and tell what to do with it."""
    from cdm.commands import init

    if args.file or not args.profile:
        path = args.file or Path(init.MINE)
        init.write_settings(path)
        print(
            f"{path}: written. As it is, the built-in demo runs; set exp_dir and dataset.data_dir "
            f"for yours.\ncheck it:  cdm run {path} -- -n\nrun it:    cdm run {path}"
        )
    if args.profile:
        path = init.write_profile(args.profile)
        print(
            f"{path}: written. Look at its lines marked <-.\n"
            f"use it:    cdm run {args.file or init.MINE} -- --workflow-profile {path.parent}"
        )
    return OK


def run_run(args: argparse.Namespace) -> int:
    """Print the snakemake command for what was typed, and become it."""
    from cdm.commands import snakemake_line
    from cdm.commands.old_words import read_words

    end = args.words.index("--") if "--" in args.words else len(args.words)
    job = read_words(args.words[:end], snakemake_line.known_rules())
    job.configfiles = snakemake_line.found_configfiles(job.configfiles)
    words = snakemake_line.snakemake_words(job, args.words[end + 1 :])
    if job.left_out:
        tell(f"left out, because it changes nothing here: {', '.join(job.left_out)}")
    check_typed_once(words)
    check_profile(words, WORKFLOW)
    print(printable(shlex.join(words), sys.stdout.encoding), flush=True)
    program = snakemake_line.program(words)
    os.execv(program[0], program)


COMMANDS = {
    "status": run_status,
    "verify": run_verify,
    "view": run_view,
    "estimate": run_estimate,
    "clean": run_clean,
    "why": run_why,
    "check-stage2": run_check_stage2,
    "config": run_config,
    "init": run_init,
    "run": run_run,
}


# --- what they share -----------------------------------------------------------------------------


def configured(args: argparse.Namespace) -> Config:
    """The configuration given on the command line."""
    return read_config(args.configfile, args.config)


def run_folder(args: argparse.Namespace) -> Path:
    """The folder of the run given by --configfile and --config, whatever became of its data."""
    return Path(read_config(args.configfile, args.config, strict=False).run_dir)


def planned(args: argparse.Namespace) -> tuple[Plan, Path]:
    """The plan that lies in the run's folder, and that folder."""
    run = args.run or run_folder(args)
    return read_plan(run), run


@contextlib.contextmanager
def in_working_directory(args: argparse.Namespace):
    """Work in the folder that the run was started in; gives the run's configuration.

    Relative paths in a configuration are relative to that folder.
    """
    if args.run is None:
        yield configured(args)
        return
    if args.configfile or args.config:
        raise ConfigError("give either the folder of a run or --configfile/--config, not both")
    config = read_plan(args.run).asked
    with contextlib.chdir(started_in(args.run, config)):
        yield config


def tell(line: str) -> None:
    """Print how far a command is, or why it ends, to stderr."""
    print(printable(line, sys.stderr.encoding), file=sys.stderr, flush=True)


def show(
    args: argparse.Namespace, content: Any, text: str, paint: Callable[[str], str] | None = None
) -> None:
    """Print a result as text, or as JSON where that was asked for.

    Captions and file names in it may hold what a terminal obeys, or what the locale's encoding
    cannot express. Both are printed escaped. Then `paint` may colour the text for a terminal.
    """
    from cdm.commands.colour import allows_colour

    text = json.dumps(content, indent=1, ensure_ascii=False) if args.json else text.rstrip()
    text = printable(text, sys.stdout.encoding)
    if paint and not args.json and allows_colour(sys.stdout):
        text = paint(text)
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
