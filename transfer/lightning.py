"""Lightning under the name by which the program imports it: `pytorch_lightning` or `lightning.pytorch`.

The two packages hold the same code twice, and a Trainer of one refuses modules of the other. This project takes `pl`
from here alone: it is the package that was imported first, else `pytorch_lightning`, which is always installed.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import TYPE_CHECKING

from transfer.errors import BadValue

NAMESPACES = ("pytorch_lightning", "lightning.pytorch")
NAMESPACE = next((name for name in sys.modules if name in NAMESPACES), NAMESPACES[0])

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
    from lightning_fabric.utilities.exceptions import MisconfigurationException
else:
    formatwarning = warnings.formatwarning
    pl = importlib.import_module(NAMESPACE)
    warnings.formatwarning = formatwarning  # Lightning puts its own in place, with the path of a file
    # Named one by one, as Lightning's own files do not export them to a type checker.
    TorchCheckpointIO = pl.plugins.io.TorchCheckpointIO
    MisconfigurationException = pl.utilities.exceptions.MisconfigurationException

__all__ = ["NAMESPACE", "MisconfigurationException", "TorchCheckpointIO", "pl", "refuse_mix"]


def refuse_mix() -> None:
    """Check that the program imports Lightning under one name; modules and datamodules do so when they are made.

    Raises:
        UserError: it is imported under both, and a Trainer of the other would not know our classes.
    """
    if all(name in sys.modules for name in NAMESPACES):
        raise BadValue(
            f"{' and '.join(NAMESPACES)} are both imported, but a Trainer of one refuses modules of the other. transfer"
            f" uses {NAMESPACE}, which was imported first: import that one everywhere, or the other one everywhere and"
            " before transfer"
        )
