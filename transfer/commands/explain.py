"""Show what a run's predictions rest on: efficientnet-transfer explain RUN_DIR photos/ --compare OTHER_RUN_DIR

Draws a PNG for each photo: the photo, and for each run the photo with its class activation map on top, as in Figure 7
of the paper. All panels show the whole photo; a frame marks what that run's network saw of it, and the rest is dimmed.
Colour is positive evidence for the class named below, each map relative to its own maximum. A linear head gets CAM
(Zhou et al. 2016), which is exact; any other head Grad-CAM (Selvaraju et al. 2017); of images under about 200 pixels,
whose last features are few cells, an earlier stage is explained by HiResCAM (Draelos & Carin 2020). sheet.html shows
all pictures, those first whose class is another than their folder's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.commands.console import add_allow_user_code, exit_status
from transfer.commands.explain_sheet import Answer, SheetRow, make_row, write_sheet
from transfer.commands.next_steps import say_next
from transfer.config.screens import add_help
from transfer.errors import BadValue, check_count, printable, unknown_name
from transfer.files import expanded, written_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from transfer.images.depth import Decoding
    from transfer.images.prepare import Part
    from transfer.runs.overlay import Evidence
    from transfer.runs.predictor import Run


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of `efficientnet-transfer explain`."""
    parser = argparse.ArgumentParser(
        prog="efficientnet-transfer explain",
        description="Draw class activation maps of runs of finetune over photos: CAM for the linear head, else"
        " Grad-CAM; of small images HiResCAM of an earlier stage. Each picture shows the whole photo; a frame marks"
        " what the network saw of it. sheet.html shows all of them.",
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", type=expanded)
    parser.add_argument(
        "images", metavar="IMAGES", type=expanded, nargs="+", help="files, or folders searched for images"
    )
    parser.add_argument(
        "--compare", metavar="RUN_DIR", type=expanded, nargs="+", default=[], help="more runs, beside the first"
    )
    parser.add_argument("--class", dest="class_name", metavar="NAME", help="default: each run's most probable class")
    parser.add_argument(
        "--out_dir",
        "--out",
        type=expanded,
        metavar="DIR",
        default=Path("explain"),
        help="folder that receives the PNG files and sheet.html; default: explain",
    )
    parser.add_argument(
        "--data.batch_size", "--batch_size", dest="batch_size", type=int, default=16, help="images per step"
    )
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    add_allow_user_code(parser)
    add_help(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 1 if some files could not be read and all others were drawn."""
    arguments = vars(build_parser().parse_args(argv))

    def command() -> int:
        unreadable = explain(**arguments)
        say_next("explained", arguments["run_dir"])
        return int(bool(unreadable))

    return exit_status(command, build_parser)


@dataclass(frozen=True)
class Photo:
    """A photo as it is drawn and as each run's network sees it, small enough to keep a batch in memory.

    Attributes:
        path: the file.
        caption: the file's name, and the photo's size in words.
        drawn: see `fit_photo`.
        inputs: a uint8 array (S, S, 3) for each run.
        parts: the part of the photo that each input shows.
    """

    path: Path
    caption: tuple[str, str]
    drawn: Image
    inputs: list[NDArray[Any]]
    parts: list[Part]


def explain(
    run_dir: Path,
    images: list[Path],
    compare: Sequence[Path] = (),
    class_name: str | None = None,
    out_dir: Path = Path("explain"),
    batch_size: int = 16,
    checkpoint: str = "best",
    allow_user_code: bool = False,
) -> list[str]:
    """Write a picture of each image, at the same relative path below `out_dir`, and a page that shows all of them.

    Args:
        run_dir: folder of a finished run.
        images: files, or folders to search for images.
        compare: more runs, drawn beside the first.
        class_name: the class to explain; None: each run's most probable one.
        out_dir: folder of the pictures; nothing in it is overwritten.
        batch_size: images per step, at least 1.
        checkpoint: `best` or `last`.
        allow_user_code: see `load_run`.

    Returns:
        The files that could not be read.

    Raises:
        MissingData: a run is not a run, or there is no image.
        BadValue: no such class, or a picture of that name exists already.
    """
    import torch

    from datamodules.images.transforms import build_eval_transform
    from transfer.commands.predict_guarantees import report_temperature
    from transfer.runs.predictor import load_run

    check_count("batch_size", batch_size)
    targets = plan_pictures(images, out_dir)
    runs = {
        str(path): load_run(path, f"{checkpoint}.ckpt", allow_user_code=allow_user_code) for path in (run_dir, *compare)
    }
    for run in runs.values():
        run.classifier.to("cuda" if torch.cuda.is_available() else "cpu")
        report_temperature(run.temperature)
    class_indices = [find_class(run.class_names, class_name, name) for name, run in runs.items()]
    transforms = [build_eval_transform(run.preprocessing) for run in runs.values()]

    unreadable, rows = list[str](), list[SheetRow]()
    photos = read_photos(list(targets), transforms, [run.decoding for run in runs.values()], unreadable)
    while batch := list(islice(photos, batch_size)):
        rows += draw_batch(batch, runs, class_indices, targets, out_dir)
    if rows:
        print(printable(f"all pictures on a page: {write_sheet(rows, out_dir)}"))
    if unreadable:
        print(f"{len(unreadable)} of {len(targets)} images could not be read", file=sys.stderr)
    return unreadable


def draw_batch(
    batch: Sequence[Photo],
    runs: Mapping[str, Run],
    class_indices: Sequence[int | None],
    targets: Mapping[Path, Path],
    out_dir: Path,
) -> list[SheetRow]:
    """Write the picture of each photo of a batch, and return their places on the page.

    Args:
        batch: the photos.
        runs: by their names.
        class_indices: the class to explain, for each run.
        targets: the picture of each photo's file.
        out_dir: folder of the page.
    """
    multilabel = any(run.config.data.multilabel for run in runs.values())
    classes = set() if multilabel else set.intersection(*({*run.class_names} for run in runs.values()))
    columns = [
        explain_photos(name, run, [photo.inputs[i] for photo in batch], [photo.parts[i] for photo in batch], index)
        for i, ((name, run), index) in enumerate(zip(runs.items(), class_indices, strict=True))
    ]
    rows = []
    for photo, *explained in zip(batch, *columns, strict=True):
        evidence, answers = zip(*explained, strict=True)
        size = write_picture(photo, evidence, targets[photo.path])
        rows.append(make_row(photo.path, targets[photo.path], out_dir, size, answers, classes))
    return rows


def plan_pictures(images: list[Path], out_dir: Path) -> dict[Path, Path]:
    """Return the picture's path for each image: its path below the folder that was given, below `out_dir`, as .png.

    Names that would clash get a number.

    Raises:
        MissingData: there is no image.
        BadValue: `out_dir` is a file, or a picture exists already.
    """
    from transfer.images.listing import list_images

    if out_dir.exists() and not out_dir.is_dir():
        raise BadValue(f"`out_dir`={out_dir}: not a folder")
    targets: dict[Path, Path] = {}
    taken: set[str] = set()
    for given in images:
        for path in list_images(given):
            if path in targets:
                continue
            below = path.relative_to(given) if path != given else Path(path.name)
            target, number = out_dir / below.with_suffix(".png"), 1
            while str(target).lower() in taken:  # some file systems do not tell upper and lower case apart
                number += 1
                target = out_dir / below.with_name(f"{below.stem}_{number}.png")
            if target.exists():
                raise BadValue(f"{target} exists, and nothing is overwritten: choose another `out_dir`")
            targets[path] = target
            taken.add(str(target).lower())
    return targets


def find_class(class_names: Sequence[str], class_name: str | None, run: str) -> int | None:
    """Return the index of a run's class; None for no name.

    Raises:
        BadValue: the run has no such class.
    """
    if class_name is None or class_name in class_names:
        return None if class_name is None else class_names.index(class_name)
    raise unknown_name(f"`class_name` for {run}:", class_name, class_names)


def read_photos(
    paths: list[Path], transforms: list[Any], decodings: list[Decoding], unreadable: list[str]
) -> Iterator[Photo]:
    """Yield the photos that can be read; name the others on stderr and in `unreadable`."""
    from datamodules.images.transforms import kept_part
    from transfer.images.decode import BadImage, BadImageError, decode_image
    from transfer.runs.overlay import fit_photo

    for path in paths:
        try:
            pixels = {decoding: decode_image(path, decoding) for decoding in decodings}
        except BadImageError as error:
            unreadable.append(str(path))
            print(printable(f"unreadable: {BadImage(str(path), str(error))}"), file=sys.stderr)
            continue
        height, width = pixels[decodings[0]].shape[:2]
        yield Photo(
            path,
            (path.name, f"{width} x {height}"),
            fit_photo(pixels[decodings[0]]),
            [
                transform(image=pixels[decoding])["image"]
                for transform, decoding in zip(transforms, decodings, strict=True)
            ],
            [kept_part(transform, height, width) for transform in transforms],
        )


def write_picture(photo: Photo, evidence: Sequence[Evidence], target: Path) -> tuple[int, int]:
    """Write a photo's picture, whole or not at all, print what the runs say of it, and return its width and height."""
    from transfer.runs.overlay import draw_picture

    target.parent.mkdir(parents=True, exist_ok=True)
    picture = draw_picture(photo.drawn, photo.caption, evidence)
    with written_whole(target) as file:
        picture.save(file, "PNG")
    said = "; ".join(f"{name} {answer} ({method})" for answer, method, name in (e.lines for e in evidence))
    print(printable(f"{target}: {said}"), flush=True)
    return picture.size


def explain_photos(
    name: str, run: Run, inputs: list[NDArray[Any]], parts: list[Part], class_index: int | None
) -> list[tuple[Evidence, Answer]]:
    """Return one run's class activation map for each image of a batch, and its answer."""
    import numpy as np
    import torch

    from datamodules.images.transforms import normalize
    from transfer.runs.class_maps import explain_class
    from transfer.runs.overlay import Evidence

    device = next(run.classifier.parameters()).device
    images = normalize(torch.from_numpy(np.stack(inputs)).to(device), run.preprocessing)
    explained = explain_class(run.classifier, images, class_index)
    found = []
    for row, best, index, class_map, part in zip(
        run.as_probabilities(explained.logits).tolist(),
        explained.logits.argmax(1).tolist(),
        explained.classes.tolist(),
        explained.maps.cpu().numpy(),
        parts,
        strict=True,
    ):
        method = explained.method if class_map.max() > 0 else f"{explained.method}: nothing speaks for it"
        if best != index:
            method += f", predicted: {row[best]:.1%} {run.class_names[best]}"
        evidence = Evidence(class_map, part, (f"{row[index]:.1%} {run.class_names[index]}", method, name))
        found.append((evidence, Answer(name, run.class_names[best], row[best])))
    return found
