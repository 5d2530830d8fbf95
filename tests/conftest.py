"""Where the reference numbers are, and what every test shares."""

import json
import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items):
    """Skip what is marked `gpu` where there is none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def parity() -> Path:
    """Folder of the golden numbers of the reference implementation.

    `CDM_PARITY_DIR` names another set of the same form.
    """
    folder = Path(os.environ.get("CDM_PARITY_DIR", REPO / "../shared/parity")).resolve()
    if not (folder / "index.json").exists():
        pytest.skip(f"no reference numbers: {folder}/index.json is missing (set CDM_PARITY_DIR)")
    return folder


@pytest.fixture(scope="session")
def parity_index(parity) -> dict:
    """`index.json` of the parity set: shapes, options and tolerances of every case."""
    return json.loads((parity / "index.json").read_text())
