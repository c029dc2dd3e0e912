"""A lock file holds, also where the file system has no flock."""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from filelock import Timeout

from transfer.experiments.locks import JobIsTaken, locked
from transfer.locks import held


@pytest.fixture(params=[None, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """The error of this file system's flock."""

    def refused(*_: object) -> None:
        raise OSError(request.param, "refused")

    if request.param is not None:
        monkeypatch.setattr(fcntl, "flock", refused)
    return request.param


@pytest.mark.parametrize(
    ("hold", "taken"),
    [(lambda path: held(path, timeout=0), Timeout), (lambda path: locked(path), JobIsTaken)],
)
@pytest.mark.filterwarnings("ignore:.*cannot lock files")
def test_one_holds_it_at_a_time(
    hold: Callable[[Path], AbstractContextManager[Any]], taken: type[Exception], flock: int | None, tmp_path: Path
) -> None:
    path = tmp_path / "lock"
    for _ in range(2):
        with hold(path), pytest.raises(taken), hold(path):
            pytest.fail("two hold it")
    assert not (tmp_path / "lock.soft").exists()


def test_a_file_system_without_flock_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    with pytest.warns(UserWarning, match=f"{tmp_path}: its file system cannot lock files"), held(tmp_path / "lock"):
        assert (tmp_path / "lock.soft").exists()
