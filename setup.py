"""Puts the workflow into the wheel: what lies beside cdm/ in a checkout lies in cdm/_workflow/.

All else that setuptools has to know is in pyproject.toml.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

WORKFLOW = (
    *("Snakefile", "rules/*.smk", "rules/captions/*.rst", "scripts/*.py", "envs/*.yaml"),
    "config/*.yaml",
)
PROFILES = "profiles/*/config.yaml"


class BuildWithWorkflow(build_py):
    """Copies the workflow's files along with the package's. `pip install -e` finds them as is."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        here = Path(__file__).parent
        for path in sorted(path for form in (*WORKFLOW, PROFILES) for path in here.glob(form)):
            target = Path(self.build_lib, "cdm/_workflow", path.relative_to(here))
            self.mkpath(str(target.parent))
            self.copy_file(str(path), str(target))


setup(cmdclass={"build_py": BuildWithWorkflow})
