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
    rows += [*paper.SIMCLR_RESNET50.values(), *paper.SAM.values()]
    for row in rows:
        assert set(row.accuracy) <= set(DATASET_TITLES) and set(row.spread) <= set(row.accuracy)
        assert all(50 < value < 100 for value in row.accuracy.values())
        assert row.millions is not None and 2 < row.millions < 600
    for table in tables:
        assert max(Counter(row.network for row in table).values()) == 1
    # GPipe's own numbers are Table 5's, where that compares with it.
    for cell in column("best"):
        if cell.peer == "GPipe":
            assert paper.GPIPE[0].accuracy[cell.dataset] == cell.peer_accuracy
