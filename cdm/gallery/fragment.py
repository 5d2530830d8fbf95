"""The gallery as a part of an HTML page: data, style, markup and script, and no network (no torch).

Captions and names come from elsewhere. They are in the page only as JSON inside a script element
of type application/json, where `<`, `>` and `&` are written as \\u003c, \\u003e and \\u0026; so no
text can end that element. The script puts them into the page as text, never as markup.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cdm.gallery.items import GalleryItem, joint_label
from cdm.gallery.packing import describe_item, pack_all

PAGE = Path(__file__).parent / "page"  # what gallery/ builds, and the style
MOST_BYTES = 11_000_000  # of all items' numbers; with the script a page stays below 12 MB
_FOR_SCRIPT = str.maketrans({"<": r"\u003c", ">": r"\u003e", "&": r"\u0026"})


def gallery_fragment(
    items: Sequence[GalleryItem], joints: Sequence[str], sigma: float, up: int
) -> Markup:
    """The gallery of some items, with everything that it needs in itself.

    Args:
        joints: the maps' columns: numbers of SMPL joints, or "farthest".
        sigma: width of closeness, metres.
        up: axis that points up.
    """
    packed = pack_all(items, sigma, up, MOST_BYTES)
    content = gallery_head(joints, sigma) | {
        "items": [
            describe_item(item) | {"map": map} for item, map in zip(items, packed, strict=True)
        ]
    }
    return fragment_of(content)


def gallery_head(joints: Sequence[str], sigma: float) -> dict[str, Any]:
    """What the page knows before any item: the joints' names, and the width of closeness."""
    return {"joints": [joint_label(joint) for joint in joints], "sigma": sigma}


def fragment_of(content: Mapping[str, Any]) -> Markup:
    """The section with this content: that of `gallery_fragment`, or where to ask for it."""
    return Markup(
        '<section id="gallery" aria-label="Maps">\n'
        f"<style>{_file('gallery.css')}</style>\n"
        "<noscript>The maps are drawn by a script. Allow scripts for this page to see them; it "
        "loads nothing from elsewhere.</noscript>\n"
        f'<script type="application/json" id="gallery-data">{script_json(content)}</script>\n'
        f"<script>{_file('gallery.js')}</script>\n"
        "</section>"
    )


def script_json(content: Any) -> str:
    """JSON that stands inside a script element: pure ASCII, without `<`, `>` and `&`."""
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.translate(_FOR_SCRIPT)


def script_hash() -> str:
    """The script's hash for a Content-Security-Policy: 'sha256-...'."""
    digest = hashlib.sha256(_file("gallery.js").encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


@cache
def _file(name: str) -> str:
    return (PAGE / name).read_text("utf-8").strip()
