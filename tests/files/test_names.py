"""Names and paths from elsewhere stay inside the folder they are meant for."""

import pytest

from cdm.errors import ArchiveError, ConfigError, DataError
from cdm.files import expand_path, safe_name


@pytest.mark.parametrize("name", ["00012", "a b", "..a", "a..", "-x", "é"])
def test_the_name_of_one_file_is_returned_as_it_is(name):
    assert safe_name(name, "here") == name


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "/etc/passwd", "a/b", "a\nb", "a\0"])
def test_a_name_that_leads_elsewhere_is_refused_with_its_place(name):
    with pytest.raises(DataError, match=r"split\.txt, line 3: found the name"):
        safe_name(name, "split.txt, line 3")
    with pytest.raises(ArchiveError):
        safe_name(name, "here", ArchiveError)


def test_home_and_variables_are_replaced(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA", "scans")
    assert expand_path("~/a", "key") == f"{tmp_path}/a"
    assert expand_path("$DATA/${DATA}", "key") == "scans/scans"
    assert expand_path("plain/path", "key") == "plain/path"


@pytest.mark.parametrize("path", ["$NOT_SET/a", "${NOT_SET}", "~no-such-user/a", "a\nb"])
def test_what_cannot_be_replaced_is_refused_with_its_key(path):
    with pytest.raises(ConfigError, match=r"dataset\.data_dir: found"):
        expand_path(path, "dataset.data_dir")


def test_a_folder_whose_name_has_a_dollar_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "$odd").mkdir()
    assert expand_path("$odd", "key") == "$odd"
