"""A table's report: exact lines of a table that has every kind of cell, and pictures that show it."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import t as t_distribution

from tests.support.results import Cells, done, every_kind_of_cell, of, save_table
from transfer.errors import DamagedFile, UserError
from transfer.experiments.table.entries import read_entries
from transfer.experiments.table.markdown import markdown_report
from transfer.experiments.table.report import write_report
from transfer.experiments.table.results import Result, table_results
from transfer.experiments.table.verdicts import MARGIN, published_of, status, table5_lines
from transfer.markdown import csv_text, escape_markdown, harmless_cell
from transfer.paper import TABLE5, geo_mean


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with every kind of cell, and its report."""
    folder = save_table(tmp_path_factory.mktemp("my_table"), every_kind_of_cell())
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def markdown(table: Path) -> list[str]:
    return (table / "report.md").read_text().splitlines()


def test_entries_are_the_plans_cells_with_what_came_of_them(table: Path) -> None:
    entries = read_entries(table)
    assert [entry.id for entry in entries] == [f"cell-{number}" for number in range(11)]
    assert [entry.status for entry in entries] == ["done"] * 5 + ["failed"] * 2 + ["done"] * 3 + ["not run"]
    assert entries[2].accuracy("top1") == pytest.approx(97.9)
    assert entries[2].accuracy("map") is entries[5].accuracy("top1") is entries[10].accuracy("top1") is None
    assert entries[10].result == {} and entries[10].seed == 10


def test_a_damaged_result_is_a_failed_cell_and_a_result_outside_the_plan_is_none(tmp_path: Path) -> None:
    folder = save_table(tmp_path, every_kind_of_cell()[:5])
    for number, text in enumerate(("", "[]", '{"status": "maybe"}', '{"metrics": {}}')):
        (folder / "cells" / f"cell-{number}" / "result.json").write_text(text)
    (folder / "cells" / "stray").mkdir()
    (folder / "cells" / "stray" / "result.json").write_text("{}")
    entries = read_entries(folder)
    assert [entry.status for entry in entries] == ["failed"] * 4 + ["done"]
    assert all("result.json" in entry.result["error"] for entry in entries[:4])


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a table: it has no table\.json"):
        write_report(tmp_path)
    for text in ("", "[]", '{"cells": [{"id": "a"}]}', '{"cells": 3}'):
        (tmp_path / "table.json").write_text(text)
        with pytest.raises(DamagedFile, match=r"table\.json"):
            read_entries(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]


def test_the_first_lines_count_the_cells(markdown: list[str]) -> None:
    assert markdown[0].startswith("# Table my\\_table")
    assert markdown[2].startswith("11 cells: 8 done, 2 failed, 1 not run. 4.0 GPU-hours. Accuracies are of the test")


