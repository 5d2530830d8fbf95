"""The wings of cdm/: what each may import, read from the code."""

import ast
from pathlib import Path

import pytest
from helpers import REPO

# Lowest first. A wing may import the root modules, and what stands before it.
ROOT_MODULES = ("errors", "files", "noise", "contact", "config")
WINGS = (
    *("kernels", "jobs", "datasets", "demo", "model", "sampling"),
    *("archive", "run", "pages", "gallery", "commands", "evaluation", "training"),
)
RANK = {name: rank for rank, name in enumerate((*ROOT_MODULES, *WINGS, "__main__"))}
CDM = REPO / "cdm"


def module_name(path: Path, root: Path) -> str:
    """cdm/run/plan.py is cdm.run.plan; a folder's __init__.py has the folder's name."""
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, name: str, top_level: bool = False) -> set[str]:
    """Names of modules of cdm that a file imports; `from cdm.a import b` gives cdm.a and cdm.a.b.

    Args:
        top_level: leave out what is imported inside functions.
    """
    tree = ast.parse(path.read_text())
    nodes = list(statements(tree) if top_level else ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
                package = package[: len(package) - node.level + 1]
                base = ".".join([*package, *filter(None, [node.module])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return {each for each in found if each.split(".")[0] == "cdm"}


def outside_imports(module: str, root: Path) -> dict[str, str]:
    """Packages of others that are imported with a module of cdm, and by which of ours."""
    found, seen, left = {}, set(), [module]
    while left:
        name = left.pop()
        parts = name.split(".")
        path = root.parent.joinpath(*parts).with_suffix(".py")
        path = path if path.exists() else root.parent.joinpath(*parts, "__init__.py")
        if name in seen or not path.exists():
            continue
        seen.add(name)
        left += [".".join(parts[:end]) for end in range(1, len(parts))]  # its packages
        left += imports(path, name, top_level=True)
        for node in statements(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            else:
                continue
            found |= {other.split(".")[0]: name for other in names}
    return {other: by for other, by in found.items() if other != "cdm"}


def statements(node):
    """Every node but those inside functions, which run later, and those for type checkers."""
    for child in ast.iter_child_nodes(node):
        for_types = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        if not for_types and not isinstance(
            child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
        ):
            yield child
            yield from statements(child)


def wing(module: str) -> str | None:
    """Wing or root module that a module belongs to; None for the package itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in RANK else None


def upward_imports(root: Path) -> list[str]:
    """Every import that points up the list."""
    found = []
    for path in sorted(root.rglob("*.py")):
        name = module_name(path, root)
        own = wing(name)
        for other in sorted(imports(path, name)):
            target = wing(other)
            if own and target and target != own and RANK[target] > RANK[own]:
                found.append(f"{name} imports {other}")
    return found


def circles(root: Path) -> list[list[str]]:
    """Circles of modules that import each other while they are being imported."""
    paths = {module_name(path, root): path for path in sorted(root.rglob("*.py"))}
    arrows = {
        name: {other for other in imports(path, name, top_level=True) if other in paths} - {name}
        for name, path in paths.items()
    }
    # `from cdm.a import b` also runs cdm/a/__init__.py, but a package may import its own parts.
    for name, others in arrows.items():
        others -= {other for other in others if name.startswith(other + ".")}
    while True:
        leaves = {name for name, others in arrows.items() if not others & arrows.keys()}
        if not leaves:
            break
        arrows = {name: others for name, others in arrows.items() if name not in leaves}
    return [[name, *sorted(others & arrows.keys())] for name, others in arrows.items()]


def test_every_module_lies_in_a_wing_or_at_the_root():
    at_root = {path.stem for path in CDM.glob("*.py")} - {"__init__", "__main__"}
    folders = {path.name for path in CDM.iterdir() if (path / "__init__.py").exists()}
    assert at_root | (folders - set(WINGS)) == set(ROOT_MODULES)
    assert folders - set(ROOT_MODULES) == set(WINGS)


def test_imports_point_down_the_list():
    assert upward_imports(CDM) == []


def test_no_modules_import_each_other_in_a_circle():
    assert circles(CDM) == []


# Each of these takes 0.2 to 4 seconds to import.
SLOW = ("torch", "zarr", "numba", "transformers", "tokenizers", "matplotlib", "pandas", "snakemake")


def test_a_chunk_job_begins_with_torch_and_nothing_else_that_is_slow():
    found = outside_imports("cdm.run.generate", CDM)
    assert "numpy" in found and "orjson" in found  # of modules below
    assert {name: found[name] for name in SLOW[1:] if name in found} == {}


def main_process_modules() -> list[str]:
    """Modules of cdm that Snakemake's main process imports while it reads the Snakefile."""
    lines = [
        line
        for path in sorted((REPO / "rules").glob("*.smk"))
        for line in path.read_text().splitlines()
        if line.startswith("from cdm.")
    ]
    return [line.split()[1] for line in lines]


def test_reading_the_snakefile_imports_nothing_slow():
    modules = main_process_modules()
    assert "cdm.run.planning" in modules
    for module in modules:
        found = outside_imports(module, CDM)
        assert {name: found[name] for name in SLOW if name in found} == {}, module


def test_a_slow_import_is_found_wherever_it_stands(tmp_path):
    root = write(
        tmp_path,
        run__a="from cdm.files import b\nif TYPE_CHECKING:\n    import torch",
        files__b="try:\n    import zarr.codecs\nfinally:\n    pass\ndef later():\n    import numba",
    )
    assert outside_imports("cdm.run.a", root) == {"zarr": "cdm.files.b"}


@pytest.mark.parametrize("name", WINGS)
def test_a_wing_says_what_it_is_for(name):
    docstring = ast.get_docstring(ast.parse((CDM / name / "__init__.py").read_text()))
    assert docstring and len(docstring.split()) > 5


def test_the_page_on_architecture_lists_the_wings_in_this_order():
    text = (REPO / "docs/architecture.md").read_text()
    tree = text.split("```")[1]
    named = [line.split()[0].rstrip("/").removesuffix(".py") for line in tree.splitlines()[2:]]
    assert named == list(RANK)


def write(folder: Path, **files: str) -> Path:
    """A package cdm with these files; `run__plan` is run/plan.py."""
    root = folder / "cdm"
    for name, text in files.items():
        path = root / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    "text",
    [
        "from cdm.run.plan import Plan",
        "import cdm.run.plan",
        "from cdm import run",
        "from cdm.run import plan",
        "from ..run import plan",
        "def later():\n    from cdm.run import plan",
    ],
)
def test_an_import_that_points_up_is_found(tmp_path, text):
    root = write(tmp_path, files="", datasets__base=text, run__plan="from cdm.datasets import base")
    [found, *_] = upward_imports(root)
    assert found.startswith("cdm.datasets.base imports cdm.run")


def test_a_root_module_may_be_imported_by_all_and_imports_only_those_before_it(tmp_path):
    assert not upward_imports(
        write(tmp_path, kernels__a="import cdm.config", config="import cdm.errors")
    )
    [found] = upward_imports(write(tmp_path, errors="from cdm.config import load_config"))[:1]
    assert found.startswith("cdm.errors imports cdm.config")


def test_a_circle_is_found_and_one_inside_a_function_is_none(tmp_path):
    root = write(tmp_path, run__a="from cdm.run import b", run__b="from cdm.run.a import x")
    assert circles(root)
    write(tmp_path, run__b="def later():\n    from cdm.run.a import x")
    assert circles(root) == []
