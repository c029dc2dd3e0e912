"""The package `lightning` for an interpreter that has `pytorch_lightning` alone: the same code under the other name.

Lightning's releases are made in the same way. It writes DIR/lightning; with DIR on the path, `import lightning` works.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

PARTS = {"pytorch_lightning": "pytorch", "lightning_fabric": "fabric"}
INIT = """\
from lightning.fabric.fabric import Fabric
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
"""


def write_mirror(folder: Path) -> Path | None:
    """Write `lightning` into a folder and return the folder; None if the real package is installed."""
    if importlib.util.find_spec("lightning") is not None:
        return None
    for package, part in PARTS.items():
        spec = importlib.util.find_spec(package)
        assert spec is not None and spec.origin is not None
        copy = folder / "lightning" / part
        shutil.copytree(Path(spec.origin).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
        for file in copy.rglob("*.py"):
            text = file.read_text()
            for name, other in PARTS.items():
                text = text.replace(name, f"lightning.{other}")
            file.write_text(text)
    (folder / "lightning" / "__init__.py").write_text(INIT)
    return folder
