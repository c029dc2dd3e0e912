"""Every field of the schema against values that no run can use: each is refused in a line that names it, or is fine."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from transfer.config.command_line import build_config, parse_config
from transfer.config.schema import FinetuneConfig
from transfer.errors import BadValue, DamagedFile

# Fields that can use a value; every other number in the schema refuses it.
FINE = {
    "0": {
        *("dropout", "stochastic_depth_prob", "seed", "data.num_workers", "data.draw", "loss.label_smoothing"),
        "loss.mixup_alpha",
        *("loss.cutmix_alpha", "optim.momentum", "optim.weight_decay", "optim.backbone_lr_factor"),
        *(
            "data.color_jitter",
            "data.draw",
            "optim.warmup_epochs",
            "trainer.limit_test_batches",
            "trainer.overfit_batches",
            "trainer.log_every_n_steps",
        ),
        "trainer.num_sanity_val_steps",
    },
    "-1": {"trainer.max_steps", "trainer.num_sanity_val_steps", "trainer.devices"},
    "1e-320": {
        "data.color_jitter",
        "dropout",
        "stochastic_depth_prob",
        "loss.label_smoothing",
        "optim.momentum",
        "trainer.devices",
    },
    "1e20": {
        "optim.weight_decay",
        "optim.backbone_lr_factor",
        "optim.lr",
        "optim.sam_rho",
        "trainer.gradient_clip_val",
    },
    **{text: set[str]() for text in (".nan", ".inf", "-.inf", "1e400", "1" + "0" * 30, "1" * 5000)},
}


def hints(config: Any, prefix: str = "") -> dict[str, Any]:
    """The type of every field, by dotted name."""
    found: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            found |= hints(value, f"{prefix}{field.name}.")
        else:
            found[prefix + field.name] = get_type_hints(type(config))[field.name]
    return found


HINTS = hints(FinetuneConfig())
NUMERIC = [n for n, hint in HINTS.items() if {int, float} & {hint, *get_args(hint)} - {bool}]


def refused(parse: Callable[[list[str]], FinetuneConfig], names: list[str]) -> dict[str, str]:
    """The line that refuses each field, of those that are refused."""
    lines: dict[str, str] = {}
    while True:
        left = [name for name in names if name not in lines]
        try:
            parse(left)
            return lines
        except (BadValue, DamagedFile) as error:
            found = [line.strip() for line in str(error).splitlines() if line != "the configuration has problems:"]
            for line in found:
                match = re.match(r"(?:.*r\.yaml line (\d+): )?(?:`|unknown option ')([\w.]+?)(?:\.a)?['`]", line)
                assert match is not None and match[2] in left, line
                assert match[1] is None or int(match[1]) == 1 + left.index(match[2]), line
                assert len(line) < 6000
                lines[match[2]] = line


def from_recipe(folder: Path, text: str) -> Callable[[list[str]], FinetuneConfig]:
    def parse(names: list[str]) -> FinetuneConfig:
        path = folder / "r.yaml"
        path.write_text("".join(f"{name}: {text}\n" for name in names) + "compile: false\n", encoding="utf-8")
        return parse_config(["--config", str(path)])[0]

    return parse


def test_the_schema_has_numbers() -> None:
    assert len(NUMERIC) > 35 and set.union(*FINE.values()) <= set(NUMERIC)


@pytest.mark.parametrize("text", FINE)
def test_a_number_that_no_run_can_use_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    lines = refused(from_recipe(tmp_path, text), NUMERIC)
    texts = {name for name in NUMERIC if str in get_args(HINTS[name])}  # Lightning says what they mean
    assert set(NUMERIC) - lines.keys() - texts == FINE[text] - texts
    assert all("r.yaml line " in line for line in lines.values())


@pytest.mark.parametrize("text", ["null", "{}", "{a: 1}", "[1, 2]"])
def test_a_value_of_another_type_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    names = [name for name in HINTS if name != "compile"]
    lines = refused(from_recipe(tmp_path, text), names)
    assert all("r.yaml line " in line for line in lines.values())
    kept = set(names) - lines.keys()
    if text == "null":
        assert all(type(None) in get_args(HINTS[name]) for name in kept)
    else:
        assert kept == ({"trainer.devices"} if text == "[1, 2]" else set())


@pytest.mark.parametrize("group", ["data", "loss", "distill", "optim", "trainer"])
@pytest.mark.parametrize("text", ["5", "null", "[]", "adamw"])
def test_a_group_that_is_no_dictionary_is_refused(tmp_path: Path, group: str, text: str) -> None:
    (tmp_path / "r.yaml").write_text(f"{group}: {text}\n", encoding="utf-8")
    with pytest.raises(BadValue, match=rf"r\.yaml line 1: `{group}`=.*a dictionary of its fields"):
        parse_config(["--config", str(tmp_path / "r.yaml")])


@pytest.mark.parametrize("value", [None, object(), [None], 10**400, "[" * 100_000])
def test_no_value_from_python_gives_a_traceback(value: object) -> None:
    def parse(names: list[str]) -> FinetuneConfig:
        return build_config(None, None, dict.fromkeys(names, value))[0]

    lines = refused(parse, list(HINTS))
    kept = HINTS.keys() - lines.keys()
    if value is None:
        assert all(type(None) in get_args(HINTS[name]) for name in kept)
    else:
        assert kept == set()


@pytest.mark.parametrize(
    "argv", [["--trainer.devices", "[" * 100_000], ["--optim", "5"], ["--data", "photos"], ["--optim.lr", "1" * 400]]
)
def test_no_word_gives_a_traceback(argv: list[str]) -> None:
    with pytest.raises(BadValue):
        parse_config(argv)
