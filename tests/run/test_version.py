"""Which version is at work: of a checkout with its commit, of an installed package without."""

import shutil
import subprocess

import pytest

import cdm
from cdm.run.version import version_text, workflow_version


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package in a folder of its own."""
    monkeypatch.setattr(cdm, "__file__", str(tmp_path / "lib/cdm/__init__.py"))
    (tmp_path / "lib/cdm").mkdir(parents=True)
    (tmp_path / "lib/cdm/__init__.py").write_text("")
    workflow_version.cache_clear()
    yield tmp_path
    workflow_version.cache_clear()


def commit_all(folder):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(folder)]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], check=True)
    done = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return done.stdout.strip()


needs_git = pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")


@needs_git
def test_a_checkout_tells_its_commit_and_whether_files_differ(package):
    commit = commit_all(package / "lib")
    assert workflow_version()["commit"] == commit
    index = (package / "lib/.git/index").read_bytes()
    (package / "lib/cdm/__init__.py").write_text("changed")
    workflow_version.cache_clear()
    assert workflow_version()["commit"] == f"{commit}-dirty"
    assert (package / "lib/.git/index").read_bytes() == index  # looking changes nothing


@needs_git
def test_an_installed_package_does_not_take_the_commit_of_a_folder_around_it(package):
    commit_all(package)
    assert workflow_version()["commit"] is None


def test_without_git_the_commit_is_not_known(package, monkeypatch):
    (package / "lib/.git").mkdir()
    monkeypatch.setenv("PATH", str(package))
    assert workflow_version() == {
        "name": "contact-map-diffusion",
        "version": cdm.__version__,
        "commit": None,
    }


@pytest.mark.parametrize(
    ("commit", "text"),
    [
        (None, "1.2"),
        ("0123456789abcdef", "1.2 (0123456)"),
        ("0123456789-dirty", "1.2 (0123456-dirty)"),
    ],
)
def test_a_version_in_words(commit, text):
    assert version_text({"version": "1.2", "commit": commit}) == text
