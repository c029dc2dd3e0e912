"""Imports point one way from room to room, and a light import stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from transfer import run_files

ROOT = Path(__file__).parents[1]
PACKAGES = ("transfer", "datamodules")
DOORS = {"transfer", "transfer.__main__"}  # what a user enters by; no room imports them
MOST_FLOORS = 9
# What imports both packages; `datamodules` itself imports only leaves of `transfer`.
BOTH = ("transfer.commands.", "transfer.runs.predictor")
_LEAF_NAMES = (
    "errors",
    "preprocessing",
    "files",
    "records",
    "locks",
    "run_files",
    "statistics",
    "resampling",
    "folds",
    "paper",
    "seen_images",
    "progress",
    "progressive",
    "images",
    "predictions",
)
LEAVES = {f"transfer.{name}" for name in _LEAF_NAMES}
FILES_OF_A_RUN = {"config.yaml", "held_out.json", "metrics.csv", "best.ckpt", "last.ckpt", "results.json"}
# What may be long: tables of rows with their sources.
TABLES = {
    "transfer/weights/rows.py",
    "transfer/paper.py",
    "transfer/config/protocols.py",
    "transfer/config/schema.py",
}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room(module: str) -> str:
    """A folder of a package, or a file that lies beside the folders."""
    return ".".join(module.split(".")[:2])


@cache
def nodes(path: Path) -> list[ast.AST]:
    """The syntax tree of a file, as a list."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@cache
def imported_modules(path: Path) -> set[str]:
    """Modules of this project that a file imports: at its top, inside a function, or for type checking."""
    names: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                inner = ROOT / (node.module or "").replace(".", "/") / alias.name
                is_module = inner.is_dir() or inner.with_suffix(".py").is_file()
                names.add(f"{node.module}.{alias.name}" if is_module else node.module or "")
    return {name for name in names if name.split(".")[0] in (*PACKAGES, "scripts", "benchmarks", "tests")}


@cache
def arrows() -> dict[str, dict[str, str]]:
    """From each room to the rooms that it imports, with a file that does."""
    found: dict[str, dict[str, str]] = {}
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    assert len(files) > 100
    for path in files:
        start = room(module_name(path))
        for name in imported_modules(path):
            if room(name) != start:
                found.setdefault(start, {}).setdefault(room(name), str(path.relative_to(ROOT)))
    return found


def floor(name: str, above: tuple[str, ...] = ()) -> int:
    """1 for a room that imports none, else one more than the highest that it imports."""
    assert name not in above, f"a circle: {' -> '.join((*above[above.index(name) :], name))}"
    return 1 + max((floor(below, (*above, name)) for below in arrows().get(name, {})), default=0)


def test_rooms_import_without_circles_on_few_floors() -> None:
    floors = {name: floor(name) for name in arrows()}
    assert {name: number for name, number in floors.items() if number > MOST_FLOORS and name not in DOORS} == {}


def test_no_room_imports_a_door() -> None:
    wrong = {(name, door): below[door] for name, below in arrows().items() for door in DOORS & below.keys()}
    assert {pair: file for pair, file in wrong.items() if pair[0] not in DOORS} == {}


def test_only_commands_and_the_predictor_import_both_packages() -> None:
    both = {
        module_name(path)
        for path in (ROOT / "transfer").rglob("*.py")
        if any(name.startswith("datamodules") for name in imported_modules(path))
    }
    assert both and all(name.startswith(BOTH) for name in both), both
    for name, below in arrows().items():
        if name.startswith("datamodules"):
            foreign = {other for other in below if other.startswith("transfer")}
            assert foreign <= LEAVES | {"transfer.lightning"}, below


def test_leaves_import_nothing_but_leaves() -> None:
    for name in LEAVES:
        assert arrows().get(name, {}).keys() <= LEAVES, name


def test_the_evolution_is_imported_by_its_command_alone() -> None:
    evolution = "transfer.experiments.scaling.evolution"
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    importers = {
        module_name(path)
        for path in files
        if any(name.startswith(evolution) for name in imported_modules(path))
        and not module_name(path).startswith(evolution)
    }
    assert importers and all(name.startswith("transfer.commands.scale") for name in importers)


@pytest.mark.parametrize("folder", ["transfer", "datamodules", "benchmarks", "scripts"])
def test_files_and_functions_are_short(folder: str) -> None:
    most = 15 if folder == "scripts" else 300
    for path in (ROOT / folder).rglob("*.py"):
        text, where = path.read_text(), str(path.relative_to(ROOT))
        if where in TABLES:
            continue
        assert len(text.splitlines()) <= most, where
        for node in nodes(path):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{where}: {node.name}"


def test_the_files_of_a_run_are_named_in_one_place() -> None:
    assert {value for value in vars(run_files).values() if isinstance(value, str)} >= FILES_OF_A_RUN
    found = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "transfer").rglob("*.py")
        for node in nodes(path)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in FILES_OF_A_RUN
    }
    assert found == {"transfer/run_files.py"}


def test_a_field_travels_through_few_files() -> None:
    """From the command line to its use: schema, options, what splits the labels, and what a bundle keeps."""
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    passed = [str(path.relative_to(ROOT)) for path in files if "label_separator" in path.read_text()]
    assert len(passed) <= 7, passed


def loaded_by(statement: str) -> set[str]:
    """Top-level packages that a fresh interpreter has after a statement."""
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(result.stdout.split())


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import transfer", {"torch", "datasets", "albumentations", "wandb", "pytorch_lightning", "numpy"}),
        ("import transfer.config.schema", {"torch", "numpy", "pytorch_lightning", "datasets"}),
        ("import transfer.config.command_line", {"torch", "pytorch_lightning", "datasets"}),
        ("import transfer.networks.scaling, transfer.errors, transfer.paper", {"torch", "numpy"}),
        ("import transfer.costs.limits", {"torch", "numpy"}),
        ("import transfer.experiments.table.report", {"torch", "matplotlib", "scipy"}),
        ("import transfer.config.protocols, transfer.config.auto", {"torch", "numpy"}),
        ("import transfer.experiments.table.cell_run, transfer.experiments.sweeps", {"torch", "submitit", "optuna"}),
        ("import transfer.runs.results", {"torch", "pytorch_lightning"}),
        ("import transfer.runs.predictor", {"pytorch_lightning", "datasets", "albumentations"}),
        (
            "import transfer; from transfer import load_bundle; from transfer.commands import check, export",
            {"torch", "datamodules", "pytorch_lightning", "safetensors", "onnxruntime", "openvino"},
        ),
        (
            "import transfer.experiments.scaling.loop, transfer.experiments.scaling.rounds",
            {"torch", "scipy", "matplotlib", "submitit"},
        ),
        (
            "import transfer; from transfer.commands.scale import search; search.build_parser()",
            {"torch", "numpy", "jsonargparse"},
        ),
        ("import transfer; from datamodules import get_sheet; get_sheet('cifar10')", {"torch", "datasets", "numpy"}),
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
