"""The commands beside Snakemake: `python -m cdm COMMAND`, or `cdm COMMAND`."""

import argparse
import contextlib
import io
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cdm.commands.config_files import read_config
from cdm.commands.snakemake_line import command_again, started_in
from cdm.config import Config
from cdm.errors import CDMError, ConfigError, printable
from cdm.files import expand_path
from cdm.run.plan import Plan
from cdm.run.plan_files import read_plan
from cdm.run.planning import make_plan

OK, FOUND, REFUSED = 0, 1, 2
WATCH_EVERY_S = 2.0
EPILOG = """\
A run is named by its folder (outputs/EXP_NAME), or by the --configfile and --config that snakemake
is given; without either, it is that of the built-in demo.

exit status: 0 all is well; 1 something is wrong with what was looked at (a failed chunk, a damaged
archive, maps that differ); 2 the command could not be carried out.
"""
RUN_MEANING = """\
Print the snakemake command for what was typed to afford-motion's scripts, and start it. Keys are
afford-motion's (task.dataset.sigma=0.8 model.arch=PointMamba gpu=0) or ours
(sampling.batch_size=16). What stands behind -- goes to snakemake as it is."""
RUN_EPILOG = """\
examples:
  cdm run exp_dir=outputs/my_exp task.dataset.sigma=0.8 gpu=0
  cdm run test.py exp_dir=outputs/my_exp task=text_to_motion_contact_gen -- -n
  cdm run export_pred_contact exp_dir=outputs/my_exp
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a locale may be plain ASCII
            stream.reconfigure(errors="backslashreplace")
    args = build_parser().parse_args(arguments)
    try:
        if args.run is not None:
            args.run = Path(expand_path(str(args.run), "RUN"))
        return args.command(args)
    except CDMError as error:
        tell(f"error: {error}")
        return REFUSED
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `cdm status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as error:  # a name that is too long, a folder that may not be entered
        where = f"{error.filename}: " if error.filename else ""
        tell(f"error: {where}{error.strerror or error}; look at that path, and type it again")
        return REFUSED


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="cdm",
        description="Look after runs of the contact-map workflow.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(*arguments, **options) -> argparse.ArgumentParser:
        return _add_command(commands, *arguments, **options)

    status = add(
        "status",
        run_status,
        "Tell how far a run is. From files alone, so that it also sees jobs of other machines; "
        "exit status 1 if a chunk failed.",
    )
    status.add_argument("--watch", action="store_true", help="show it again every two seconds")
    verify = add(
        "verify",
        run_verify,
        "Check an archive. Structure, counts against the plan, and the sha256 of every file.",
        run="contact_maps.zarr, the folder of its run, or the store of one chunk",
    )
    verify.add_argument("--deep", action="store_true", help="also read every map and look at it")
    verify.add_argument(
        "--resample", type=int, default=0, metavar="N",
        help="generate N samples again and compare; needs checkpoint, data and torch",
    )  # fmt: skip
    estimate = add(
        "estimate",
        run_estimate,
        "Time two real batches on this device. Prints GPU-hours, the archive's size, and a "
        "chunk_size.",
    )
    estimate.add_argument(
        "--minutes-per-chunk", type=float, default=10.0, metavar="M",
        help="suggest a chunk_size for jobs of this length (default 10)",
    )  # fmt: skip
    cleaning = add(
        "clean",
        run_clean,
        "List what a run no longer needs. Chunks that no plan refers to, and what killed jobs "
        "left; nothing that a running job may be writing.",
    )
    cleaning.add_argument("--yes", action="store_true", help="remove what is listed")
    add(
        "why",
        run_why,
        "Tell which chunks would run now, and why. With a RUN folder, under the settings of its "
        "last plan; give --configfile or --config to see what changed settings would do.",
    )
    _add_those_of_afford_motion(commands, add)
    return parser


def _add_those_of_afford_motion(commands, add: Callable) -> None:
    """The commands for those who have afford-motion's folders.

    Args:
        commands, add: as in `build_parser`.
    """
    checking = add(
        "check-stage2",
        run_check_stage2,
        "Look for the maps that stage 2 will read. How many items of a split have one, how many "
        "would silently be trained on ground truth, and which maps no item asks for; exit status 1 "
        "if any. With --configfile or --config, maps must have the joints of that configuration.",
        run="stage 2's data folder",
    )
    checking.add_argument(
        "--split", required=True, choices=("train", "all", "val", "test"),
        help="of which stage 2 takes the items",
    )  # fmt: skip
    checking.add_argument(
        "--sets", nargs="+", metavar="SET", help="to look at, such as HUMANISE or H3D"
    )
    checking.add_argument(
        "--contact-folder", type=Path, metavar="DIR",
        help="what stage 2 gets as contact_folder; needed for --split test",
    )  # fmt: skip
    checking.add_argument("--deep", action="store_true", help="also read every map")
    add(
        "config",
        run_config,
        "Print an experiment's configuration in our keys. Each value with its place, then the keys "
        "without a meaning here; exit status 1 if it cannot be sampled as it was trained.",
        run="experiment folder, its log, or a composed configuration of afford-motion",
    )
    run = commands.add_parser(
        "run",
        help="start the job that was typed to afford-motion's scripts",
        description=RUN_MEANING,
        epilog=RUN_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("words", nargs=argparse.REMAINDER, metavar="WORD", help="key=value, or a rule")
    run.set_defaults(command=run_run, run=None)


def _add_command(
    commands,
    name: str,
    function: Callable[[argparse.Namespace], int],
    meaning: str,
    run: str = "folder of a run, outputs/EXP_NAME",
) -> argparse.ArgumentParser:
    """A command with the options that all commands share.

    Args:
        commands: what `ArgumentParser.add_subparsers` returned.
        name: as it is typed.
        function: carries the command out, and returns the exit status.
        meaning: its help; the first sentence stands in the list of commands.
        run: help of the positional argument.
    """
    command = commands.add_parser(
        name,
        help=meaning[0].lower() + meaning[1:].split(".")[0],
        description=meaning,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    metavars = {"verify": "ARCHIVE", "check-stage2": "DATA_DIR", "config": "EXP_DIR"}
    metavar = metavars.get(name, "RUN")
    command.add_argument("run", nargs="?", type=Path, metavar=metavar, help=run)
    command.add_argument(
        "--configfile", "--configfiles", nargs="+", default=[], metavar="FILE",
        help="as given to snakemake",
    )  # fmt: skip
    command.add_argument(
        "--config", nargs="+", default=[], metavar="KEY=VALUE", help="as given to snakemake"
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(command=function)
    return command


# --- commands ------------------------------------------------------------------------------------


def run_status(args: argparse.Namespace) -> int:
    """Print how far a run is; with --watch again and again."""
    from cdm.commands.status import describe_status, read_status

    while True:
        plan, run = planned(args)
        status = read_status(plan, run)
        columns = shutil.get_terminal_size().columns
        if args.watch and not args.json:
            print("\033[H\033[2J", end="")  # clears the screen
        show(args, status.as_dict(), describe_status(status, columns, sys.stdout.encoding))
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


def run_estimate(args: argparse.Namespace) -> int:
    """Time two batches, and tell what a whole run will take."""
    from cdm.commands.estimate import describe_estimate, estimate  # torch

    with in_working_directory(args) as config:
        result = estimate(*make_plan(config), args.minutes_per_chunk, log=tell)
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


def run_run(args: argparse.Namespace) -> int:
    """Print the snakemake command for what was typed, and become it."""
    from cdm.commands import snakemake_line
    from cdm.commands.old_words import read_words

    end = args.words.index("--") if "--" in args.words else len(args.words)
    job = read_words(args.words[:end], snakemake_line.known_rules())
    words = snakemake_line.snakemake_words(job, args.words[end + 1 :])
    if job.left_out:
        tell(f"left out, because it changes nothing here: {', '.join(job.left_out)}")
    print(printable(shlex.join(words), sys.stdout.encoding), flush=True)
    program = snakemake_line.program(words)
    os.execv(program[0], program)


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


def show(args: argparse.Namespace, content: Any, text: str) -> None:
    """Print a result as text, or as JSON where that was asked for.

    Captions and file names in it may hold what a terminal obeys, or what the locale's encoding
    cannot express. Both are printed escaped.
    """
    text = json.dumps(content, indent=1, ensure_ascii=False) if args.json else text.rstrip()
    print(printable(text, sys.stdout.encoding), flush=True)


if __name__ == "__main__":
    sys.exit(main())
