"""The options of all commands of `cdm`; `cdm.__main__` has what each does."""

import argparse
from collections.abc import Callable
from pathlib import Path

from cdm import __version__
from cdm.commands.init import profiles

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


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="cdm",
        description="Look after runs of the contact-map workflow.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cdm {__version__}")
    parser.add_argument(
        "--print-completion", action=_PrintCompletion, metavar="SHELL",
        help="print the completion of all commands for bash, zsh, tcsh or fish",
    )  # fmt: skip
    parser.set_defaults(command=None)

    # Commands that look after a run.
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def add(*arguments, **options) -> argparse.ArgumentParser:
        return _add_command(commands, *arguments, **options)

    status = add(
        "status",
        "Tell how far a run is. From files alone, so that it also sees jobs of other machines; "
        "exit status 1 if a chunk failed.",
    )
    status.add_argument("--watch", action="store_true", help="show it again every two seconds")
    _add_verify(add)
    _add_estimate(add)
    viewing = add(
        "view",
        "Look at the maps in a browser, also while a run goes on. Serves a page on this machine's "
        "loopback address alone, until Ctrl-C.",
        run="folder of a run, outputs/EXP_NAME, or its contact_maps.zarr",
    )
    viewing.add_argument(
        "--port", type=int, default=0, metavar="N", help="to listen at (default: any that is free)"
    )
    cleaning = add(
        "clean",
        "List what a run no longer needs. Chunks that no plan refers to, and what killed jobs "
        "left; nothing that a running job may be writing.",
    )
    cleaning.add_argument("--yes", action="store_true", help="remove what is listed")
    add(
        "why",
        "Tell which chunks would run now, and why. With a RUN folder, under the settings of its "
        "last plan; give --configfile or --config to see what changed settings would do.",
    )

    # Commands that begin one.
    _add_init(commands)
    _add_those_of_afford_motion(commands, add)
    return parser


def _add_verify(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The command that checks archives."""
    verify = add(
        "verify",
        "Check an archive. Structure, counts against the plan, and the sha256 of every file.",
        run="contact_maps.zarr, the folder of its run, or the store of one chunk",
    )
    verify.add_argument("--deep", action="store_true", help="also read every map and look at it")
    verify.add_argument(
        "--resample", type=int, default=0, metavar="N",
        help="generate N samples again and compare; needs checkpoint, data and torch",
    )  # fmt: skip


def _add_estimate(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The command that tells what a run will cost."""
    estimate = add(
        "estimate",
        "Try a chunk job out on this machine. Prints how long the whole run takes, GPU-hours, and "
        "the archive's size.",
    )
    estimate.add_argument(
        "--cores", type=int, metavar="N", help="as given to snakemake (default: all there are)"
    )
    estimate.add_argument(
        "--gpus", type=int, default=1, metavar="N",
        help="as given to snakemake with --resources gpu=N (default 1)",
    )  # fmt: skip
    estimate.add_argument(
        "--minutes-per-chunk", type=float, metavar="M",
        help="also suggest a chunk_size for jobs of this length",
    )  # fmt: skip


class _PrintCompletion(argparse.Action):
    """Print what the shell reads to complete commands, options and paths, and exit."""

    def __call__(self, parser, namespace, shell, option_string=None):
        import shtab

        if shell not in shtab.SUPPORTED_SHELLS:
            parser.error(f"--print-completion: one of {', '.join(shtab.SUPPORTED_SHELLS)}")
        [commands] = [found for found in parser._actions if isinstance(found.choices, dict)]
        for command in commands.choices.values():
            for action in command._actions:
                if action.type is Path or action.dest == "configfile":
                    action.complete = shtab.FILE
        print(shtab.complete(parser, shell), flush=True)
        parser.exit()


def _add_init(commands) -> None:
    """The command of those who begin in an empty folder."""
    init = commands.add_parser(
        "init",
        help="write a configuration file to begin with",
        description="Write a configuration file with every key as a comment, or the profile of a "
        "cluster to edit. It replaces no file.",
    )
    init.add_argument(
        "file", nargs="?", type=Path, metavar="FILE", help="the file to write (mine.yaml)"
    )
    init.add_argument(
        "--profile", choices=profiles(),
        help="write profiles/NAME/config.yaml for this kind of cluster",
    )  # fmt: skip
    init.set_defaults(command="init", run=None)


def _add_those_of_afford_motion(commands, add: Callable) -> None:
    """The commands for those who have afford-motion's folders.

    Args:
        commands, add: as in `build_parser`.
    """
    checking = add(
        "check-stage2",
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
    run.set_defaults(command="run", run=None)


def _add_command(
    commands,
    name: str,
    meaning: str,
    run: str = "folder of a run, outputs/EXP_NAME",
) -> argparse.ArgumentParser:
    """A command with the options that all commands share.

    Args:
        commands: what `ArgumentParser.add_subparsers` returned.
        name: as it is typed.
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
    command.set_defaults(command=name)
    return command
