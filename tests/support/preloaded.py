"""What children of the fork server find ready: Snakemake, our imports, our defaults."""

import archives  # noqa: F401
import jinja2  # noqa: F401
import pytest  # noqa: F401
import requests  # noqa: F401
import smart_open  # noqa: F401
import snakemake.api
import snakemake.assets
import snakemake.cli
import snakemake.profiles
import snakemake.report.html_reporter
import snakemake.workflow

import cdm.archive
import cdm.commands.live
import cdm.commands.pace
import cdm.evaluation.evaluate
import cdm.evaluation.study
import cdm.run.merge
import cdm.run.planning  # noqa: F401
from cdm.commands.config_files import read_config

snakemake.cli.get_argument_parser()  # looks for plugins in all that is installed
read_config([], [])  # parses our defaults and their schema
