"""Imports point one way, and a light import stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEAVES = (
    *("config", "scaling", "layers", "heads", "optim", "batch_augment", "paper", "statistics", "logistic", "errors"),
    *("protocols", "recipe", "sam", "overlay", "study/noise", "user_code", "units", "meta_calls"),
)


def project_imports(path: Path) -> set[str]:
    """Modules of this project that a file imports, at its top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
            if node.module in ("transfer", "datamodules"):
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] in ("transfer", "datamodules", "scripts")}


def test_transfer_never_imports_datamodules() -> None:
    files = sorted((ROOT / "transfer").rglob("*.py"))
    assert len(files) > 20
    for path in files:
        assert {name.split(".")[0] for name in project_imports(path)} <= {"transfer"}, path


def test_datamodules_import_nothing_of_transfer_but_its_errors() -> None:
    for path in sorted((ROOT / "datamodules").rglob("*.py")):
        foreign = {name for name in project_imports(path) if not name.startswith("datamodules")}
        assert foreign <= {"transfer.errors"}, path


@pytest.mark.parametrize("name", LEAVES)
def test_a_leaf_imports_nothing_of_the_project_but_the_errors_and_what_the_user_brings(name: str) -> None:
    shared = {"transfer.errors", "transfer.networks.user_code"}
    assert project_imports(ROOT / "transfer" / f"{name}.py") <= shared - {f"transfer.{name}"}


def test_the_ledger_imports_published_numbers_and_statistics_only() -> None:
    for path in sorted((ROOT / "transfer" / "ledger").glob("*.py")):
        foreign = {name for name in project_imports(path) if not name.startswith("transfer.experiments.table.report")}
        modules = {".".join(name.split(".")[:2]) for name in foreign}
        assert modules <= {"transfer.errors", "transfer.paper", "transfer.statistics"}, path


def loaded_by(statement: str) -> set[str]:
    """Top-level packages that a fresh interpreter has after a statement."""
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(result.stdout.split())


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import transfer", {"torch", "datasets", "albumentations", "wandb", "pytorch_lightning"}),
        ("import transfer.config.schema", {"torch", "numpy", "pytorch_lightning", "datasets"}),
        ("import transfer.config.command_line", {"torch", "pytorch_lightning", "datasets"}),
        ("import transfer.networks.scaling, transfer.errors, transfer.paper", {"torch", "numpy"}),
        ("import transfer.costs.limits", {"torch", "numpy"}),
        ("import transfer.experiments.table.report", {"torch", "matplotlib", "scipy"}),
        ("import transfer.config.protocols, transfer.config.auto", {"torch", "numpy"}),
        (
            "import transfer.experiments.table.cell_run, transfer.experiments.sweeps",
            {"torch", "submitit"},
        ),
        (
            "import transfer.experiments.scaling.loop, transfer.experiments.scaling.rounds",
            {"torch", "scipy", "matplotlib", "submitit"},
        ),
        ("from transfer.commands.scale import search; search.build_parser()", {"torch", "numpy", "jsonargparse"}),
        (
            "from transfer import build_classifier, list_backbones, list_heads, list_weights",
            {"datasets", "albumentations", "wandb", "pytorch_lightning", "torchmetrics", "jsonargparse"},
        ),
    ],
)
def test_a_light_import_stays_light(statement: str, absent: set[str]) -> None:
    loaded = loaded_by(statement)
    assert "transfer" in loaded
    assert loaded & absent == set()


def test_every_public_name_of_the_package_resolves() -> None:
    import transfer

    for name in transfer.__all__:
        assert getattr(transfer, name).__name__ == name
    assert set(dir(transfer)) == set(transfer.__all__)


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    import transfer

    with pytest.raises(AttributeError, match="module 'transfer' has no attribute 'build_everything'"):
        transfer.build_everything  # noqa: B018
