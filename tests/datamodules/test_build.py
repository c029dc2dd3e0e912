"""The keywords of `load_dataset` and `build_datamodule` are known to a reader, a type checker and the error."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

from datamodules import build, build_datamodule, load_dataset
from datamodules.datamodule import DataModule
from datamodules.dataset.sheet import ReadOptions
from tests.support.data import PREPROCESSING
from tests.support.runs import ROOT, environment
from transfer.errors import UserError


def test_the_keywords_are_the_fields_and_arguments_with_their_types() -> None:
    reading = get_type_hints(ReadOptions)
    signature = inspect.signature(DataModule)
    keywords = {name for name, parameter in signature.parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}
    hints = get_type_hints(DataModule.__init__)
    loading = {name: hints[name] for name in keywords if name != "image_size"}
    assert get_type_hints(build.ReadFields) == reading
    assert get_type_hints(build.DataFields) == reading | loading
    assert not reading.keys() & loading.keys()


def test_an_unknown_option_is_refused_with_all_that_are_allowed() -> None:
    with pytest.raises(UserError, match="unknown option `multilable`; did you mean 'multilabel'") as error:
        load_dataset("digits", multilable=True)  # type: ignore[call-arg]
    assert "data_root" in str(error.value) and "batch_size" not in str(error.value)
    with pytest.raises(UserError, match="unknown option `batch_sise`; did you mean 'batch_size'") as error:
        build_datamodule("digits", preprocessing=PREPROCESSING, batch_sise=3)  # type: ignore[call-arg]
    assert all(name in str(error.value) for name in ("data_root", "image_size", "batch_size", "preprocessing"))


@pytest.mark.slow
def test_a_type_checker_sees_the_options(tmp_path: Path) -> None:
    (tmp_path / "snippet.py").write_text(
        "from datamodules import build_datamodule, load_dataset\n"
        "from transfer import Preprocessing\n"
        "def right(p: Preprocessing) -> tuple[int, int]:\n"
        "    data = build_datamodule('digits', preprocessing=p, batch_size=3, val_fraction=0.2)\n"
        "    return load_dataset('digits', train_on='trainval').num_classes, data.batch_size\n"
        "def wrong(p: Preprocessing) -> None:\n"
        "    build_datamodule('digits', preprocessing=p, batch_sise=3)\n"
        "    load_dataset('digits', train_on=1)\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--follow-imports=silent", "snippet.py"]
    process = subprocess.run(
        command, cwd=tmp_path, env=environment(MYPYPATH=str(ROOT)), capture_output=True, text=True, check=False
    )
    wrong = [line.split(": ")[0] for line in process.stdout.splitlines() if ": error:" in line]
    assert wrong == ["snippet.py:7", "snippet.py:8"], process.stdout
