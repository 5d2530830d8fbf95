"""What README and docs/ say, held against what there is: commands, paths, keys, links."""

import argparse
import contextlib
import io
import itertools
import re
import shlex
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import yaml
from helpers import REPO

MINE = "mine.yaml"  # the reader's own file, which the pages show
OUTPUTS = "outputs/"  # what runs write
# What stands for something: RUN, FILE, N.
PLACEHOLDERS = {"RUN": "outputs/demo", "ARCHIVE": "outputs/demo", "N": "1", "M": "1"}
SOURCES = ("cdm", "config", "profiles", "rules", "scripts", "tests", "benchmarks", "pyproject.toml")
# Words with an underscore that other programs give a meaning to.
FOREIGN = {"open_zarr", "open-clip-torch"}


# --- the parts of a page --------------------------------------------------------------------------


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, content) of each fenced block; no language is ''."""
    return re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def spans(text: str) -> list[str]:
    """What stands between single backticks."""
    return re.findall(r"`([^`\n]+)`", prose(text))


def links(text: str) -> list[str]:
    """Targets of links and pictures."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(text))


def commands(text: str) -> list[str]:
    """Every command that a page shows, in blocks and between backticks, split at each &&."""
    lines = []
    for language, content in blocks(text):
        if language not in ("yaml", "python"):
            lines += content.replace("\\\n", " ").splitlines()
    lines = [line.removeprefix("$ ").split("  #")[0] for line in [*lines, *spans(text)]]
    parts = [part.strip() for line in lines for part in line.split("&&")]
    return [part for part in parts if part.split(" ")[0] in CHECKS and " " in part]


def anchors(text: str) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+?) *$", prose(text), re.MULTILINE)
    bare = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in bare}


# --- what there is --------------------------------------------------------------------------------


@cache
def tracked() -> frozenset[str]:
    """Every file of the repository, and every folder that holds one."""
    command = ["git", "-C", REPO, "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")
    paths = [Path(name) for name in files if name and (REPO / name).exists()]
    return frozenset(str(each) for path in paths for each in (path, *path.parents)) - {"."}


@cache
def rules() -> frozenset[str]:
    texts = [path.read_text() for path in [REPO / "Snakefile", *REPO.glob("rules/*.smk")]]
    return frozenset(re.findall(r"^ *rule (\w+):", "\n".join(texts), re.MULTILINE))


@cache
def words() -> frozenset[str]:
    """Every word of the sources."""
    wrong_on_purpose = "tests/test_docs.py"
    names = tracked() - {wrong_on_purpose}
    paths = [REPO / name for name in names if name.split("/")[0] in SOURCES]
    texts = [path.read_text(errors="ignore") for path in paths if path.is_file()]
    return frozenset(word for text in texts for word in re.findall(r"\w+", text))


@cache
def config() -> dict:
    return yaml.safe_load((REPO / "config/config.yaml").read_text())


@cache
def snakemake_parser() -> argparse.ArgumentParser:
    from snakemake.cli import get_argument_parser

    return get_argument_parser()


@cache
def options() -> frozenset[str]:
    """Options of cdm, of Snakemake, and of the programs in benchmarks/ and tests/."""
    from cdm.__main__ import build_parser

    found = set()
    parsers = [build_parser(), snakemake_parser()]
    while parsers:
        for action in parsers.pop()._actions:
            found |= set(action.option_strings)
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
    programs = [*REPO.glob("benchmarks/*.py"), *REPO.glob("tests/faults/*.py")]
    for path in programs:
        found |= set(re.findall(r'"(--[\w-]+)"', path.read_text()))
    return frozenset(found)


# --- what is wrong with a page --------------------------------------------------------------------


def problems(path: Path, text: str) -> list[str]:
    """Everything that the page at `path` names and that does not exist."""
    found = []
    for command in commands(text):
        found += [f"{command}: {problem}" for problem in check_command(command)]
    for span in spans(text):
        found += check_span(span)
    for language, content in blocks(text):
        if language == "yaml":
            found += wrong_keys(yaml.safe_load(content))
        elif language == "python":
            found += check_python(content)
    for link in links(text):
        found += check_link(path, text, link)
    return found


def check_command(command: str) -> list[str]:
    """What a command names and what does not exist."""
    arguments = [PLACEHOLDERS.get(word, word) for word in shlex.split(command, comments=True)]
    return CHECKS[arguments[0]](arguments[1:])


def check_snakemake(arguments: list[str]) -> list[str]:
    try:
        args = _parse(snakemake_parser(), arguments)
    except (SystemExit, ValueError):
        return ["snakemake does not take this"]
    found = [f"no rule {name}" for name in args.targets if name not in rules()]
    files = [str(path) for path in args.configfile or []]
    if args.workflow_profile:
        files.append(f"{args.workflow_profile}/config.yaml")
    files = [name for name in files if name != MINE and not name.startswith(OUTPUTS)]
    found += [f"no file {name}" for name in files if name not in tracked()]
    for entry in args.config or []:
        key, _, value = entry.partition("=")
        found += wrong_keys({key: yaml.safe_load(value)})
    return found


