"""Each notebook runs from top to bottom. Its stored outputs contain pictures."""

import warnings

import nbformat
import pytest
from documentation.pages import DOCS

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pyzmq and jupyter_client warn at import
    from nbclient import NotebookClient

NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
LONGEST_SECONDS = 300


def code_cells(file):
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(cells):
    return [output for cell in cells for output in cell.get("outputs", [])]


def printed(cells):
    """Returns the words that the cells print. Skips words with digits, because digits depend on the machine."""
    text = "".join(output.text for output in outputs(cells) if output.output_type == "stream")
    return " ".join(word for word in text.split() if not any(letter.isdigit() for letter in word))


@pytest.mark.filterwarnings("ignore")
def test_each_notebook_runs_and_prints_what_is_stored():
    """Runs them in one kernel, because starting a kernel takes long. It forgets all names before the next notebook."""
    stored = [code_cells(file) for file in NOTEBOOKS]
    run = nbformat.v4.new_notebook()
    for cells in stored:
        run.cells += [nbformat.v4.new_code_cell(text) for text in ("%reset -f", *(cell.source for cell in cells))]
    where = {"metadata": {"path": str(DOCS / "notebooks")}}
    NotebookClient(run, timeout=LONGEST_SECONDS, kernel_name="python3", resources=where).execute()
    assert not [output for output in outputs(run.cells) if output.output_type == "error"]
    ran = iter(run.cells)
    for file, cells in zip(NOTEBOOKS, stored, strict=True):
        assert next(ran).source == "%reset -f"
        assert printed([next(ran) for _ in cells]) == printed(cells), file.stem


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_outputs_are_stored_with_pictures_and_without_warnings(file):
    stored = nbformat.read(file, as_version=4)
    found = outputs(stored.cells)
    assert sum("image/png" in output.get("data", {}) for output in found) >= 1
    assert not [output for output in found if output.get("name") == "stderr"]
    assert all(cell.get("execution_count") for cell in stored.cells if cell.cell_type == "code")
    assert file.stat().st_size < 400_000


def test_there_are_three():
    assert [file.stem for file in NOTEBOOKS] == ["cure", "measure", "run"]
