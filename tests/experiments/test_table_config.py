"""Tables: their configuration, and cells as they are planned and kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.tables import GRID, make_cell
from transfer.config.parsing import flatten, unflatten
from transfer.errors import UserError
from transfer.experiments.table.cells import Table, extend, read_table, table_content
from transfer.experiments.table.config import TableConfig, parse_table

ROOT = Path(__file__).parents[2]


def test_a_file_and_flags_make_a_table(tmp_path: Path) -> None:
    path = tmp_path / "table.yaml"
    path.write_text("datasets: [digits]\nbackbones: [b0]\nset: {optim.momentum: 0.8}\nseeds: [3]\n")
    flags = {"backbones": ["lite0", "b1"], "grid": ["optim.lr=1e-3,0.1", "bn=train"], "set": ["ema_half_life=0.1"]}
    config = parse_table(path, flags)
    assert [(pair.dataset, pair.backbone) for pair in config.pairs()] == [("digits", "lite0"), ("digits", "b1")]
    assert config.seeds == [3] and config.protocols == ["kornblith"]
    assert config.grid == {"optim.lr": [0.001, 0.1], "bn": ["train"]}
    assert config.set == {"ema_half_life": 0.1}


def test_names_choose_among_the_cells_of_a_file() -> None:
    paper = ROOT / "configs" / "tables" / "paper.yaml"
    assert len(parse_table(paper, {}).pairs()) == 16
    chosen = parse_table(paper, {"datasets": ["cifar10", "pets"], "backbones": ["b7", "b6"]}).pairs()
    assert [(pair.dataset, pair.backbone) for pair in chosen] == [("cifar10", "b7"), ("pets", "b6")]
    with pytest.raises(UserError, match="no cell of the file is of these datasets and backbones"):
        parse_table(paper, {"datasets": ["digits"]}).pairs()


def test_the_papers_table_is_table_5() -> None:
    from transfer.paper import TABLE5

    pairs = [(pair.dataset, pair.backbone) for pair in parse_table(ROOT / "configs/tables/paper.yaml", {}).pairs()]
    assert sorted(pairs) == sorted((row.dataset, row.backbone) for row in TABLE5)


def test_two_plans_have_the_twelve_datasets_of_kornblith() -> None:
    from transfer.paper import SIMCLR_RESNET50

    plans = [parse_table(ROOT / f"configs/tables/{name}.yaml", {}) for name in ("kornblith_b0", "voc2007_b0")]
    datasets = [pair.dataset for plan in plans for pair in plan.pairs()]
    assert sorted(datasets) == sorted(SIMCLR_RESNET50["fine-tuned"].accuracy)
    assert plans[1].set == {"data.multilabel": True, "loss.name": "bce"}


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        ("protocol: [kornblith]", {}, r"unknown option 'protocol'; did you mean 'protocols'\?"),
        ("seeds: many", {}, "seeds"),
        ("- a list", {}, "NAME: VALUE"),
        ("cells: [{dataset: digits, backbon: b0}]", {}, "backbon"),
        ("", {"set": ["optim.lrr=1"]}, r"unknown option 'optim.lrr'; did you mean 'optim.lr'\?"),
        ("", {"set": ["optim.lr"]}, "`set` optim.lr: expected KEY=VALUE, for example `set` optim.lr=0.1"),
        ("", {"set": ["optim.lr=-1"]}, r"`optim.lr`=-1.0 \(allowed: above 0\)"),
        ("", {"set": ["seed=1"]}, r"`set` seed: the table decides it \(`seeds`\)"),
        ("", {"set": ["protocol=paper"]}, r"`set` protocol: the table decides it \(`protocols`\)"),
        ("", {"grid": ["optim.lr=0.1,fast"]}, "optim.lr"),
        ("", {"grid": ["data.train_on=train"]}, r"the table decides it \(the protocol\)"),
        ("", {"budget_steps": 0}, r"`budget_steps`=0 \(allowed: at least 1\)"),
        ("", {"max_batch_per_device": 1}, r"`max_batch_per_device`=1 \(allowed: at least 2\)"),
        ("seeds: []", {}, "`seeds`: give at least one"),
        ("seeds: [0, 0, 0]", {}, r"`seeds`=0 0 0 \(allowed: different numbers of at least 0\)"),
        ("seeds: [-1]", {}, r"`seeds`=-1 \(allowed: different"),
    ],
)
def test_a_mistake_in_a_table_is_named(tmp_path: Path, content: str, flags: dict[str, Any], message: str) -> None:
    path = tmp_path / "table.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        parse_table(path, flags)


def test_no_cells_at_all_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no cells: give `config`=FILE"):
        TableConfig(datasets=["digits"]).pairs()
    with pytest.raises(UserError, match=r"nowhere.yaml: no such file"):
        parse_table(tmp_path / "nowhere.yaml", {})


def test_where_a_run_computes_does_not_make_it_incomparable() -> None:
    config = parse_table(
        None, {"set": ["data.num_workers=0", "trainer.accelerator=cpu", "image_size=32", "allow_decayed=true"]}
    )
    assert config.not_comparable() == {"image_size": 32}
    short = parse_table(None, {"set": ["trainer.max_time=00:00:01:00"]})
    assert short.not_comparable() == {"trainer.max_time": "00:00:01:00"}


def test_dotted_fields_and_nested_ones_are_inverse() -> None:
    dotted = {"a": 1, "b.c": 2, "b.d.e": None}
    assert unflatten(dotted) == {"a": 1, "b": {"c": 2, "d": {"e": None}}}
    assert flatten(unflatten(dotted)) == dotted


def test_a_table_may_grow_but_not_change() -> None:
    old = Table(cells=(make_cell(0),), set={"image_size": 32})
    larger = Table(cells=(make_cell(0), make_cell(1)), set={"image_size": 32}, data_root="/elsewhere")
    assert [cell.seed for cell in extend(old, larger, Path("t")).cells] == [0, 1]
    assert [cell.seed for cell in extend(larger, old, Path("t")).cells] == [0, 1]
    with pytest.raises(UserError, match=r"t was planned otherwise.*\n  set: {'image_size': 32} -> {}"):
        extend(old, Table(cells=(make_cell(1),)), Path("t"))


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    table = Table(cells=(make_cell(0), make_cell(1)), grid=GRID, budget_steps=30)
    (tmp_path / "table.json").write_text(json.dumps(table_content(table)))
    assert read_table(tmp_path) == table
    with pytest.raises(UserError, match=r"unknown cell 'digits_lite0_kornblith_2'; did you mean"):
        table.cell("digits_lite0_kornblith_2")
    with pytest.raises(UserError, match=r"is no table \(it has no table.json\): efficientnet-transfer table plan"):
        read_table(tmp_path / "nowhere")
