"""The published numbers agree with each other, with the paper's printed ratios and with our networks."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from transfer import paper
from transfer.networks.efficientnet import EfficientNet
from transfer.networks.registry import list_backbones
from transfer.paper import (
    DATASET_TITLES,
    PARAMETERS_WITHOUT_CLASSIFIER,
    PRINTED_GEO_MEANS,
    TABLE2,
    TABLE5,
    PaperResult,
    geo_mean,
    paper_results,
)
from transfer.weights.build import build_backbone


def column(name: str) -> list[PaperResult]:
    return [cell for cell in TABLE5 if cell.column == name]


def test_table_5_has_16_cells_one_a_dataset_and_column() -> None:
    assert len(TABLE5) == len({(cell.dataset, cell.backbone) for cell in TABLE5}) == 16
    assert [cell.dataset for cell in column("public")] == [cell.dataset for cell in column("best")]
    assert list(DATASET_TITLES) == [cell.dataset for cell in column("public")]
    assert {cell.backbone for cell in TABLE5} <= set(list_backbones())
    assert [(cell.backbone, cell.accuracy) for cell in paper_results("pets")] == [("b4", 94.8), ("b6", 95.4)]
    assert paper_results("digits") == []


@pytest.mark.parametrize("cell", [cell for cell in TABLE5 if cell.ratio], ids=lambda c: f"{c.dataset}-{c.backbone}")
def test_a_printed_ratio_is_that_of_the_printed_parameters_but_for_the_misprint(cell: PaperResult) -> None:
    assert cell.ratio is not None and cell.printed_ratio is not None
    if (cell.dataset, cell.backbone) == ("pets", "b4"):
        assert (cell.printed_ratio, round(cell.ratio, 1)) == (5.6, 3.4)
    else:
        assert round(cell.ratio, 0 if cell.ratio > 10 else 1) == cell.printed_ratio


def test_the_printed_geo_means_come_out_of_the_printed_ratios_and_4_4_without_the_misprint() -> None:
    for name, cells in (("public", 8), ("best", 5)):
        printed = [cell.printed_ratio for cell in column(name) if cell.printed_ratio is not None]
        assert len(printed) == cells
        assert round(geo_mean(printed), 1) == PRINTED_GEO_MEANS[name]
    corrected = [3.4 if cell.dataset == "pets" else cell.printed_ratio or 0 for cell in column("public")]
    assert round(geo_mean(corrected), 1) == 4.4
    assert geo_mean([2.0, 8.0]) == pytest.approx(4.0)


@pytest.fixture(scope="module")
def networks() -> dict[str, EfficientNet]:
    with torch.device("meta"):
        return {name: build_backbone(name) for name in PARAMETERS_WITHOUT_CLASSIFIER}


def test_the_parameters_are_our_networks_without_classifier(networks: dict[str, EfficientNet]) -> None:
    counted = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    assert counted == PARAMETERS_WITHOUT_CLASSIFIER
    for cell in TABLE5:  # printed rounded, two of them cut off
        if cell.millions is not None:
            assert -0.5 < counted[cell.backbone] / 1e6 - cell.millions < 0.75


def test_table_2_counts_the_classifier_too(networks: dict[str, EfficientNet]) -> None:
    printed = {row.network: row.millions for row in TABLE2}
    for name, count in PARAMETERS_WITHOUT_CLASSIFIER.items():
        classifier = (networks[name].num_features + 1) * 1000
        assert (count + classifier) / 1e6 == pytest.approx(printed[name], rel=0.025)


def test_every_row_of_transfer_accuracies_names_known_datasets_once() -> None:
    tables = (paper.KORNBLITH_DIGITISED, paper.EFFICIENTNET_DIGITISED, paper.GPIPE, paper.EFFICIENTNETV2)
    rows = [row for table in tables for row in table]
    rows += [*paper.SIMCLR_RESNET50.values(), *paper.SIMCLR.values(), *paper.BYOL.values(), *paper.SAM.values()]
    for row in [*rows, *paper.BIT]:
        assert set(row.accuracy) <= {*DATASET_TITLES, *paper.FURTHER_TITLES}
        assert set(row.spread) <= set(row.accuracy)
        assert all(37 < value < 100 for value in row.accuracy.values())
        assert row.millions is None if row in paper.BIT else 2 < (row.millions or 0) < 600
    for table in tables:
        assert max(Counter(row.network for row in table).values()) == 1
    # GPipe's own numbers are Table 5's, where that compares with it.
    for cell in column("best"):
        if cell.peer == "GPipe":
            assert paper.GPIPE[0].accuracy[cell.dataset] == cell.peer_accuracy


def test_the_rows_of_resnet_50_are_the_printed_lines() -> None:
    """Table 3 of BYOL, as its text has it: its own rows, and SimCLR's, which it quotes."""
    order = ["food101", "cifar10", "cifar100", "birdsnap", "sun397", "cars", "aircraft", "voc2007", "dtd"]
    order += ["pets", "caltech101", "flowers"]
    printed = {
        "byol linear": "75.3 91.3 78.4 57.2 62.2 67.8 60.6 82.5 75.5 90.4 94.2 96.1",
        "simclr linear": "68.4 90.6 71.6 37.4 58.8 50.3 50.3 80.5 74.5 83.6 90.3 91.2",
        "labels linear": "72.3 93.6 78.3 53.7 61.9 66.7 61.0 82.8 74.9 91.5 94.5 94.7",
        "byol fine-tuned": "88.5 97.8 86.1 76.3 63.7 91.6 88.1 85.4 76.2 91.7 93.8 97.0",
        "simclr fine-tuned": "88.2 97.7 85.9 75.9 63.5 91.3 88.1 84.1 73.2 89.2 92.1 97.0",
        "labels fine-tuned": "88.3 97.5 86.4 75.8 64.3 92.1 86.0 85.0 74.6 92.1 93.3 97.6",
        "labels random": "86.9 95.9 80.2 76.1 53.6 91.4 85.9 67.3 64.8 81.5 72.6 92.0",
    }
    tables = {"byol": paper.BYOL, "simclr": paper.SIMCLR, "labels": paper.SIMCLR_RESNET50}
    for name, line in printed.items():
        table, how = name.split()
        assert list(tables[table][how].accuracy.items()) == list(zip(order, map(float, line.split()), strict=True))