def test_table_5_has_all_16_cells_beside_ours(markdown: list[str]) -> None:
    start = markdown.index("### Against the best public models")
    assert markdown[start + 4 : start + 13] == [
        "| CIFAR-10 | NASNet-A 98.0, 85M | b0 98.1, 4M | 21x | kornblith | 3 of 4 | **98.10 (97.60 to 98.60)** "
        "| 98.00 (97.50 to 98.50) | 4,007,548 | 21x | not comparable (1 of 4 seeds failed: loss is nan \\| =1) |  |",
        "| CIFAR-100 | NASNet-A 87.5, 85M | b0 88.1, 4M | 21x |  |  |  |  |  |  | not run |  |",
        "| Birdsnap | Inception-v4 81.8, 41M | b5 82.0, 28M | 1.5x | kornblith | 1 | **70.00** | 69.00 | 28,340,784 "
        "| 1.4x | not comparable (1,902 of 2,443 test images) |  |",
        "| Stanford Cars | Inception-v4 93.4, 41M | b3 93.6, 10M | 4.1x | kornblith | 0 of 1 |  |  |  |  | not run "
        "|  |",
        "| Flowers | Inception-v4 98.5, 41M | b5 98.5, 28M | 1.5x |  |  |  |  |  |  | not run |  |",
        "| FGVC Aircraft | Inception-v4 90.9, 41M | b3 90.7, 10M | 4.1x |  |  |  |  |  |  | not run |  |",
        "| Oxford-IIIT Pets | ResNet-152 94.5, 58M | b4 94.8, 17M | 5.6x | paper | 2 | 94.20 (92.93 to 95.47) "
        "| **93.50 (87.15 to 99.85)** | 17,548,616 | 3.3x | inconclusive (2 of at least 3 seeds) |  |",
        "| Food-101 | Inception-v4 90.8, 41M | b4 91.5, 17M | 2.4x | kornblith | 1 | **91.90** | 91.90 | 17,548,616 "
        "| 2.3x | not comparable (weights trained on JFT-300M and ImageNet-1k; 32 px, not 380; search: reduced grid: "
        "4 of 56; instead of the protocol's: image\\_size=32 optim.lr=0.1; went through JPEG once; test split read 2 "
        "times) "
        "| extra data: weights trained on JFT-300M and ImageNet-1k |",
        "| **geo-mean** |  |  | 4.7x |  |  |  |  |  | 3.9x |  | over 4 of 8 cells; the paper's own parameters for "
        "these: 4.0x |",
    ]
    start = markdown.index("### Against the best reported results")
    rows = markdown[start + 4 : start + 13]
    assert [row.split(" | ")[-2] for row in rows] == ["failed", *["not run"] * 7, ""]
    assert rows[-1] == "| **geo-mean** |  |  | 9.6x |  |  |  |  |  |  |  | over 0 of 5 cells |"
    # A cell that was not planned cannot be mistaken for one that failed without a word.
    assert rows[0].endswith("| failed | 1 of 1 seeds failed: =HYPERLINK(1)\\|&lt;b&gt;x&lt;/b&gt; |")


def test_the_rule_and_the_misprints_are_in_the_report(markdown: list[str]) -> None:
    text = "\n".join(markdown)
    assert f"lies within {MARGIN} points of the published value" in text
    assert "prints up to ±0.13" in text and "have an interval of ±0.32" in text
    assert "- Table 6: Pets: 3,369 test images. Rather: 3,669." in markdown
    assert "- Table 5: Pets: ResNet-152 / B4 = 5.6x. Rather: 58M / 17M = 3.4x, and the geo-mean" in text


def test_all_results_hold_the_papers_datasets_first_and_escape_names(markdown: list[str]) -> None:
    start = markdown.index("## All results")
    rows = markdown[start + 4 : markdown.index("## How the status comes about") - 1]
    assert [row.split(" | ")[0] for row in rows] == [
        *("| cifar10", "| cifar10", "| birdsnap", "| cars", "| pets", "| food101"),
        "| =HYPERLINK(1)\\|&lt;b&gt;x&lt;/b&gt; \\`$y\\_z",
    ]
    assert rows[-1].endswith(
        "\\_z | lite0 | scratch | 1 | **50.00** | 40.00 | 4,007,548 |  | 0.50 |  | done | random weights |"
    )
    assert markdown[-3:] == [
        "- hardware: 2 cores of Xeon",
        "- versions: torch 2.13.0",
        "- commit: 0123abcd",
    ]


