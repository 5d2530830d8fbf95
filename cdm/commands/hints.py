"""What a run says at its end, and of its page (no torch).

`folder` is "" or that of --directory: what is told can be typed where the run was started.
"""

import os
import re
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

from cdm.config import Config
from cdm.errors import listed
from cdm.run.plan import Plan

# What a target leaves in the run's folder for people to open.
WRITTEN_BY = {
    "export_npz": "generated_contact_maps.npz",
    "export_pred_contact": "*/pred_contact",
    "export_ply": "ply",
    "evaluate": "report/metrics.txt",
}
MOST_EMBEDDED = 1_500_000  # bytes; in base64 they are 2 MB


def farewell(plan: Plan, targets: Collection[str] = (), folder: str = "") -> str:
    """How to look at the maps; empty while the archive of this plan is not there.

    Args:
        targets: that were asked for; where exports lie is told first.
    """
    if not Path(plan.archive_record).exists():
        return ""
    run = Path(plan.config.run_dir)
    patterns = [pattern for name, pattern in WRITTEN_BY.items() if name in targets]
    found = sorted(os.path.join(folder, path) for name in patterns for path in run.glob(name))
    asked = f"\nWhat you asked for is in {listed(found, 4, ', ')}." if found else ""
    archive = os.path.join(folder, plan.archive)
    return (
        f"{asked}\nThe maps are in {archive}. To look into them:\n\n"
        "  from cdm.archive import ContactMaps\n"
        f'  maps = ContactMaps("{archive}")\n'
        "  print(maps.keys[0], maps.distance(*maps.keys[0]).shape)\n"
    )


def trained(config: Config, folder: str = "") -> str:
    """How to sample the model that a training has finished."""
    checkpoints = os.path.join(folder, config.run_dir, "ckpt")
    return (
        f"\nThe model is in {checkpoints}. To sample it, leave exp_dir at null, and type "
        "the same command without the word train."
    )


def advice(plan: Plan, folder: str = "") -> str:
    """How to go on after a failure, and where to read what failed."""
    done = sum(Path(record).exists() for record in plan.chunk_records())
    if Path(plan.archive_record).exists():
        done = len(plan.chunks)  # some may have been removed after the merge
    return (
        f"\n{done} of {len(plan.chunks)} chunks are finished and stay finished. To go on, type the "
        "same command again; if an error stands above, remove its cause first.\n"
        f"To see how far the run is and what failed: cdm status "
        f"{shlex.quote(os.path.join(folder, plan.config.run_dir))}"
    )


def page_written(page: Path) -> str:
    """Where the page of `snakemake report` is."""
    size = page.stat().st_size / 1e6
    return (
        f"\nThe page is one file of {size:.1f} MB, which opens in any browser without a network:\n"
        f"{page.absolute()}"
    )


def embedding_advice(page: Path, words: Sequence[str]) -> str:
    """What to type where Snakemake's own report would show the page blank; else "".

    In a report of one HTML file, the page is the address of a frame, and Chrome shows no address
    above 2 MB.

    Args:
        page: of `snakemake report`.
        words: typed to Snakemake.
    """
    into_zip = any(word.endswith(".zip") for word in words)
    if into_zip or page.stat().st_size < MOST_EMBEDDED:
        return ""
    return (
        f"{page} is too large for Chrome to show it inside a report of one HTML file; "
        "type snakemake --report NAME.zip instead"
    )


def stale_page(plan: Plan, page: Path, evaluation: Path) -> str | None:
    """Why the page of `snakemake report` has to be written again although it is there, or None.

    Its other settings are in the name of the evaluation that it is made from. The page tells that
    name, because times of files are lost where a run is copied.
    """
    if not page.exists():
        return None
    with open(page, encoding="utf-8", errors="replace") as file:
        head = file.read(1000)
    told = re.search('<meta name="report-items" content="([0-9]+)">', head)
    before, now = int(told[1]) if told else None, plan.config.report.items
    if before != now:
        return f"report.items is {now}, and was {before} when {page} was written"
    if f'<meta name="report-evaluation" content="{evaluation.name}">' in head:
        return None
    return f"{page}: is of another evaluation than {evaluation.name}"
