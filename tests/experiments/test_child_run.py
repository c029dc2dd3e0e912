"""What the runs of an experiment are told of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from transfer.experiments.child_run import RunFailed, Worker
from transfer.experiments.processes import Children


class Recorded:
    """Stands for the child processes: it keeps what they would be started with."""

    stopped = None

    def __init__(self) -> None:
        self.environments: list[Mapping[str, str]] = []

    def start(self, command: Sequence[str], environment: Mapping[str, str], log: Path, keep_open: int) -> None:
        self.environments.append(environment)
        log.touch()

    def wait_any(self, watch: Any = None) -> tuple[Any, int]:
        return None, 1


@pytest.mark.parametrize(
    ("name", "group", "expected"),
    [
        ("cells/pets_b0_paper_0/trials/03", "pets_b0_paper_0", ("pets_b0_paper_0/trials/03", "pets_b0_paper_0")),
        ("runs/phi1_d1.2_0", None, ("phi1_d1.2_0", "photos_folds/2")),
        ("fold3", None, ("fold3", "photos_folds/2")),
    ],
)
def test_a_run_is_told_its_name_and_its_group(
    tmp_path: Path, name: str, group: str | None, expected: tuple[str, str]
) -> None:
    children, folder = Recorded(), tmp_path / "photos_folds" / "2"
    (folder / name).parent.mkdir(parents=True)
    worker = Worker(folder, cast(Children, children), 0, "go on")
    with pytest.raises(RunFailed):
        worker.finetune(name, {"seed": 1}, group)
    (environment,) = children.environments
    assert (environment["TRANSFER_RUN_NAME"], environment["TRANSFER_RUN_GROUP"]) == expected