def test_every_markdown_table_is_rectangular(markdown: list[str]) -> None:
    blocks = "\n".join(markdown).split("\n\n")
    tables = [block.splitlines() for block in blocks if block.startswith("| ")]
    assert len(tables) == 4
    for lines in tables:
        assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_the_csv_has_a_line_a_result_and_numbers_to_compute_with(table: Path) -> None:
    text = (table / "report.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(text)))
    planned = [row for row in rows if row["seeds_planned"] != "0"]
    assert len(rows) == 7 + 16 - 6 and len(planned) == 7
    assert text.splitlines()[1] == (
        "cifar10,b0,kornblith,4,3,1,98.1,97.6032,98.5968,98.0,97.5032,98.4968,,,,,,,top1,not comparable,"
        '1 of 4 seeds failed: loss is nan | =1,,0.5,98.1,"Tan & Le 2019, Table 5",98.1,public,'
        "NASNet-A,98.0,85,21,4007548,21.21,optim.lr=0.01,1 of 4 seeds failed: loss is nan | =1,300.0,1.5"
    )
    by_name = {(row["dataset"], row["backbone"]): row for row in rows}
    pets = by_name["pets", "b4"]
    assert (pets["status"], pets["difference"], pets["quoted_metric"]) == ("inconclusive", "-1.3", "mean_per_class")
    assert "32 px, not 380" in by_name["food101", "b4"]["detail"]
    assert by_name["cifar10", "b7"]["status"] == "failed" and by_name["cifar10", "b7"]["top1"] == ""
    assert by_name["cars", "b7"]["status"] == "not run" and by_name["cars", "b7"]["protocol"] == ""
    assert planned[-1]["dataset"] == "'=HYPERLINK(1)|<b>x</b> `$y_z"
    assert not any(value.startswith(("=", "+", "@")) for row in rows for value in row.values())


def test_names_can_do_no_harm() -> None:
    assert escape_markdown("a|b\n<img src=x> [l](u) \\ ~~s~~ *b* \x1b[31m") == (
        "a\\|b &lt;img src=x&gt; \\[l\\](u) \\\\ \\~\\~s\\~\\~ \\*b\\* \\\\x1b\\[31m"
    )
    for text in ("=1", "+1", "-1", "@x", "\uff1d1"):
        assert harmless_cell(text) == f"'{text}"
    assert harmless_cell("b0") == "b0" and harmless_cell("") == "" and harmless_cell("a=1") == "a=1"
    rows = [{"name": "=1+1", "value": -1.5, "seed": None}, {"name": '\r\n-a "b"\n\tc', "value": 2, "seed": 0}]
    assert csv_text(rows) == 'name,value,seed\n\'=1+1,-1.5,\n"\'-a ""b"" c",2,0\n'
    assert csv_text([]) == ""


def result_of(cells: Cells, tmp_path: Path) -> Result:
    [result] = table_results(read_entries(save_table(tmp_path, cells)))
    return result


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ([98.1], "inconclusive (1 of at least 3 seeds)"),  # exact, once
        ([98.1, 98.1], "inconclusive (2 of at least 3 seeds)"),
        ([98.0, 98.1, 98.2], "reproduced"),
        ([98.4, 98.5, 98.45], "reproduced"),
        ([97.0, 98.1, 99.2], "inconclusive (+0.00, 95% interval -2.73 to +1.90)"),  # no accuracy is above 100%
        ([97.7, 97.8, 97.9], "inconclusive (-0.30, 95% interval -0.55 to -0.05)"),
        ([97.0, 97.1, 97.2], "short by 1.00"),
        ([99.0, 99.1, 99.2], "better by 1.00"),
    ],
)
def test_the_status_is_an_equivalence_test_over_at_least_three_seeds(
    accuracies: list[float], expected: str, tmp_path: Path
) -> None:
    cells: Cells = [("cifar10", "b0", "kornblith", done(value, value)) for value in accuracies]
    assert str(status(result_of(cells, tmp_path))) == expected


def test_the_margin_is_what_a_faithful_rerun_of_three_seeds_needs() -> None:
    spread = 0.13  # the largest of EfficientNetV2's table
    needed = 0.05 + spread + t_distribution.ppf(0.975, 2) * spread / math.sqrt(3)
    assert needed == pytest.approx(MARGIN, abs=0.01)


