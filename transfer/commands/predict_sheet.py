"""A page of each predicted class's surest and least sure photos (`predict --sheet`): one file, no network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from heapq import nlargest, nsmallest
from importlib.resources import files
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from transfer.calibration.guarantees import UNKNOWN
from transfer.commands.predict_options import Batch
from transfer.errors import BadValue, UserError, printable
from transfer.files import write_text
from transfer.images.depth import Decoding
from transfer.predictions import Prediction
from transfer.progress import track

if TYPE_CHECKING:
    from jinja2 import Template

SIDE = 176  # pixels of a photo's longer side on the page
MOST_CLASSES, MOST_PHOTOS = 40, 5  # the most frequent classes; photos of each end
Found = tuple[float, str]  # probability and file of a photo


@dataclass(frozen=True)
class Shown:
    """A photo on the page.

    Attributes:
        name: its file.
        probability: of the class, in [0, 1].
        source: its picture as a data URI; None where it cannot be read any more.
    """

    name: str
    probability: float
    source: str | None


class Sheet:
    """Gathers the photos of the page while images are predicted."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._surest: dict[str, list[Found]] = {}
        self._least: dict[str, list[Found]] = {}

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches as they are, and remember what the page may show of them."""
        for batch in batches:
            for name, prediction in zip(batch.names, batch.predictions, strict=True):
                self.add(name, prediction)
            yield batch

    def add(self, image: str, prediction: Prediction) -> None:
        """Add an image: under each of its labels, or as unknown."""
        unknown = ((UNKNOWN, prediction.probability),)
        for label, probability in unknown if prediction.unknown else prediction.labels:
            self.counts[label] += 1
            found = probability, image
            self._surest[label] = nlargest(MOST_PHOTOS, [*self._surest.get(label, ()), found])
            self._least[label] = nsmallest(MOST_PHOTOS, [*self._least.get(label, ()), found])

    def photos(self, label: str) -> tuple[list[Found], list[Found]]:
        """Return the surest photos of a class, the surest first, and the least sure of the others."""
        surest = self._surest[label]
        return surest, [found for found in self._least[label] if found not in surest]

    def write(self, path: Path, decoding: Decoding) -> None:
        """Write the page; the most frequent classes come first, and what is left out is said.

        Args:
            path: the page.
            decoding: how the photos are read.

        Raises:
            OSError: the disk is full or refuses the file.
        """
        labels = [label for label, _ in self.counts.most_common(MOST_CLASSES)]
        chosen = {label: self.photos(label) for label in labels}
        images = dict.fromkeys(image for both in chosen.values() for found in both for _, image in found)
        pictures = {image: _picture(Path(image), decoding) for image in track(images, "drawing the sheet")}
        classes = [
            {
                "name": label,
                "count": self.counts[label],
                "parts": [[Shown(image, share, pictures[image]) for share, image in found] for found in chosen[label]],
            }
            for label in labels
        ]
        write_text(path, _template().render(classes=classes, left_out=len(self.counts) - len(labels), side=SIDE))


def check_sheet(path: Path | None, out: Path | None = None) -> None:
    """Refuse a path of the page that would hide what it is, or be written over something else.

    Args:
        path: the page.
        out: file that receives the rows.

    Raises:
        BadValue: it does not end in .html, or is `out`.
    """
    if path is not None and path == out:
        raise BadValue(f"`sheet`={path} is `out`, too: give the page a name of its own")
    if path is not None and path.suffix.lower() not in (".html", ".htm"):
        raise BadValue(f"`sheet`={path}: it is a page (allowed: a name that ends in .html)")


def _picture(path: Path, decoding: Decoding) -> str | None:
    """Return a small copy of a photo as a data URI; None if it cannot be read any more."""
    from PIL import Image

    from datamodules.images.pictures import open_picture
    from transfer.report.photos import encode_jpeg
    from transfer.report.shots import data_uri

    try:
        whole = open_picture(path, decoding)
        image = Image.fromarray(whole.crop((0, 0, whole.width, whole.height), SIDE))
    except (UserError, OSError):
        return None
    image.thumbnail((SIDE, SIDE))
    return data_uri(encode_jpeg(image))


@cache
def _template() -> Template:
    """Return the page's template, which escapes all that is put into it."""
    from jinja2 import Environment, StrictUndefined

    text = files("transfer.commands").joinpath("predict_sheet.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, finalize=_finalize)
    environment.filters["short"] = lambda name: "/".join(PurePath(name).parts[-2:])
    return environment.from_string(text)


def _finalize(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value
