"""Clients of servers: what is missing is said with what to type."""

import importlib
import sys

import pytest

from cdm.errors import ConfigError
from cdm.files.servers import RemoteState, open_client, quoted


@pytest.mark.parametrize(("url", "module"), [("https://host/a", "aiohttp"), ("s3://b", "s3fs")])
def test_a_missing_library_is_told_with_what_to_install(url, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    loaded = importlib.import_module("fsspec.registry")._registry  # found by an earlier test
    monkeypatch.delitem(loaded, "s3", raising=False)
    with pytest.raises(
        ConfigError, match=r"pip install 'contact-map-diffusion\[remote\]'"
    ) as caught:
        open_client(url)
    assert str(caught.value).startswith(f"{url}: cannot be read (") and module in str(caught.value)


def test_an_unknown_protocol_is_told():
    with pytest.raises(ConfigError, match="'nosuch' cannot be read"):
        open_client("nosuch://host/a")


def test_a_protocol_that_needs_more_than_a_url_is_told():
    with pytest.raises(
        ConfigError, match=r"'ftp' cannot be read .it needs host.*expected a folder"
    ):
        open_client("ftp://host/a")


def test_a_url_is_sent_escaped_once():
    assert quoted("https://host/a b/ä%20c") == "https://host/a%20b/%C3%A4%20c"
    assert quoted("https://host:80") == "https://host:80"


def test_older_records_and_records_of_files_on_disk_never_agree():
    now = RemoteState("https://host/a", 5, '"x"', "")
    assert not now.agrees_with({"size": 5, "mtime_ns": 1, "sha256": "y"})
