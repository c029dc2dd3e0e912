"""Class activation maps: the maths, where the evidence lies, the pixels of a picture, and scripts/explain.py."""

from __future__ import annotations

import csv
import html
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageFont
from torch import Tensor, nn

from tests.support.runs import CHEAP, call, save_classes, save_csv, save_photo
from transfer.commands import explain, finetune, predict
from transfer.commands.explain_sheet import Answer, SheetRow, make_row, write_sheet
from transfer.errors import UserError
from transfer.images.decode import decode_image
from transfer.networks.classifier import Classifier
from transfer.networks.efficientnet import Baseline, EfficientNet, StageRow, Variant
from transfer.networks.heads import LinearHead, build_head
from transfer.networks.layers import LayerSettings
from transfer.runs import class_maps, overlay
from transfer.runs.class_maps import class_activation_map, explain_class, find_stage, grad_cam, hi_res_cam

WHOLE = (0.0, 0.0, 1.0, 1.0)


class OwnHead(LinearHead):
    """A linear head of the user's own, which is not linear."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.square())


class Decision(nn.Module):
    """Has no gradient."""

    def forward(self, features: Tensor) -> Tensor:
        return (features[:, :3] > 0).float()


def with_head(classifier: Classifier, name: str) -> Classifier:
    """In eval mode, with every parameter of the head and the statistics away from where they start."""
    head = build_head(name, classifier.backbone.num_features, 3, 0.2)
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    classifier.head = head
    for _ in range(5):
        classifier(torch.randn(8, 3, 64, 64))
    return classifier.eval()


def classifier_from_stage(classifier: Classifier, features: Tensor) -> Tensor:
    """Logits from the map at stride 8, the output of the third stage."""
    for stage in classifier.backbone.stages[3:]:
        features = stage(features)
    return classifier.forward_head(classifier.backbone.top(features))


def test_a_class_activation_map_by_hand() -> None:
    features = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[0.0, 1.0], [0.0, 5.0]]]])
    class_map = class_activation_map(features, torch.tensor([[2.0, -1.0]]))
    assert class_map.tolist() == [[[2.0, 3.0], [6.0, 3.0]]]


@pytest.fixture
def few_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last features of the small images of tests have as many cells as those of large ones."""
    monkeypatch.setattr(class_maps, "ENOUGH_CELLS", 1)


@pytest.mark.usefixtures("few_cells")
@pytest.mark.parametrize("class_index", [None, 1])
def test_the_mean_of_cam_plus_the_bias_is_the_logit(tiny_classifier: Classifier, class_index: int | None) -> None:
    classifier = with_head(tiny_classifier, "linear").double()
    images = torch.randn(4, 3, 96, 64, dtype=torch.float64)
    explained = explain_class(classifier, images, class_index)
    assert explained.method == "CAM" and explained.maps.shape == (4, 3, 2)
    expected = classifier(images).detach()
    torch.testing.assert_close(explained.logits, expected)
    classes = expected.argmax(1) if class_index is None else torch.tensor([1] * 4)
    assert explained.classes.tolist() == classes.tolist()
    logits = explained.maps.mean((1, 2)) + classifier.head.fc.bias[classes]
    torch.testing.assert_close(logits.detach(), expected[range(4), classes])
    assert not explained.maps.requires_grad


