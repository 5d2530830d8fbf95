"""The notebook of docs/: every cell runs on the archive of a small run."""

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import pytest
from evaluations import make_archive, run_evaluate
from helpers import REPO

NOTEBOOK = REPO / "docs/look-into-maps.ipynb"


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """The notebook, with the run of the working folder in place of the demo's."""
    monkeypatch.chdir(tmp_path)
    run_evaluate(make_archive(tmp_path, skipped={0: "bad"}))
    content = nbformat.read(NOTEBOOK, as_version=4)
    first = next(cell for cell in content.cells if cell.cell_type == "code")
    assert 'RUN = Path("outputs/demo")' in first.source
    first.source = first.source.replace("outputs/demo", str(tmp_path / "outputs/run"))
    return content


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_notebook_is_stored_without_output():
    content = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(content)
    assert not [cell for cell in code_of(content) if cell.outputs or cell.execution_count]


@pytest.mark.usefixtures("unpainted")
def test_every_cell_runs_and_shows_what_its_text_says(notebook, capsys, monkeypatch):
    """In this process, which saves a kernel."""
    matplotlib.use("Agg")
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gcf()))
    names = {}
    for cell in code_of(notebook):
        exec(compile(cell.source, str(NOTEBOOK), "exec"), names)
    said = capsys.readouterr().out
    assert "7 samples; the joints are" in said and "HUMANISE/" in said
    assert len(shown) == 2 and names["archive"].sizes["index"] == 6  # one was skipped
    assert len(names["subset"]) == len(names["good"]) == 3
    errors = names["better"].pelvis_point_error.values
    assert errors.max() <= names["worst"]["pelvis_point_error"].median()
    plt.close("all")


@pytest.mark.long
def test_a_kernel_of_jupyter_runs_it_from_its_first_cell_to_its_last(notebook, tmp_path):
    from nbclient import NotebookClient

    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in code_of(notebook) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert all(cell.execution_count for cell in code_of(notebook))
