"""predict --sheet: the surest and the least sure photos of each predicted class, on one page."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.reported import HOSTILE, Page
from tests.support.runs import call, save_classes, save_photo, untrained_run
from transfer.commands import predict
from transfer.commands.predict_sheet import MOST_CLASSES, MOST_PHOTOS, SIDE, Sheet
from transfer.errors import BadValue
from transfer.images.depth import DEFAULT_DECODING
from transfer.predictions import Prediction, read_prediction


def said(*shares: float, unknown: bool = False, threshold: float | None = None) -> Prediction:
    found = read_prediction(np.array(shares, np.float32), [f"class {k}" for k in range(len(shares))], 1, threshold)
    return Prediction(**{**vars(found), "unknown": unknown})


def names(found: list[tuple[float, str]]) -> list[str]:
    return [name for _, name in found]


def test_the_ends_of_each_class_are_kept_and_none_twice() -> None:
    sheet = Sheet()
    shares = np.random.default_rng(0).permutation(np.linspace(0.51, 0.99, 30))
    for share in shares:
        sheet.add(f"{share:.4f}", said(share, 1 - share))
    for name, share in (("a", 0.2), ("b", 0.4), ("c", 0.1), ("d", 0.3), ("e", 0.35), ("f", 0.45), ("g", 0.15)):
        sheet.add(name, said(share, 1 - share))
    ranked = [f"{share:.4f}" for share in sorted(shares)]
    surest, least = sheet.photos("class 0")
    assert names(surest) == ranked[::-1][:MOST_PHOTOS] and names(least) == ranked[:MOST_PHOTOS]
    surest, least = sheet.photos("class 1")
    assert (names(surest), names(least)) == (["c", "g", "a", "d", "e"], ["f", "b"])  # the surest of class 1 first
    assert sheet.counts == {"class 0": 30, "class 1": 7}


def test_an_image_lies_under_each_of_its_labels_or_as_unknown() -> None:
    sheet = Sheet()
    sheet.add("both", said(0.75, 0.875, threshold=0.5))
    sheet.add("none", said(0.25, 0.125, threshold=0.5))
    sheet.add("strange", said(0.75, 0.25, unknown=True))
    assert {label: sheet.photos(label)[0] for label in sheet.counts} == {
        "class 1": [(0.875, "both")],
        "class 0": [(0.75, "both")],
        "unknown": [(0.75, "strange")],
    }


def test_the_page_holds_small_copies_and_escapes_names(tmp_path: Path) -> None:
    sheet, photo = Sheet(), save_photo(tmp_path / "<b>.png", 0, 200)
    Image.new("RGB", (900, 300), (0, 200, 0)).save(tmp_path / "wide.jpg")
    for number, name in enumerate([*HOSTILE, *map(str, range(MOST_CLASSES))]):
        images = [tmp_path / "wide.jpg", photo, tmp_path / "gone.jpg"] if number == 0 else [photo]
        for image in images:
            sheet.add(str(image), Prediction(name, 0.5, ((name, 0.5),), ((name, 0.5),), np.float32([0.5])))
    sheet.write(tmp_path / "sheet.html", DEFAULT_DECODING)
    html = (tmp_path / "sheet.html").read_text()
    page = Page(html)
    pictures = [attributes["src"] or "" for name, attributes in page.elements if name == "img"]
    assert len(pictures) == MOST_CLASSES + 1 and page.text.count("not readable any more") == 1
    with Image.open(io.BytesIO(base64.b64decode(pictures[0].partition(",")[2]))) as small:
        assert max(small.size) == SIDE and small.width in range(3 * small.height - 3, 3 * small.height + 4)
    assert "40 most frequent classes; 4 more were predicted" in page.text
    assert "script" not in {name for name, _ in page.elements} and HOSTILE[0] in page.text
    assert not [attributes for _, attributes in page.elements if any(key.startswith("on") for key in attributes)]


def test_the_command_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = untrained_run(tmp_path / "run", ["cat", "dog"])
    photos = save_classes(tmp_path / "photos", {"a": 3, "b": 2})
    words = (run_dir, photos, "--out", tmp_path / "a.csv", "--engine", "torch", "--sheet")
    assert call(predict.main, *words, tmp_path / "sheet.html") == 0
    assert f"sheet: {tmp_path / 'sheet.html'}" in capsys.readouterr().err
    page = Page((tmp_path / "sheet.html").read_text())
    assert sum(name == "img" for name, _ in page.elements) == 5
    for path, message in ((tmp_path / "sheet.png", "allowed: a name that ends in .html"), (tmp_path, "is a folder")):
        assert call(predict.main, *words, path) == 2
        assert message in capsys.readouterr().err


def test_another_kind_of_file_is_refused() -> None:
    from transfer.commands.predict_sheet import check_sheet

    check_sheet(None)
    with pytest.raises(BadValue, match=r"^`sheet`=a\.csv: it is a page"):
        check_sheet(Path("a.csv"))
    with pytest.raises(BadValue, match=r"^`sheet`=a\.html is `out`, too"):
        check_sheet(Path("a.html"), Path("a.html"))
