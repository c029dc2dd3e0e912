"""The notebooks of examples/ run from the first cell to the last, as a user runs them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from tests.support.pages import ROOT
from tests.support.runs import environment

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the notebook prints, run in an empty folder."""
    for variable, value in environment(PYTHONPATH=str(ROOT)).items():
        monkeypatch.setenv(variable, value)
    notebook: Any = nbformat.read(ROOT / "examples" / f"{name}.ipynb", as_version=4)
    # No folder of kernels: what is left is the one of this environment.
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    NotebookClient(notebook, km=manager, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


@pytest.mark.slow
def test_your_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = run("your_photos", tmp_path, monkeypatch)
    right = re.search(r"([\d.]+)% of the test photos are right, results in runs/photos_lite0/1", printed)
    assert right is not None and float(right[1]) > 100 / 3
    assert (tmp_path / "runs" / "photos_lite0" / "1" / "results.json").is_file()
    assert (tmp_path / "choice" / "winner" / "best.ckpt").is_file()
    assert {path.stem for path in (tmp_path / "explained").glob("*.png")} == {"circle", "square", "triangle"}


@pytest.mark.slow
def test_scale_a_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = run("scale_a_backbone", tmp_path, monkeypatch)
    assert re.search(r"b0 +224 px +5\.3 M parameters +0\.39 G", printed)  # Tan & Le 2019, table 2
    assert re.search(r"b7 +600 px +66\.3 M parameters +37\.75 G", printed)
    assert "my_net.build@phi=2 42 px" in printed and (tmp_path / "fit.json").is_file()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs(path: Path) -> None:
    notebook: Any = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)