@pytest.mark.parametrize(
    ("fields", "deviation"),
    [
        ({"weights": {"trained_on": "JFT-300M and ImageNet-1k"}}, "weights trained on JFT-300M and ImageNet-1k"),
        ({"weights": {}}, "weights trained on unknown data"),
        ({"weights": None}, "random weights"),
        ({"image_size": 32}, "32 px, not 224"),
        ({"overrides": {"trainer.max_steps": 8}}, "instead of the protocol's: trainer.max_steps=8"),
        ({"search": "successive halving, 800 steps"}, "search: successive halving, 800 steps"),
        ({"test_reads": 37}, "test split read 37 times"),
        ({"test_reads": None}, "test split read an unknown number of times"),
        ({"copy": "a JPEG copy"}, "a JPEG copy"),
        ({"data_note": "re-cut by hand"}, "re-cut by hand"),
        ({"decay": {"test": "9 of 10 test images"}}, "9 of 10 test images"),
        ({"skipped_images": 3}, "3 images skipped"),
        ({"seen_test_images": 2}, "2 test images seen in training"),
        ({"status": "failed", "error": "loss is nan"}, "1 of 4 seeds failed: loss is nan"),
    ],
)
def test_what_deviates_is_never_called_reproduced(fields: dict[str, Any], deviation: str, tmp_path: Path) -> None:
    seeds = [done(value, value) for value in (98.0, 98.1, 98.2)] + [done(98.1, 98.1, **fields)]
    folder = save_table(tmp_path, [("cifar10", "b0", "kornblith", seed) for seed in seeds])
    [result] = table_results(read_entries(folder))
    assert str(status(result)) == f"not comparable ({deviation})"


def test_what_deviates_is_said_in_markdown_csv_and_picture(tmp_path: Path) -> None:
    deviation = "test split read 37 times"
    seeds = [done(value, value, test_reads=37) for value in (98.0, 98.1, 98.2)]
    folder = save_table(tmp_path, [("cifar10", "b0", "kornblith", seed) for seed in seeds])
    write_report(folder)
    assert f"| not comparable ({deviation}) |" in (folder / "report.md").read_text()
    assert "reproduced |" not in (folder / "report.md").read_text()
    row = next(csv.DictReader(io.StringIO((folder / "report.csv").read_text())))
    assert (row["status"], row["detail"]) == ("not comparable", deviation)
    # Where the bar of a comparable result is drawn in the picture, there is text in ink, and no blue point.
    with Image.open(folder / "table5.png") as picture:
        chart = np.asarray(picture.convert("RGB"))[90:135, 1280:]
    assert not (chart == (0, 0x72, 0xB2)).all(axis=2).any() and (chart.sum(axis=2) < 300).any()


@pytest.mark.parametrize(
    ("protocol", "dataset", "backbone", "fields", "accuracy", "source"),
    [
        ("kornblith", "cifar10", "b0", {}, 98.1, "Table 5"),
        ("paper", "cifar10", "b0", {}, 98.1, "Table 5"),
        ("sam-paper", "cars", "b7", {}, 94.06, "SAM"),
        ("sam-paper-rho0.05", "cars", "b7", {}, 94.43, "SAM"),
        ("sam-paper", "cars", "l2", {"weights": {"trained_on": "JFT-300M and ImageNet-1k"}}, 95.07, "SAM"),
        ("efficientnetv2", "cars", "v2-m", {}, 94.6, "EfficientNetV2"),
        ("kornblith", "pets", "resnet50", {}, 92.1, "SimCLR"),
        ("scratch", "pets", "resnet50", {"weights": None}, 81.5, "SimCLR"),
    ],
)
def test_a_protocol_is_compared_with_its_own_papers_table(
    protocol: str, dataset: str, backbone: str, fields: dict[str, Any], accuracy: float, source: str, tmp_path: Path
) -> None:
    sizes = {"b0": 224, "b7": 600, "l2": 475, "v2-m": 480, "resnet50": 224}
    fields = {**fields, "image_size": sizes[backbone], "num_parameters_without_classifier": of("b0")}
    seeds = [done(value, value, **fields) for value in (accuracy - 0.05, accuracy, accuracy + 0.05)]
    folder = save_table(tmp_path, [(dataset, backbone, protocol, seed) for seed in seeds])
    [result] = table_results(read_entries(folder))
    published = published_of(result)
    assert published is not None and published.accuracy == accuracy and source in published.source
    assert str(status(result)) == "reproduced"
    lines = table5_lines([result])
    assert bool(lines) == (source == "Table 5")
    value = f"{accuracy:.2f} ({published.source})".replace("&", "&amp;")
    assert f"| {value} | reproduced |" in markdown_report("t", [result], lines)