def test_grad_cam_of_a_linear_head_is_the_positive_part_of_cam(tiny_classifier: Classifier) -> None:
    head = with_head(tiny_classifier, "linear").head.double()
    features, classes = torch.randn(6, 320, 3, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
    cam = class_activation_map(features, head.fc.weight[classes].detach())
    assert 0.2 < (cam > 0).float().mean() < 0.8
    torch.testing.assert_close(grad_cam(head, features, classes) * 15, cam.relu())


@pytest.mark.usefixtures("few_cells")
@pytest.mark.parametrize("name", ["mlp", "cosine", "tests.commands.test_explain.OwnHead"])
def test_grad_cam_is_that_of_a_backward_pass_through_the_whole_network(tiny_classifier: Classifier, name: str) -> None:
    classifier = with_head(tiny_classifier, name)
    images = torch.randn(3, 3, 96, 96)
    explained = explain_class(classifier, images)
    assert explained.method == "Grad-CAM"
    assert all(parameter.grad is None for parameter in classifier.parameters())
    kept: list[Tensor] = []

    def keep(module: nn.Module, given: object, features: Tensor) -> None:
        features.retain_grad()
        kept.append(features)

    classifier.backbone.register_forward_hook(keep)
    for image, class_map, chosen in zip(images, explained.maps, explained.classes, strict=True):
        logits = classifier(image[None])[0]
        assert chosen == logits.argmax()
        logits[chosen].backward()
        features = kept.pop()
        assert features.grad is not None
        weights = features.grad[0].mean((1, 2))
        expected = sum(w * channel for w, channel in zip(weights, features[0], strict=True))
        assert isinstance(expected, Tensor)
        torch.testing.assert_close(class_map, expected.clamp(min=0).detach(), rtol=1e-4, atol=1e-6)


def test_a_head_without_gradient_is_refused(tiny_classifier: Classifier) -> None:
    message = r"^head Decision: its logits have no gradient, which class maps need$"
    with pytest.raises(UserError, match=message):
        grad_cam(Decision(), torch.randn(2, 8, 3, 3), torch.tensor([0, 1]))
    tiny_classifier.head = Decision()
    with pytest.raises(UserError, match=message):
        explain_class(tiny_classifier.eval(), torch.randn(2, 3, 64, 64))


def test_hi_res_cam_of_the_last_features_of_a_linear_head_is_cam(tiny_classifier: Classifier) -> None:
    classifier = with_head(tiny_classifier, "linear").double()
    images = torch.randn(3, 3, 96, 64, dtype=torch.float64)
    found = hi_res_cam(classifier, images, classifier.backbone, 2)
    weight = classifier.head.fc.weight[found.classes].detach()
    assert found.classes.tolist() == [2, 2, 2] and found.maps.shape == (3, 3, 2)
    cam = class_activation_map(classifier.forward_features(images).detach(), weight)
    torch.testing.assert_close(found.maps * 6, cam)
    torch.testing.assert_close(found.logits, classifier(images).detach())


@pytest.mark.parametrize(
    ("size", "stride"), [(224, None), (193, None), (192, 16), (112, 16), (64, 8), (32, 4), (8, None)]
)
def test_the_last_stage_with_enough_cells_is_explained(
    tiny_classifier: Classifier, size: int, stride: int | None
) -> None:
    strides = {row["module"]: row["reduction"] for row in tiny_classifier.feature_info}
    stage = find_stage(tiny_classifier, size)
    names = [name for name, module in tiny_classifier.backbone.named_modules() if module is stage]
    assert [strides[name] for name in names] == ([] if stride is None else [stride])


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_hi_res_cam_is_that_of_a_backward_pass_through_the_whole_network(
    tiny_classifier: Classifier, name: str
) -> None:
    classifier = with_head(tiny_classifier, name)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():  # as where nothing is trained
        explained = explain_class(classifier, images)
    assert explained.method == "HiResCAM" and explained.maps.shape == (2, 8, 8)
    assert not explained.maps.requires_grad and not explained.logits.requires_grad
    assert all(parameter.grad is None for parameter in classifier.parameters())
    *_, features = classifier.backbone.forward_stages(images)[:3]  # strides 2, 4, 8
    torch.testing.assert_close(features.shape, torch.Size((2, features.shape[1], 8, 8)))
    step = 1e-3
    changed = classifier_from_stage(classifier, (1 + step) * features) - classifier_from_stage(classifier, features)
    expected = (changed / step).gather(1, explained.classes[:, None])[:, 0]  # the sum of all cells' shares
    torch.testing.assert_close(explained.maps.sum((1, 2)), expected.detach(), rtol=0.05, atol=0.02)


def marked_noise(num_images: int, anywhere: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Noise of 64 px with a mark of 16 px in one corner, or anywhere, whose colour is the class; where the mark is.

    The place is the row and the column: 0 or 1 of a corner, else of its first pixel.
    """
    images = 0.3 * torch.randn(num_images, 3, 64, 64)
    labels = torch.arange(num_images) % 2
    corners = torch.stack([torch.arange(num_images) // 4 % 2, torch.arange(num_images) // 2 % 2], 1)
    places = torch.randint(49, (num_images, 2)) if anywhere else 48 * corners
    for image, label, (row, column) in zip(images, labels, places.tolist(), strict=True):
        image[label, row : row + 16, column : column + 16] += 3.0
    return images, labels, places if anywhere else corners


def train_on_marks(rows: tuple[StageRow, ...], head: str, anywhere: bool = False) -> Classifier:
    """A small network that has learned to tell the marks' colours."""
    variant = Variant("shallow", 1.0, 1.0, 64, 0.0, 0, 0, Baseline(8, rows, top_channels=32))
    backbone = EfficientNet(variant, LayerSettings(bn_momentum=0.1))
    classifier = Classifier(backbone, build_head(head, backbone.num_features, 2, 0.0), 2)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=3e-3)
    for _ in range(40):
        images, labels, _ = marked_noise(32, anywhere)
        loss = F.cross_entropy(classifier(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return classifier.eval()


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_the_corner_with_the_evidence_lights_up(head: str) -> None:
    # Receptive fields of 19 px, stride 8: a network that can tell the corners apart.
    rows = (StageRow(1, 3, 1, 8, 8, 1, 0.0), StageRow(2, 3, 2, 8, 16, 1, 0.0), StageRow(2, 3, 2, 16, 16, 1, 0.0))
    classifier = train_on_marks(rows, head)
    images, labels, corners = marked_noise(64)
    explained = explain_class(classifier, images)
    assert explained.classes.tolist() == labels.tolist() and explained.maps.shape == (64, 8, 8)
    strongest = explained.maps.flatten(1).argmax(1)
    peaks = torch.stack([strongest // 8, strongest % 8], 1)
    assert ((peaks - 7 * corners).abs() <= 2).all()  # the mark's two cells, and one that sees a part of it


def localisation(maps: Tensor, places: Tensor) -> tuple[float, float]:
    """The share of maps whose maximum lies on the mark, and the share of the positive evidence that does."""
    centres = (np.arange(64) + 0.5) / 64
    hits, shares = [], []
    for class_map, (row, column) in zip(maps.numpy(), places.tolist(), strict=True):
        stretched = overlay.stretch(class_map.clip(min=0), centres, centres)
        on_mark = np.zeros((64, 64), bool)
        on_mark[row : row + 16, column : column + 16] = True
        hits.append(on_mark.flat[stretched.argmax()])
        shares.append(stretched[on_mark].sum() / max(stretched.sum(), 1e-9))
    return float(np.mean(hits)), float(np.mean(shares))


def test_of_small_images_an_earlier_stage_shows_where_the_evidence_is() -> None:
    # As deep as the networks of the tables: stride 32, of 64 px a map of 2 x 2 cells.
    rows = tuple(StageRow(2, 3, 2, width, 16, 1, 0.0) for width in (8, 16, 16, 16))
    classifier = train_on_marks(rows, "linear", anywhere=True)
    images, labels, places = marked_noise(64, anywhere=True)
    explained = explain_class(classifier, images)
    assert (explained.classes == labels).float().mean() > 0.95 and explained.method == "HiResCAM"
    with torch.no_grad():
        cam = class_activation_map(classifier.forward_features(images), classifier.head.fc.weight[explained.classes])
    assert cam.shape == (64, 2, 2) and explained.maps.shape == (64, 8, 8)
    (hits, share), (cam_hits, cam_share) = localisation(explained.maps, places), localisation(cam, places)
    assert hits > 0.4 > 0.2 > cam_hits  # by chance: 1 / 16
    assert share > 2 * cam_share and share > 0.25


def test_a_map_is_stretched_bilinearly() -> None:
    class_map = torch.randn(3, 5)
    y, x = (np.arange(21) + 0.5) / 21, (np.arange(40) + 0.5) / 40
    expected = F.interpolate(class_map[None, None], (21, 40), mode="bilinear", align_corners=False)[0, 0]
    np.testing.assert_allclose(overlay.stretch(class_map.numpy(), y, x), expected.numpy(), rtol=1e-5, atol=1e-6)


def test_the_overlay_dims_what_was_not_seen_and_colours_only_positive_evidence() -> None:
    panel = Image.new("RGB", (200, 100), (100, 100, 100))
    class_map = np.array([[-1.0, 0.0], [0.0, 2.0]], np.float32)
    drawn = np.asarray(overlay.overlay(panel, class_map, (0.25, 0.0, 0.75, 1.0))).astype(int)
    assert drawn.shape == (100, 200, 3)
    assert (drawn[:, :50] == 35).all() and (drawn[:, 150:] == 35).all()
    assert (drawn[[0, 99], 50:150] == 255).all() and (drawn[:, [50, 149]] == 255).all()  # the frame
    assert (drawn[1:25, 51:75] == 100).all()
    # Beyond the centre of its cell the map stays at its maximum: 65% of the darkest red.
    assert (drawn[75:99, 125:149] == np.round([0.65 * 220 + 35, 0.65 * 20 + 35, 0.65 * 20 + 35])).all()


def test_a_part_thinner_than_a_pixel_is_framed() -> None:
    photo = Image.new("RGB", (100, 2), "grey")
    drawn = np.asarray(overlay.overlay(photo, np.ones((1, 1)), (0.45, 0.3, 0.455, 0.6)))
    assert drawn.shape == (2, 100, 3) and (drawn == 255).all(2).sum() == 1


def test_without_a_crop_there_is_no_frame_and_without_evidence_no_colour() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    panel = Image.fromarray(noise)
    drawn = overlay.overlay(panel, np.array([[-3.0, 0.0]], np.float32), WHOLE)
    assert np.array_equal(np.asarray(drawn), np.asarray(panel.convert("L").convert("RGB")))


@pytest.mark.parametrize("size", [(640, 427), (427, 640), (8, 8), (3000, 10)])
def test_the_picture_has_a_column_for_the_photo_and_one_for_each_run(size: tuple[int, int]) -> None:
    width, height = size
    panel = overlay.fit_photo(np.full((height, width, 3), (255, 0, 0), np.uint8))
    assert panel.size == (max(1, round(400 * width / max(size))), max(1, round(400 * height / max(size))))
    evidence = [overlay.Evidence(np.ones((2, 2), np.float32), WHOLE, ("9.0% cat", "CAM", "runs/1"))] * 3
    picture = np.asarray(overlay.draw_picture(panel, ("photo.jpg", "1 x 1"), evidence))
    assert picture.shape == (panel.height + 3 * 22 + 3 * 12, 4 * 412 + 12, 3)
    assert (picture[12 : 12 + panel.height, 12 : 12 + panel.width] == (255, 0, 0)).all()
    for column in range(4):
        left = 12 + 412 * column
        assert (picture[:, left - 12 : left] == 255).all() and (picture[:12] == 255).all()
        text = picture[panel.height + 24 :, left : left + 400]
        assert all((text[line : line + 22] < 128).all(2).any() for line in (0, 22, 44))
        assert (picture[12 : 12 + panel.height, left + panel.width : left + 400] == 255).all()


def test_a_long_caption_is_cut_where_it_says_least() -> None:
    font = ImageFont.load_default(16)
    assert overlay.shorten("97.0% cat\n of  two lines", font, keep_end=False) == "97.0% cat of two lines"
    cut = overlay.shorten("97.0% " + "cat" * 50, font, keep_end=False)
    assert cut.startswith("97.0% catcat") and cut.endswith("...") and 380 < font.getlength(cut) <= 400
    cut = overlay.shorten("runs/" * 50 + "17", font, keep_end=True)
    assert cut.startswith("...") and cut.endswith("runs/17") and 380 < font.getlength(cut) <= 400


def test_pictures_lie_as_the_photos_did_and_never_on_each_other(tmp_path: Path) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    for name in ("cat/1.jpg", "cat/1.PNG", "Dog/1.jpg"):
        save_photo(folder / name, 0)
    targets = explain.plan_pictures([folder, folder / "Dog" / "1.jpg", folder / "cat", folder / "cat" / "1.jpg"], out)
    names = {str(path.relative_to(folder)): str(target.relative_to(out)) for path, target in targets.items()}
    assert names == {"Dog/1.jpg": "Dog/1.png", "cat/1.jpg": "cat/1.png", "cat/1.PNG": "cat/1_2.png"}
    apart = explain.plan_pictures([folder / "cat" / "1.jpg", folder / "Dog" / "1.jpg"], out)
    assert [target.name for target in apart.values()] == ["1.png", "1_2.png"]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    photo = tmp_path / "cat.png"
    save_photo(photo, 0)
    with pytest.raises(UserError, match=rf"^{photo} exists, and nothing is overwritten: choose another `out_dir`$"):
        explain.plan_pictures([photo], tmp_path)
    with pytest.raises(UserError, match=rf"^`out_dir`={photo}: not a folder$"):
        explain.plan_pictures([photo], photo)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of two labels, some of them with both."""
    folder = tmp_path_factory.mktemp("photos")
    rows = [["image", "labels"]]
    for index in range(24):
        save_photo(folder / f"{index}.png", index)
        rows.append([f"{index}.png", ("day|sea", "sea", "day")[index % 3]])
    return Path(save_csv(folder / "table.csv", rows))


@pytest.fixture(scope="module")
def runs(table: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run with the linear head on two classes at 64 px, and a multilabel one with the cosine head at 32 px."""
    folder = tmp_path_factory.mktemp("explain")
    linear, cosine = folder / "linear", folder / "cosine"
    cheap = (
        *CHEAP,
        "--trainer.max_epochs",
        "1",
        "--dataset",
        "folder",
        "--data.batch_size",
        "8",
        "--pretrained",
        "false",
    )
    classes = save_classes(folder / "classes", {"cat": 16, "dog": 16})
    assert call(finetune.main, *cheap, "--data_root", classes, "--image_size", "64", "--out_dir", linear) == 0
    several = ("--data_root", table, "--data.multilabel", "true", "--loss.name", "bce", "--head", "cosine")
    assert call(finetune.main, *cheap, *several, "--out_dir", cosine) == 0
    return linear, cosine


@pytest.mark.slow
def test_two_runs_side_by_side_say_what_predict_says(
    runs: tuple[Path, Path], table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["3.png", "1.png", "2.png"]
    images = [table.parent / name for name in names]
    out = tmp_path / "out"
    arguments = (runs[0], *images, "--compare", runs[1], "--batch_size", "2", "--out", out)
    capsys.readouterr()
    assert call(explain.main, *arguments) == 0
    captured = capsys.readouterr()
    assert captured.err == f"next: efficientnet-transfer export {runs[0]} --out bundle/\n"
    assert {path.name for path in out.iterdir()} == {*names, "sheet.html"}
    lines = captured.out.splitlines()
    assert lines.pop() == f"all pictures on a page: {out / 'sheet.html'}"
    expected = [f"{out / name}:" for name in names]
    for run in runs:
        rows = tmp_path / "rows.csv"
        assert call(predict.main, run, *images, "--top_k", "1", "--num_workers", "0", "--out", rows) == 0
        with open(rows, encoding="utf-8", newline="") as file:
            for i, row in enumerate(csv.DictReader(file)):
                expected[i] += f" {run} {float(row['probability']):.1%} {row['class']} (HiResCAM"
    for line, beginning in zip(lines, expected, strict=True):
        assert line.replace(": nothing speaks for it", "").replace(");", "") == f"{beginning})"
    width, height = Image.open(images[0]).size
    for name in names:
        with Image.open(out / name) as picture:
            assert picture.format == "PNG" and picture.mode == "RGB"
            assert picture.size == (3 * 412 + 12, round(400 * min(1, height / width)) + 3 * 22 + 3 * 12)


@pytest.mark.slow
def test_ugly_files_are_drawn_upright_or_named(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.new("RGB", (60, 40), "red").save(folder / "a.jpg", exif=exif)
    Image.new("L", (40, 40), 200).save(folder / "b.png")
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(folder / "c.png")
    (folder / "d.png").write_bytes(b"")
    assert call(explain.main, runs[0], folder, "--out", out, "--class", "dog") == 1
    captured = capsys.readouterr()
    unreadable = f"unreadable: {folder / 'd.png'}: empty (0 bytes)"
    assert captured.err.splitlines()[:-1] == [unreadable, "1 of 4 images could not be read"]
    *lines, page = captured.out.splitlines()
    assert len(lines) == 3 and all("% dog (" in line for line in lines) and page.endswith(str(out / "sheet.html"))
    rotated, grey, clear = (decode_image(out / f"{name}.png") for name in "abc")
    assert rotated.shape[0] == grey.shape[0] == 400 + 3 * 22 + 3 * 12
    assert (rotated[12:412, 12 : 12 + 267, 0] > 200).all() and (rotated[12:412, 12 + 267 : 412] == 255).all()
    assert (grey[12:412, 12:412] == 200).all() and (clear[12:412, 12:412] == 255).all()


def refused(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    capsys.readouterr()
    assert call(explain.main, *argv) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ")
    return captured.err.removeprefix("error: ").rstrip("\n")


@pytest.mark.slow
def test_what_cannot_be_explained_is_refused_before_anything_is_written(
    runs: tuple[Path, Path], table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    linear, cosine = runs
    image, out = table.parent / "0.png", tmp_path / "out"
    end = ("--out", out)
    assert refused(capsys, cosine, image, "--class", "sae", *end) == (
        f"unknown --class for {cosine}: 'sae'; did you mean 'sea'? (allowed: day, sea)"
    )
    message = refused(capsys, cosine, image, "--compare", linear, "--class", "sea", *end)
    assert message == f"unknown --class for {linear}: 'sea' (allowed: cat, dog)"
    assert refused(capsys, linear, image, "--batch_size", "0", *end) == "--data.batch_size 0 (allowed: at least 1)"
    huge = refused(capsys, linear, image, "--batch_size", str(10**20), *end)
    assert huge == f"--data.batch_size {10**20} (allowed: below 2147483648)"
    assert refused(capsys, linear, tmp_path / "no", *end) == f"no such file or folder: {tmp_path / 'no'}"
    assert refused(capsys, table.parent, image, *end) == f"{table.parent} is not a run: it has no config.yaml"
    out.mkdir()
    shutil.copy(image, out)
    assert refused(capsys, linear, image, *end) == (
        f"{out / '0.png'} exists, and nothing is overwritten: choose another --out_dir"
    )
    assert [path.name for path in out.iterdir()] == ["0.png"]


def page_of(folder: Path, *rows: SheetRow) -> tuple[str, list[str]]:
    """The page's text, and the photos in its order."""
    text = write_sheet(rows, folder).read_text(encoding="utf-8")
    return text, [html.unescape(name) for name in re.findall(r'alt="([^"]*)"', text)]


def test_the_page_shows_mistakes_first_and_the_surest_of_them(tmp_path: Path) -> None:
    said = {"a/cat/1": ("dog", 0.6), "a/cat/2": ("cat", 0.9), "a/cat/3": ("dog", 0.95), "new/4": ("cat", 0.5)}
    rows = [
        make_row(
            tmp_path / name, tmp_path / f"{name}.png", tmp_path, (824, 400), [Answer("run", *answer)], {"cat", "dog"}
        )
        for name, answer in said.items()
    ]
    assert [row.truth for row in rows] == ["cat", "cat", "cat", None]
    text, photos = page_of(tmp_path, *rows)
    assert photos == [str(tmp_path / name) for name in ("a/cat/3", "a/cat/1", "new/4", "a/cat/2")]
    assert "4 photos; of 3 in a folder with the name of a class, 1 are given that class" in text
    assert text.count('<figure class="mistaken">') == 2 and text.count("folder: cat") == 3
    assert re.findall(r'<img src="([^"]*)"', text)[0] == "a/cat/3.png"
    assert write_sheet(rows, tmp_path).name == "sheet_2.html" and write_sheet(rows, tmp_path).name == "sheet_3.html"


def test_names_on_the_page_are_no_markup(tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script>{{ 7 * 7 }}\x1b.jpg'
    answers = [Answer(f"run {evil}", f"class {evil}", 0.5), Answer("other", "x", 0.25)]
    row = make_row(tmp_path / evil, tmp_path / f"{evil} #1?.png", tmp_path, (1236, 400), answers, {"x"})
    text, photos = page_of(tmp_path, row)
    assert "<script" not in text and "alert(1)" in text and "{{ 7 * 7 }}" in text and "\x1b" not in text
    assert photos == [str(tmp_path / evil).replace("\x1b", "\\x1b")]
    (source,) = set(re.findall(r'(?:href|src)="([^"]*)"', text))
    assert unquote(source) == f"{evil} #1?.png" and not {*'<>"#?'} & {*source}
