"""Class activation maps: the maths, where the evidence lies, the pixels of a picture, and scripts/explain.py."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageFont
from torch import Tensor, nn

from tests.support.runs import CHEAP, call, save_classes, save_csv, save_photo
from transfer.commands import explain, finetune, predict
from transfer.errors import UserError
from transfer.images.decode import decode_image
from transfer.networks.classifier import Classifier
from transfer.networks.efficientnet import Baseline, EfficientNet, StageRow, Variant
from transfer.networks.heads import LinearHead, build_head
from transfer.networks.layers import LayerSettings
from transfer.runs import overlay
from transfer.runs.class_maps import class_activation_map, explain_class, grad_cam

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


def test_a_class_activation_map_by_hand() -> None:
    features = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[0.0, 1.0], [0.0, 5.0]]]])
    class_map = class_activation_map(features, torch.tensor([[2.0, -1.0]]))
    assert class_map.tolist() == [[[2.0, 3.0], [6.0, 3.0]]]


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


def test_a_head_without_gradient_is_refused() -> None:
    with pytest.raises(UserError, match=r"^head Decision: its logits have no gradient, which Grad-CAM needs$"):
        grad_cam(Decision(), torch.randn(2, 8, 3, 3), torch.tensor([0, 1]))


def marked_noise(num_images: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noise of 64 px with a mark of 16 px in one corner, whose colour is the class; the corners, row and column."""
    images = 0.3 * torch.randn(num_images, 3, 64, 64)
    labels = torch.arange(num_images) % 2
    corners = torch.stack([torch.arange(num_images) // 4 % 2, torch.arange(num_images) // 2 % 2], 1)
    for image, label, (row, column) in zip(images, labels, (48 * corners).tolist(), strict=True):
        image[label, row : row + 16, column : column + 16] += 3.0
    return images, labels, corners


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_the_corner_with_the_evidence_lights_up(head: str) -> None:
    # Receptive fields of 19 px, stride 8: a network that can tell the corners apart.
    rows = (StageRow(1, 3, 1, 8, 8, 1, 0.0), StageRow(2, 3, 2, 8, 16, 1, 0.0), StageRow(2, 3, 2, 16, 16, 1, 0.0))
    variant = Variant("shallow", 1.0, 1.0, 64, 0.0, 0, 0, Baseline(8, rows, top_channels=32))
    backbone = EfficientNet(variant, LayerSettings(bn_momentum=0.1))
    classifier = Classifier(backbone, build_head(head, backbone.num_features, 2, 0.0), 2)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=3e-3)
    for _ in range(40):
        images, labels, _ = marked_noise(32)
        loss = F.cross_entropy(classifier(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, labels, corners = marked_noise(64)
    explained = explain_class(classifier.eval(), images)
    assert explained.classes.tolist() == labels.tolist() and explained.maps.shape == (64, 8, 8)
    strongest = explained.maps.flatten(1).argmax(1)
    peaks = torch.stack([strongest // 8, strongest % 8], 1)
    assert ((peaks - 7 * corners).abs() <= 2).all()  # the mark's two cells, and one that sees a part of it


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
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    expected = [f"{out / name}:" for name in names]
    for run, method in zip(runs, ("CAM", "Grad-CAM"), strict=True):
        rows = tmp_path / "rows.csv"
        assert call(predict.main, run, *images, "--top_k", "1", "--num_workers", "0", "--out", rows) == 0
        with open(rows, encoding="utf-8", newline="") as file:
            for i, row in enumerate(csv.DictReader(file)):
                expected[i] += f" {run} {float(row['probability']):.1%} {row['class']} ({method}"
    for line, beginning in zip(captured.out.splitlines(), expected, strict=True):
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
    assert len(captured.out.splitlines()) == 3 and all("% dog (" in line for line in captured.out.splitlines())
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
