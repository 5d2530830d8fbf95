"""What children of the fork server find imported: Snakemake, and what our rules import."""

import jinja2  # noqa: F401
import requests  # noqa: F401
import smart_open  # noqa: F401
import snakemake.api
import snakemake.assets
import snakemake.cli
import snakemake.profiles
import snakemake.report.html_reporter
import snakemake.workflow  # noqa: F401

import cdm.archive
import cdm.commands.live
import cdm.commands.pace
import cdm.evaluation.evaluate
import cdm.evaluation.study
import cdm.run.merge
import cdm.run.planning  # noqa: F401
