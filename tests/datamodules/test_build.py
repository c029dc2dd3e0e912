"""The keywords of `load_dataset` and `build_datamodule` are known to a reader and the error."""

from __future__ import annotations

import inspect
from typing import get_type_hints

import pytest

from datamodules import build, build_datamodule, load_dataset
from datamodules.datamodule import DataModule
from datamodules.dataset.sheet import ReadOptions
from tests.support.data import PREPROCESSING
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
