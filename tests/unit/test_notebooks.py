"""The notebooks of docs/ run from top to bottom, offline; one process imports for all of them."""

from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "notebooks").glob("*.ipynb"))

# of the event loops below
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def kernel():
    manager = KernelManager()
    manager.start_kernel()
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, kernel, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "kept without outputs"
    place = f"%reset -f\nimport os, torch\nos.chdir({str(tmp_path)!r})\ntorch.set_num_threads(1)"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(f"{place}\ndel os, torch"))
    client = NotebookClient(notebook, km=kernel, timeout=120)
    try:
        made = client.execute()
    finally:
        client.kc.stop_channels()
    said = [output for cell in made.cells for output in cell.get("outputs", ())]
    kinds = {kind for one in said for kind in one.get("data", ())}
    assert {"text/html", "image/png"} & kinds, "something is shown"
    for one in said:  # tqdm's advice is the only warning
        assert one.get("name") != "stderr" or "IProgress" in one["text"], one


def test_there_are_five():
    assert len(NOTEBOOKS) == 5
