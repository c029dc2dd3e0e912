"""A user's YAML: every value as it reads, every fault with its line, nothing executed."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.runs import ROOT
from transfer.errors import DamagedFile, MissingData
from transfer.yaml_files import read_yaml

BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
)


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "r.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("5E-4", 0.0005),
        ("-1e-3", -0.001),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1.", 1.0),
        ("3", 3),
        ("-1", -1),
        ("1_000", 1000),
        ("0x1f", 31),
        ("-.inf", -math.inf),
        ("010", "010"),
        ("12:30:00", "12:30:00"),
        ("2024-01-01", "2024-01-01"),
        ("no", False),
        ("on", True),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ("a=b", "a=b"),
        ("1" * 5000, "1" * 5000),
    ],
)
def test_a_value_is_what_it_reads(tmp_path: Path, text: str, value: object) -> None:
    found = read_yaml(write(tmp_path, f"a: {text}\n")).content["a"]
    assert found == value and type(found) is type(value)


def test_keys_have_lines_and_aliases_are_written_out(tmp_path: Path) -> None:
    file = read_yaml(write(tmp_path, "optim: &o\n  lr: 1\n\n# note\nother:\n  <<: *o\n  wd: 2\n"))
    assert file.content == {"optim": {"lr": 1}, "other": {"lr": 1, "wd": 2}}
    assert file.lines == {"optim": 1, "optim.lr": 2, "other": 5, "other.wd": 7}


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("optim:\n  lr: 1\noptim:\n  momentum: 2\n", 3, "optim stands in line 1 already"),
        ("optim.lr: 1\noptim:\n  lr: 2\n", 3, "optim.lr stands in line 1 already"),
        ("a:\n- {b: 1,\n   b: 2}\n", 3, "a.0.b stands in line 2 already"),
        ("- a\n- b\n", 1, "NAME: VALUE"),
        ("a: 1\n\tb: 2\n", 2, "indent with spaces"),
        ("a: 1\n---\nb: 2\n", 2, "another document"),
        ("a: b: c\n", 1, "not YAML"),
        ("a: [1,\n", 2, "not YAML"),
        ("a: 1\nb: *c\n", 2, "alias"),
        ("a: 1\n1: 2\n", 2, "a name must be text"),
        ("[a]: 2\n", 1, "a name must be text"),
        ("yes: 2\n", 1, "a name must be text"),
        ("a: !!python/object/apply:os.system [true]\n", 1, "tag"),
        ("a: !!timestamp x\n", 1, "tag"),
        ("a: !!binary zz\n", 1, "tag"),
        ("a: &a [*a]\n", 1, "contains itself"),
        ("a: " + "[" * 60 + "]" * 60, 1, "nested too deeply"),
        (BOMB, 5, "too large"),
        (b"a: 1\nb: \xe9\n", 2, "UTF-8"),
        ("a: 1\nb: \x07\n", 2, "U+0007"),
    ],
)
def test_a_fault_is_told_with_its_line(tmp_path: Path, text: str | bytes, line: int, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(DamagedFile) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(f"{path} line {line}: ") and said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 100_000, "a: {" * 5000, "- " * 50_000, "#" * 1_000_001])
def test_what_would_take_the_stack_or_the_memory_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(DamagedFile, match=r"nested too deeply|not a configuration"):
        read_yaml(write(tmp_path, text))


def test_only_a_regular_file_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    for name in ("pipe", "endless", "."):
        with pytest.raises(DamagedFile, match="regular file"):
            read_yaml(tmp_path / name)
    with pytest.raises(MissingData, match=r"gone\.yaml"):
        read_yaml(tmp_path / "gone.yaml")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_utf8_is_read_with_and_without_its_mark_in_every_locale(tmp_path: Path, mark: bytes) -> None:
    path = write(tmp_path, mark + "data_root: /é/“x”\n".encode())
    code = f"from transfer.yaml_files import read_yaml; print(ascii(read_yaml({str(path)!r}).content))"
    for locale in ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONUTF8": "1"}):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **locale}
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert run.stdout.strip() == ascii({"data_root": "/é/“x”"})


def test_our_own_recipes_read_as_pyyaml_reads_them() -> None:
    paths = sorted((ROOT / "configs").rglob("*.yaml"))
    assert len(paths) > 3
    for path in paths:
        expected = yaml.safe_load(path.read_text(encoding="utf-8"))
        found = read_yaml(path).content
        assert found.keys() == expected.keys(), path
