"""Pickles with data in them, such as CIFAR's, read without running what else a pickle can hold."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from transfer.errors import DamagedFile, UserError
from transfer.files import open_regular

_reconstruct = np.empty(0).__reduce__()[0]  # its module has another name in each numpy


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r}")
    return text.encode("latin1")


class _ArrayUnpickler(pickle.Unpickler):
    """Reads containers, text, numbers and numpy arrays; anything else is refused before it exists."""

    _allowed: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        # How Python 3 writes bytes in protocol 2.
        ("_codecs", "encode"): _latin1,
    }

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the allowed objects."""
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self._allowed[module, name]


def read_pickle(path: Path) -> dict[str, Any]:
    """Return the dictionary in a pickle that Python 2 wrote, with its keys as text; code in it is refused, not run.

    Raises:
        UserError: The file holds something else than containers, text, numbers and arrays, or is no pickle.
    """
    try:
        with open_regular(path) as stream:
            content = _ArrayUnpickler(stream, encoding="bytes").load()
    except (OSError, UserError):
        raise
    except Exception as error:  # a broken pickle raises nearly anything
        raise DamagedFile(
            f"{path}: refused ({error}); only containers, text, numbers and arrays are read from a pickle. "
            "Download the authors' file again"
        ) from error
    if not isinstance(content, dict):
        raise DamagedFile(f"{path}: a {type(content).__name__}, where the authors' file has a dictionary")
    return {as_text(key): value for key, value in content.items()}


def as_text(value: Any) -> str:
    """Return text that Python 2 wrote as bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
