"""The gallery inside a page: one part, whatever the captions are."""

import json
from html.parser import HTMLParser

from galleries import EVIL, JOINTS, SIGMA, make_item
from helpers import REPO

from cdm.gallery.fragment import PAGE, fragment_of, gallery_fragment, script_hash, script_json


class Scripts(HTMLParser):
    """Tags of a page, and what its script elements hold."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.scripts = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        if self.lasttag == "script":
            self.scripts.append(data)


def test_no_caption_ends_the_data_or_becomes_markup():
    item = make_item(caption=EVIL, set=EVIL, index=EVIL)
    found = Scripts(gallery_fragment([item], JOINTS, SIGMA, 2))
    assert found.tags == ["section", "style", "noscript", "script", "script"]
    told = json.loads(found.scripts[0])["items"][0]
    assert told["caption"].startswith("</script><script>alert(1)</script><img src=x")
    assert told["caption"].endswith("\"'&") and "\u2028" not in told["caption"]


def test_json_in_a_script_is_ascii_without_what_a_parser_looks_for():
    text = script_json({"a": "<!--<script>\u2028\u2029\ud800&é"})
    assert text.isascii() and not set(text) & set("<>&")
    assert json.loads(text) == {"a": "<!--<script>\u2028\u2029\ud800&é"}


def test_joints_have_names_that_people_understand():
    content = Scripts(gallery_fragment([make_item()], JOINTS, SIGMA, 2)).scripts[0]
    assert json.loads(content)["joints"] == [
        *("pelvis", "left foot", "right foot", "neck", "left wrist", "right wrist")
    ]


def test_the_page_loads_nothing():
    found = fragment_of({"items": []})
    assert not {"link", "img", "iframe", "object"} & set(Scripts(found).tags)
    for name in ("gallery.js", "gallery.css"):
        text = (PAGE / name).read_text("utf-8")
        assert "</" + "script" not in text and "</" + "style" not in text
        assert "@import" not in text and "url(" not in text and "importScripts" not in text
    assert script_hash().startswith("'sha256-")


def test_the_licence_of_three_lies_beside_the_script_and_the_lock_file_names_no_host():
    assert "MIT" in (PAGE / "LICENSE-three.txt").read_text()
    assert "LICENSE-three.txt" in (PAGE / "gallery.js").read_text("utf-8")[:200]
    lock = json.loads((REPO / "gallery/package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert all("resolved" not in entry and entry["integrity"] for entry in packages.values())
    wanted = json.loads((REPO / "gallery/package.json").read_text())["devDependencies"]
    for name, version in wanted.items():
        assert packages[f"node_modules/{name}"]["version"] == version