def test_a_protocol_without_a_row_for_the_network_is_compared_with_nothing(tmp_path: Path) -> None:
    result = result_of([("cifar10", "b0", "sam-paper", done(98.1, 98.1))] * 3, tmp_path)
    assert published_of(result) is None and str(status(result)) == "done"


def test_pictures_have_the_promised_sizes_and_show_the_cells(table: Path) -> None:
    # 16 cells, one line each, and four of head and foot.
    with Image.open(table / "table5.png") as picture:
        assert picture.size == (1800, 45 * (16 + 4))
    # Five of the paper's datasets have a planned cell, and the folder has a result: six panels in two rows.
    with Image.open(table / "figure6.png") as picture:
        assert picture.size == (4 * 540, 2 * 480 + 90)
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    blue, orange = (0, 0x72, 0xB2), (0xD5, 0x5E, 0x00)
    assert all((pixels == colour).all(axis=1).sum() > 100 for colour in (blue, orange))


def test_a_table_without_the_papers_cells_is_a_plain_one(tmp_path: Path) -> None:
    cells: Cells = [("digits", "lite0", "kornblith", done(98.9, 98.8)), ("digits", "b0", "scratch", None)]
    written = write_report(save_table(tmp_path, cells))
    assert [path.name for path in written] == [
        *("report.md", "report.csv", "report_seeds.csv", "report.tex", "figure6.png", "figure6.svg", "figure6.pdf")
    ]
    text = (tmp_path / "report.md").read_text()
    assert "Table 5" not in text
    assert (
        "| digits | lite0 | kornblith | 1 | **98.90** | 98.80 | 4,007,548 | optim.lr=0.01 | 0.50 |  | done |  |" in text
    )
    assert "| digits | b0 | scratch | 0 of 1 |  |  |  |  | 0.00 |  | not run |  |" in text
    assert len((tmp_path / "report.csv").read_text().splitlines()) == 3
    with Image.open(tmp_path / "figure6.png") as picture:
        assert picture.size == (540, 480 + 60)  # a legend of one row


def test_a_point_is_seen_wherever_it_lies(tmp_path: Path) -> None:
    for number, (top1, backbone) in enumerate([(12.5, "b0"), (99.9, "v2-xl")]):
        folder = save_table(tmp_path / str(number), [("cifar10", backbone, "kornblith", done(top1, top1))])
        write_report(folder)
        with Image.open(folder / "figure6.png") as picture:
            pixels = np.asarray(picture.convert("RGB"))[90:]  # without the legend
        assert (pixels == (0, 0x72, 0xB2)).all(axis=2).sum() > 30


def test_a_table_of_which_nothing_was_run_has_a_report(tmp_path: Path) -> None:
    written = write_report(save_table(tmp_path, [("cars", "b3", "kornblith", None)]))
    assert [path.name for path in written] == [
        *("report.md", "report.csv", "report_seeds.csv", "report.tex", "table5.png", "table5.svg", "table5.pdf")
    ]
    assert "Nothing yet." in (tmp_path / "report.md").read_text()


