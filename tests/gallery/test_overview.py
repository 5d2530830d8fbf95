"""README's picture is made of the gallery's own drawings."""

import importlib.util

import numpy as np
import pytest
from galleries import make_item, need_browser, write_page
from helpers import REPO
from PIL import Image

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("browser")]


def overview():
    """gallery/overview.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("overview", REPO / "gallery/overview.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_has_truth_and_map_of_three_joints(tmp_path):
    need_browser()
    module = overview()
    page = write_page(tmp_path / "page.html", [make_item(i) for i in range(3)])
    module.main(str(page), "HUMANISE/1/0", str(tmp_path / "overview.png"))
    pixels = np.asarray(Image.open(tmp_path / "overview.png").convert("RGB"))
    height, width, _ = pixels.shape
    assert width > 3 * module.WIDTH and height > 2 * module.HEIGHT
    # Below the caption, six drawings, and no two are alike.
    cells = [
        pixels[height - (2 - row) * module.HEIGHT :, column * module.WIDTH :][:250, :380]
        for row in range(2)
        for column in range(3)
    ]
    for number, cell in enumerate(cells):
        assert len(np.unique(cell.reshape(-1, 3), axis=0)) > 20
        assert not any(np.array_equal(cell, other) for other in cells[:number])


def test_an_item_that_the_page_lacks_ends_with_its_name(tmp_path):
    need_browser()
    page = write_page(tmp_path / "page.html", [make_item(0)])
    with pytest.raises(SystemExit, match="no item HUMANISE/9/0"):
        overview().main(str(page), "HUMANISE/9/0", str(tmp_path / "overview.png"))
