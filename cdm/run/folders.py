"""The folders that a run writes to, looked at before anything is computed (no torch)."""

import os
from pathlib import Path

from cdm.errors import ArchiveError
from cdm.run.plan import CHUNKS, LOGS, plan_folder


def check_folders(run: str | Path) -> None:
    """Refuse a run whose folders cannot be what they should be (`check_folder`).

    Args:
        run: the run's folder; it need not be there.
    """
    run = Path(run)
    for path in (run.parent, run):
        check_folder(path)
    for name in (CHUNKS, LOGS.parent, LOGS, plan_folder("")):
        check_folder(run / name)


def check_notes(folder: Path = Path(".snakemake")) -> None:
    """Refuse a working folder in which Snakemake could not keep its notes, also for a dry run.

    Args:
        folder: of the notes; Snakemake makes it in the working folder.
    Raises:
        ArchiveError: as `check_folder`, or it may not be written to.
    """
    check_folder(folder)
    if not os.access(folder if folder.exists() else folder.parent, os.W_OK | os.X_OK):
        raise ArchiveError(
            f"{folder.absolute()}: you may not write there, and Snakemake keeps its notes there, "
            "also for -n. Run from a folder of your own (--directory FOLDER). Only to look at a "
            "run of somebody else: cdm status RUN, cdm why RUN, cdm verify RUN"
        )


def check_folder(path: Path) -> None:
    """Refuse what stands in the way of a folder; a folder that is not there is no fault.

    A folder of a run may be a link to another disk. If the disk is away, the link leads nowhere.
    Then all chunks would be computed again, and none could be written.

    Raises:
        ArchiveError: a file, or a link that leads nowhere, stands where the folder should; or the
            folder may not be read.
    """
    if not os.path.lexists(path):
        return
    if not os.path.exists(path):
        raise ArchiveError(
            f"{path}: a link to {os.readlink(path)}, which is not there, expected a folder. If a "
            "disk is away, bring it back: what lies on it is found again. Else remove the link. "
            "Then run the same command again"
        )
    if not os.path.isdir(path):
        raise ArchiveError(
            f"{path}: a file, expected a folder that is written to. Move the file away, or set "
            "exp_name or output_dir to another folder, and run the command again"
        )
    if not os.access(path, os.R_OK | os.X_OK):
        raise ArchiveError(
            f"{path}: you may not read this folder, so finished chunks in it would not be seen. "
            "Check its owner and mode, and run the same command again"
        )
