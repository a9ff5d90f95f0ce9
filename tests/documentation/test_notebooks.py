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


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def printed(notebook):
    """Returns the words that the cells print. Skips words with digits, because digits depend on the machine."""
    text = "".join(output.text for output in outputs(notebook) if output.output_type == "stream")
    return " ".join(word for word in text.split() if not any(letter.isdigit() for letter in word))


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
@pytest.mark.filterwarnings("ignore")
def test_a_notebook_runs_and_prints_what_is_stored(file):
    stored = nbformat.read(file, as_version=4)
    nbformat.validate(stored)
    run = nbformat.from_dict(stored)
    where = {"metadata": {"path": str(file.parent)}}
    NotebookClient(run, timeout=LONGEST_SECONDS, kernel_name="python3", resources=where).execute()
    assert not [output for output in outputs(run) if output.output_type == "error"]
    assert printed(run) == printed(nbformat.read(file, as_version=4))


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_outputs_are_stored_with_pictures_and_without_warnings(file):
    stored = nbformat.read(file, as_version=4)
    found = outputs(stored)
    assert sum("image/png" in output.get("data", {}) for output in found) >= 1
    assert not [output for output in found if output.get("name") == "stderr"]
    assert all(cell.get("execution_count") for cell in stored.cells if cell.cell_type == "code")
    assert file.stat().st_size < 400_000


def test_there_are_three():
    assert [file.stem for file in NOTEBOOKS] == ["cure", "measure", "run"]