def check_cdm(arguments: list[str]) -> list[str]:
    from cdm.__main__ import build_parser

    if not arguments or arguments == ["COMMAND"]:
        return []
    try:
        _parse(build_parser(), arguments)
    except SystemExit as ended:  # 0: --version and the like
        return ["cdm does not take this"] if ended.code else []
    return []


def _parse(parser: argparse.ArgumentParser, arguments: list[str]):
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        return parser.parse_args(arguments)


def check_python_command(arguments: list[str]) -> list[str]:
    if arguments[:1] == ["-m"]:
        if arguments[1] == "venv":
            return []
        if arguments[1] == "cdm":
            return check_cdm(arguments[2:])
        path = arguments[1].replace(".", "/") + ".py"
    else:
        path = arguments[0]
    if path not in tracked():
        return [f"no file {path}"]
    source = (REPO / path).read_text()
    given = [word for word in arguments if word.startswith("--")]
    return [f"{path} has no {word}" for word in given if f'"{word}"' not in source]


def check_pip(arguments: list[str]) -> list[str]:
    extras = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    known = {f".[{name}]" for name in extras["optional-dependencies"]} | {"."}
    found = []
    for flag, value in itertools.pairwise(arguments):
        if flag == "-e" and value not in known:
            found.append(f"no extra {value}")
        if flag == "-c" and value not in tracked():
            found.append(f"no file {value}")
    return found


def check_pytest(arguments: list[str]) -> list[str]:
    pairs = list(zip(["", *arguments], arguments, strict=False))
    values = ("-m", "-n", "-k")
    paths = [word for flag, word in pairs if not word.startswith("-") and flag not in values]
    marks = [word for flag, word in pairs if flag == "-m"]
    project = tomllib.loads((REPO / "pyproject.toml").read_text())
    known = {mark.split(":")[0] for mark in project["tool"]["pytest"]["ini_options"]["markers"]}
    return [f"no file {path}" for path in paths if path not in tracked()] + [
        f"no marker {mark}" for mark in marks if mark not in known
    ]


CHECKS = {
    "snakemake": check_snakemake,
    "cdm": check_cdm,
    "python": check_python_command,
    "python3": check_python_command,
    "pip": check_pip,
    "pytest": check_pytest,
}


def wrong_keys(changes: dict, base: dict | None = None, place: str = "") -> list[str]:
    """Keys that config/config.yaml does not have."""
    base = config() if base is None else base
    found = []
    for key, value in changes.items():
        if key not in base:
            found.append(f"no key {place}{key}")
        elif isinstance(value, dict) and isinstance(base[key], dict):
            found += wrong_keys(value, base[key], f"{place}{key}.")
    return found


def key_tails(section: dict | None = None) -> dict[str, object]:
    """Every key of the configuration by all of its endings: a.b.c, b.c and c."""
    tails = {}
    for key, value in (config() if section is None else section).items():
        tails[key] = value
        if isinstance(value, dict):
            inner = key_tails(value)
            tails |= {f"{key}.{tail}": each for tail, each in inner.items()} | inner
    return tails


def check_span(span: str) -> list[str]:
    """What a span names: an option, a path, a key, or a name in the sources."""
    word = re.split(r"[ =:({\[]", span)[0].rstrip(".,/")
    if span.split(" ")[0] in CHECKS and " " in span:
        return []  # a command, checked as such
    if "..." in span:
        return []
    if span.startswith("--"):
        return [] if word in options() else [f"no option {word}"]
    top = word.split("/")[0]
    if "{" not in span and "*" not in span and "/" in span and top in tracked():
        return [] if word in tracked() else [f"no file {word}"]
    sections = {key for key, value in key_tails().items() if isinstance(value, dict)}
    is_file = word.endswith((".html", ".pt", ".csv", ".json", ".tsv", ".yaml"))
    if re.fullmatch(r"\w+(\.\w+)+", word) and word.split(".")[0] in sections and not is_file:
        return [] if word in key_tails() else [f"no key {word}"]
    if re.fullmatch(r"[A-Za-z]\w*_\w*", word):
        known = word in words() or word in FOREIGN
        return [] if known else [f"{word} is nowhere in the sources"]
    return []


def check_python(content: str) -> list[str]:
    """Run the imports of an example, and look for the methods of `maps`."""
    from cdm.archive import ContactMaps

    compile(content, "example", "exec")
    for line in content.splitlines():
        if re.match(r"(from|import) ", line):
            exec(line, {})
    asked = re.findall(r"\bmaps\.(\w+)", content)
    return [f"ContactMaps has no {name}" for name in asked if not hasattr(ContactMaps, name)]


def check_link(path: Path, text: str, link: str) -> list[str]:
    """A link to a page, a heading or a picture of the repository."""
    if re.match(r"https?://", link):
        return [] if link.startswith("https://") else [f"{link}: not https"]
    name, _, anchor = link.partition("#")
    target = (path.parent / name).resolve() if name else path
    if name and str(target.relative_to(REPO)) not in tracked():
        return [f"link to {link}: no such file"]
    if anchor and anchor not in anchors(target.read_text() if name else text):
        return [f"link to {link}: no such heading"]
    return []
