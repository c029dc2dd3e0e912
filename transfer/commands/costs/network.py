"""The network that is asked about: a backbone with a linear classifier, or that of a run."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from transfer.commands.next_steps import say_next
from transfer.files import expanded
from transfer.run_files import CONFIG

if TYPE_CHECKING:
    from transfer.costs.profile import Profile
    from transfer.networks.classifier import Classifier


class Network(NamedTuple):
    """What builds a network, and the side of its images in pixels; None is the backbone's own."""

    backbone: str
    num_classes: int
    image_size: int | None
    head: str = "linear"

    def builder(self) -> partial[Classifier]:
        """Return what builds it, without trained weights; it can be sent to another process."""
        from transfer.weights.build import build_classifier

        return partial(build_classifier, self.backbone, self.num_classes, head=self.head)

    def profile(self, batch_size: int, precision: Any) -> Profile:
        """Return its profile; see `profile_backbone`."""
        from transfer.costs.profile import profile_backbone

        options: dict[str, Any] = {"num_classes": self.num_classes, "head": self.head, "precision": precision}
        return profile_backbone(self.backbone, self.image_size, batch_size, **options)


def say_next_of(name: str) -> None:
    """Name what is next after the costs of a backbone, or of a run by its folder."""
    say_next("run costed" if expanded(name).is_dir() else "network costed", name)


def find_network(name: str, num_classes: int | None, image_size: int | None, allow_user_code: bool) -> Network:
    """Return a network by the name of its backbone, or that of a run by the run's folder.

    Args:
        name: the backbone or the folder.
        num_classes, image_size: in place of the network's own.
        allow_user_code: see `load_run`.

    Raises:
        UserError: the run cannot be loaded, or names code and `allow_user_code` is False.
    """
    if not (expanded(name) / CONFIG).is_file():
        return Network(name, num_classes or 1000, image_size)
    from transfer.runs.predictor import load_run

    run = load_run(name, allow_user_code=allow_user_code)
    size = image_size or run.preprocessing.image_size
    return Network(run.config.backbone, num_classes or len(run.class_names), size, run.config.head)
