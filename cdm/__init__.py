"""Samples contact diffusion models over whole datasets; a wing for each part of a run."""

from pathlib import Path

__version__ = "0.1.0"

# The folder of Snakefile, rules/, scripts/, envs/, config/ and profiles/. In a checkout they lie
# beside this package, and a wheel carries them inside it (setup.py).
_INSTALLED = Path(__file__).with_name("_workflow")
WORKFLOW = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[1]
# What a workflow that imports this one as a module names: `module x: snakefile: cdm.SNAKEFILE`.
SNAKEFILE = str(WORKFLOW / "Snakefile")