def test_several_labels_per_image_are_reported_by_their_metric(tmp_path: Path) -> None:
    several = done(0, 0, metrics={"test": {"map": 0.81, "f1": 0.7, "exact_match": 0.6}})
    write_report(save_table(tmp_path, [("folder", "b0", "kornblith", several)]))
    text = (tmp_path / "report.md").read_text()
    assert "| dataset | backbone | protocol | seeds | mAP | parameters |" in text
    assert "| folder | b0 | kornblith | 1 | **81.00** | 4,007,548 |" in text


def test_voc_2007_is_reported_by_its_11_points_beside_resnets(tmp_path: Path) -> None:
    measured = {"test": {"map": 0.84, "map_11": 0.83, "f1": 0.7, "exact_match": 0.6}}
    cells: Cells = [("voc2007", "b0", "kornblith", done(0, 0, metrics=measured, quoted_metric="map_11"))]
    cells += [("dtd", "b0", "kornblith", done(70, 70))]
    write_report(save_table(tmp_path, cells))
    text = (tmp_path / "report.md").read_text()
    assert "| seeds | top-1 | mean per class | mAP | 11-point mAP | parameters |" in text
    assert "| voc2007 | b0 | kornblith | 1 |  |  | 84.00 | **83.00** | 4,007,548 |" in text
    assert "| network | how | DTD | VOC2007 | source |" in text
    assert "| ResNet-50 | linear, supervised | 74.9 | 82.8 | SimCLR (arXiv 2002.05709), App. B.8 |" in text


def test_the_whole_table_has_the_papers_geo_means(tmp_path: Path) -> None:
    cells: Cells = [
        (
            cell.dataset,
            cell.backbone,
            "kornblith",
            done(cell.accuracy, cell.accuracy, num_parameters_without_classifier=of(cell.backbone)),
        )
        for cell in TABLE5
        for _ in range(3)
    ]
    lines = table5_lines(table_results(read_entries(save_table(tmp_path, cells))))
    assert [line.status.name for line in lines] == ["reproduced"] * 16
    ratios = {
        name: [line.ratio for line in lines if line.paper.column == name and line.ratio] for name in ("public", "best")
    }
    # The paper's printed 4.4x (without its misprint) and 9.6x, from the counted parameters in place of the printed.
    assert geo_mean(ratios["public"]) == pytest.approx(4.4, rel=0.04) and len(ratios["public"]) == 8
    assert geo_mean(ratios["best"]) == pytest.approx(9.6, rel=0.01) and len(ratios["best"]) == 5


def test_reports_are_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_table(tmp_path, [("digits", "b0", "kornblith", done(98, 98))])
    write_report(folder)
    first = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    write_report(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == first

    def fail(figure: object, file: IO[bytes], **options: object) -> None:
        file.write(b"half a picture")
        raise OSError(28, "No space left on device", "report")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(OSError, match="No space left"):
        write_report(folder)
    assert {name: (folder / name).read_bytes() for name in first} == first


def test_a_dataset_is_in_one_piece_in_whatever_order_it_was_planned(tmp_path: Path) -> None:
    pairs = (("dtd", "b0"), ("digits", "b0"), ("dtd", "b1"), ("cars", "b0"), ("digits", "b1"))
    cells: Cells = [(dataset, backbone, "scratch", None) for dataset, backbone in pairs]
    results = table_results(read_entries(save_table(tmp_path, cells)))
    assert [(result.dataset, result.backbone) for result in results] == [
        *(("cars", "b0"), ("dtd", "b0"), ("dtd", "b1"), ("digits", "b0"), ("digits", "b1"))
    ]


def test_differences_of_an_earlier_report_do_not_stay(tmp_path: Path) -> None:
    save_table(tmp_path, [("digits", "b0", "scratch", None)])
    (tmp_path / "report_differences.csv").write_text("datasets\n")
    write_report(tmp_path)
    assert not (tmp_path / "report_differences.csv").exists()
