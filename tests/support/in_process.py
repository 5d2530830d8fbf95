"""A run made in this process, which saves a process with torch for each chunk.

What is made has the same bits as what Snakemake's jobs make; tests of whole runs hold that.
"""

import contextlib
from collections.abc import Iterable
from pathlib import Path

from cdm.commands.config_files import read_config
from cdm.run.generate import generate_chunk
from cdm.run.merge import merge
from cdm.run.plan import Plan
from cdm.run.plan_files import save_plan
from cdm.run.planning import make_plan


def make_chunks(folder: Path, numbers: Iterable[int] | None = None) -> Plan:
    """Generate the chunks that are not there, or those of some numbers, of `folder`/mine.yaml."""
    with contextlib.chdir(folder):
        plan, samples = make_plan(read_config(["mine.yaml"], []))
        save_plan(plan, samples)
        for chunk in plan.chunks if numbers is None else [plan.chunks[n] for n in numbers]:
            if not Path(plan.chunk_record(chunk)).exists():
                generate_chunk(plan, chunk, lambda line: None)
    return plan


def make_archive(folder: Path) -> Plan:
    """Generate the chunks that are not there, and merge."""
    plan = make_chunks(folder)
    with contextlib.chdir(folder):
        merge(plan, lambda line: None)
    return plan
