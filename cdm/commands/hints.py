"""What a run says at its end (no torch)."""

from pathlib import Path

from cdm.run.plan import Plan


def farewell(plan: Plan) -> str:
    """How to look at the maps; empty while the archive of this plan is not there."""
    if not Path(plan.archive_record).exists():
        return ""
    return (
        f"\nThe maps are in {plan.archive}. To look into them:\n\n"
        "  from cdm.archive import ContactMaps\n"
        f'  maps = ContactMaps("{plan.archive}")\n'
        "  print(maps.keys[0], maps.distance(*maps.keys[0]).shape)\n"
    )


def advice(plan: Plan) -> str:
    """How to go on after a failure, and where to read what failed."""
    done = sum(Path(record).exists() for record in plan.chunk_records())
    return (
        f"\n{done} of {len(plan.chunks)} chunks are finished and stay finished. Remove the cause "
        "above, then type the same command again to go on.\n"
        f"To see how far the run is and what failed: cdm status {plan.config.run_dir}"
    )


def page_written(page: Path) -> str:
    """Where the page of `snakemake report` is."""
    size = page.stat().st_size / 1e6
    return (
        f"\nThe page is one file of {size:.1f} MB, which opens in any browser without a network:\n"
        f"{page.absolute()}"
    )
