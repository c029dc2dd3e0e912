"""Published rows beside the results of a table."""

from __future__ import annotations

from transfer.experiments.table.cited import cited_table


def lines(datasets: list[str]) -> dict[tuple[str, str], list[str]]:
    """The cells of each line by its network and how it was transferred."""
    table = cited_table(datasets)
    assert table is not None
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {(network, how): cells for network, how, *cells in rows}


def test_the_datasets_of_the_report_are_columns_and_rows_without_them_are_left_out() -> None:
    found = lines(["voc2007", "digits", "cifar10"])
    assert found["network", "how"] == ["CIFAR-10", "VOC2007", "source"]
    assert found["ResNet-50", "fine-tuned, supervised"] == ["97.5", "85", "SimCLR (arXiv 2002.05709), App. B.8"]
    assert found["BiT-L R152x4", "fine-tuned by BiT-HyperRule"][:2] == ["99.37 ± 0.06", ""]
    assert found["b0", "fine-tuned"][:2] == ["98.1", ""] and ("b5", "fine-tuned") not in found


def test_nothing_is_cited_where_nothing_is_published() -> None:
    assert cited_table(["digits", "folder"]) is None