def test_bit_gains_as_much_by_more_data_as_its_table_2_prints() -> None:
    small, medium, large = paper.BIT
    gains = {name: round(medium.accuracy[name] - small.accuracy[name], 2) for name in small.accuracy}
    assert gains == {"cifar10": 1.40, "cifar100": 5.96, "pets": 0.49, "flowers": 9.41}
    assert all(large.accuracy[name] > medium.accuracy[name] for name in large.accuracy)


def test_the_further_datasets_have_a_published_result_for_resnet_50() -> None:
    for dataset, accuracy in {"sun397": 64.3, "voc2007": 85.0, "dtd": 74.6, "caltech101": 93.3}.items():
        found = paper.published_result("kornblith", dataset, "resnet50")
        assert found is not None and (found.accuracy, found.image_size) == (accuracy, 224)
        assert "SimCLR" in found.source


def test_cited_rows_have_a_source_and_begin_with_table_5() -> None:
    rows = paper.cited_rows()
    assert len({(cited.row.network, cited.how, cited.source) for cited in rows}) == len(rows) == 25
    first = [cited for cited in rows if cited.source == paper.TABLE5_SOURCE]
    assert rows[: len(first)] == tuple(first) and [cited.row.network for cited in first][-1] == "b7"
    assert sum(len(cited.row.accuracy) for cited in first) == len(TABLE5)
    assert {cited.how for cited in rows if cited.row.network == "l2"} == {
        "fine-tuned from NoisyStudent",
        "fine-tuned from NoisyStudent, SAM",
    }
