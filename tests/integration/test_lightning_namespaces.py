"""Both names of Lightning: a program uses one of them, whichever it imports first, and a mixture is one clear error."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import lightning as L
import sys
import torch
from transfer import TransferModule, build_classifier
from transfer.training.callbacks import EMA, FreezeBackbone
from transfer.training.checkpointing import LastCheckpoint

images, targets = torch.randn(8, 3, 32, 32), torch.arange(8) % 3
loader = torch.utils.data.DataLoader([(images, targets)] * 3, batch_size=None)
module = TransferModule(build_classifier("b0@d=0.3,w=0.25", 3))
assert isinstance(module, L.LightningModule)
trainer = L.Trainer(
    max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
    callbacks=[FreezeBackbone(1), EMA(0.3), LastCheckpoint({folder!r})],
)
trainer.fit(module, loader, loader)
loaded = TransferModule.load_from_checkpoint({folder!r} + "/last.ckpt")
assert torch.equal(torch.cat(trainer.predict(loaded, loader)), torch.cat(trainer.predict(module, loader)))
print(trainer.global_step, sorted({{"pytorch_lightning", "lightning"}} & sys.modules.keys()))
"""


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)


@pytest.mark.slow
def test_a_program_trains_with_the_lightning_that_it_imports(tmp_path: Path) -> None:
    """All other tests train with pytorch_lightning."""
    result = run(PROGRAM.format(folder=str(tmp_path)), tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "6 ['lightning']"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("imports", "used"),
    [
        ("import lightning, pytorch_lightning, transfer", "lightning.pytorch"),
        (
            "from transfer import TransferModule; import sys; assert 'lightning' not in sys.modules; import lightning",
            "pytorch_lightning",
        ),
    ],
)
def test_both_names_in_one_program_are_refused(tmp_path: Path, imports: str, used: str) -> None:
    code = f"""
    {imports}
    from transfer import TransferModule, UserError
    try:
        TransferModule(backbone="b0", num_classes=3)
    except UserError as error:
        print(error)
    """
    result = run(code, tmp_path)
    assert "pytorch_lightning and lightning.pytorch are both imported" in result.stdout, result.stderr
    assert f"transfer uses {used}, which was imported first" in result.stdout


def test_lightning_is_imported_in_one_place() -> None:
    imports = set()
    for package in ("transfer", "datamodules"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if any(name.split(".")[0] in ("pytorch_lightning", "lightning") for name in names):
                    imports.add(str(file.relative_to(ROOT)))
    assert imports == {"transfer/lightning.py"}
