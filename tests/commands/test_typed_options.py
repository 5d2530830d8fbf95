"""Settings that Snakemake would leave out without a word are refused, with what to type."""

import shlex

import pytest
from helpers import REPO

from cdm.commands.typed_options import (
    check_profile,
    check_settings_of_profiles,
    check_typed_once,
)
from cdm.errors import ConfigError


@pytest.mark.parametrize(
    ("words", "once"),
    [
        ("--configfile a.yaml -n --configfile b.yaml", "--configfile a.yaml b.yaml"),
        ("--configfile=a.yaml --configfiles b.yaml c.yaml", "--configfile a.yaml b.yaml c.yaml"),
        ("--config seed=1 'dataset={sigma: 1}' -C seed=2", "--config seed=1 'dataset={sigma: 1}' "),
        ("-Cseed=1 --cores 2 --config trust=mine", "--config seed=1 trust=mine"),
    ],
)
def test_settings_of_which_only_the_last_would_count_are_refused(words, once):
    with pytest.raises(ConfigError, match="is there 2 times, and only the last") as caught:
        check_typed_once(shlex.split(words))
    assert once in str(caught.value)


def test_one_option_with_many_values_is_typed_once():
    words = "report --cores 2 --configfile a.yaml b.yaml --config seed=1 trust=mine --resources a=1"
    check_typed_once([*words.split(), "--resources", "b=2"])
    check_typed_once([])


@pytest.mark.parametrize(
    "words", [["--workflow-profile", "slrm"], ["-n", "--workflow-profile=slrm"]]
)
def test_a_profile_that_is_not_there_is_told_with_those_that_are(words):
    with pytest.raises(ConfigError, match=r"^--workflow-profile slrm: no such .*profiles/slurm"):
        check_profile(words, REPO)


def test_a_profile_is_found_where_snakemake_looks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("mine", "profiles/other"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("mine", "other", "slurm", "none", str(tmp_path / "mine")):
        check_profile(["--workflow-profile", name], REPO)
    check_profile(["--cores", "1"], REPO)


@pytest.fixture
def profiles(tmp_path, monkeypatch):
    """Profiles in the working folder; ours has neither configfile nor config."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SNAKEMAKE_PROFILE", raising=False)
    for name, text in {
        "file": "configfile: mine.yaml",
        "files": "configfiles: [mine.yaml, more.yaml]",
        "keys": "config: {exp_dir: my_exp, dataset: {phase: test}}",
        "list": "config: [exp_dir=my_exp]",
        "plain": "cores: 2",
        "no-yaml": "a: {",
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(text)
    (tmp_path / "files/more.yaml").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "lost"),
    [
        ("--profile file --configfile other.yaml", "profile file/config.yaml has configfile mine"),
        ("--workflow-profile=file --configfile other.yaml", "Type --configfile mine.yaml other.y"),
        ("--workflow-profile files --configfile mine.yaml", "has configfile files/more.yaml, "),
        ("--profile keys --config seed=3", "has config exp_dir=my_exp .*here what is typed. Move"),
        ("--profile list -Cseed=3", "profile list/config.yaml has config exp_dir=my_exp, which"),
        ("--profile keys -C exp_dir=a 'dataset={sigma: 1}'", "config .dataset={phase: test}., wh"),
        ("--profile keys --workflow-profile list", r"keys/config.yaml has config .*list/config"),
        ("--profile file --profile files --configfile files/more.yaml", "has configfile mine"),
    ],
)  # fmt: skip
def test_a_profiles_settings_beside_others_are_refused(profiles, words, lost):
    with pytest.raises(ConfigError, match=lost):
        check_settings_of_profiles(shlex.split(words), REPO)


@pytest.mark.parametrize(
    "words",
    [
        "--profile keys",
        "--profile keys --configfile other.yaml",
        "--profile file --config seed=3",
        "--profile file --configfile ./mine.yaml config/fast.yaml",
        "--profile list --config exp_dir=another seed=3",
        "--profile plain --config seed=3 --configfile other.yaml",
        "--profile no-yaml --config seed=3",  # Snakemake itself tells
        "--profile none --workflow-profile none --config seed=3",
        "--profile there-is-none --config seed=3",
        "--config seed=3",
    ],
)
def test_settings_that_all_count_are_let_through(profiles, words):
    check_settings_of_profiles(words.split(), REPO)


def test_a_profile_of_the_environment_counts(profiles, monkeypatch):
    monkeypatch.setenv("SNAKEMAKE_PROFILE", "keys")
    with pytest.raises(ConfigError, match=r"keys/config.yaml has config exp_dir"):
        check_settings_of_profiles(["--config", "seed=3"], REPO)
    monkeypatch.setenv("SNAKEMAKE_PROFILE", "plain")
    check_settings_of_profiles(["--config", "seed=3"], REPO)
