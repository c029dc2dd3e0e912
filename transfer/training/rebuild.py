"""How a module builds its classifier from names, and what a checkpoint keeps so that it can do so again."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from torch import Tensor

from transfer.errors import BadValue
from transfer.lightning import pl
from transfer.networks.classifier import Classifier
from transfer.preprocessing import Preprocessing
from transfer.weights.build import build_classifier

NETWORK_ARGUMENTS = (
    *("num_classes", "pretrained", "init_from", "weights", "load_weights", "head", "dropout", "in_channels"),
    *("stochastic_depth_prob", "grad_checkpointing", "output_stride"),
)


def build(hyperparameters: Mapping[str, Any]) -> Classifier:
    """Return the classifier that a module's arguments describe.

    Args:
        hyperparameters: `backbone` and NETWORK_ARGUMENTS, as in `build_classifier`. A checkpoint's say
            `load_weights`=False; then no module is imported that the program has not imported itself.

    Raises:
        UserError: no backbone is named, the classifier cannot be built, or its code is not imported.
    """
    backbone = hyperparameters["backbone"]
    if backbone is None:
        raise BadValue(
            "a module needs a `classifier`, or `backbone` and `num_classes` to build one; a checkpoint has no names of"
            " a classifier that did not come from `build_classifier`: load it with `classifier`"
        )
    if not hyperparameters["load_weights"]:
        for name in ("backbone", "head"):
            _refuse_foreign_code(name, hyperparameters[name])
    return build_classifier(backbone, **{name: hyperparameters[name] for name in NETWORK_ARGUMENTS})


def _refuse_foreign_code(argument: str, value: str) -> None:
    module = value.partition("@")[0].rpartition(".")[0]
    if module and module not in sys.modules:
        raise BadValue(
            f"`{argument}`={value!r} of a checkpoint names code that the program has not imported: import {module}"
            " first if you trust the file"
        )


def hyperparameters(given: Mapping[str, Any], classifier: Classifier, lr: float) -> dict[str, Any]:
    """Return the arguments that build a module again, as plain types.

    Args:
        given: the module's `hparams`.
        classifier: the module's classifier, whose head may have been replaced.
        lr: the module's learning rate, which a finder may have changed.
    """
    arguments = {name: value for name, value in given.items() if not name.startswith("_")}  # LightningCLI's own
    per_class = {name: arguments[name] for name in ("class_weights", "logit_adjustment")}
    built = getattr(classifier, "build_arguments", None) or {"backbone": None}
    return {
        **arguments,
        **built,
        "num_classes": classifier.num_classes,
        "weights": None,
        "load_weights": False,
        **{name: values.tolist() if isinstance(values, Tensor) else values for name, values in per_class.items()},
        "lr": lr,
    }


def knowledge(classifier: Classifier) -> dict[str, Any]:
    """Return what a checkpoint keeps of a classifier's preprocessing, class names and threshold, as plain types."""
    preprocessing = getattr(classifier, "preprocessing", None)
    names = getattr(classifier, "class_names", None)
    return {
        "preprocessing": None if preprocessing is None else asdict(preprocessing),
        "class_names": None if names is None else list(names),
        "threshold": getattr(classifier, "threshold", None),
    }


def restore_knowledge(classifier: Classifier, checkpoint: Mapping[str, Any]) -> None:
    """Give a classifier the preprocessing, class names and threshold that a checkpoint keeps."""
    if checkpoint.get("preprocessing") is not None:
        classifier.preprocessing = Preprocessing.from_entries(checkpoint["preprocessing"])
    if checkpoint.get("class_names") is not None:
        classifier.class_names = tuple(checkpoint["class_names"])
    classifier.threshold = checkpoint.get("threshold")


def meet_data(classifier: Classifier, datamodule: object) -> None:
    """Compare the data with what the classifier knows, and learn class names nobody told.

    It warns if images are prepared otherwise than the classifier's weights expect; the image size may differ. A
    datamodule that is not ours may know neither preprocessing nor names.

    Args:
        classifier: the classifier, which may know its `preprocessing` and `class_names`.
        datamodule: the datamodule; None if the Trainer was given loaders.

    Raises:
        BadValue: the classes of the data are not the classifier's, by number, name or order.
    """
    names = getattr(datamodule, "class_names", None)
    if isinstance(names, list | tuple):
        known = getattr(classifier, "class_names", None)
        _refuse_other_classes(classifier.num_classes, known, tuple(names))
        classifier.class_names = tuple(names)
    expected, given = getattr(classifier, "preprocessing", None), _preprocessing(datamodule)
    if expected is None or given is None:
        return
    differences = [
        f"{field.name} {getattr(given, field.name)} instead of {getattr(expected, field.name)}"
        for field in fields(Preprocessing)
        if field.name != "image_size"
        and getattr(expected, field.name) is not None
        and getattr(given, field.name) != getattr(expected, field.name)
    ]
    if differences:
        pl.utilities.rank_zero_warn(
            f"the data are prepared otherwise than the classifier's weights expect: {'; '.join(differences)}. Build the"
            " datamodule with `preprocessing`=classifier.preprocessing"
        )


def learn_preprocessing(classifier: Classifier, datamodule: object) -> None:
    """Note how the images are prepared on which a classifier is trained, as `load_run` has it from the same run.

    Args:
        classifier: the classifier that is about to be trained.
        datamodule: the training data; None if the Trainer was given loaders.
    """
    given = _preprocessing(datamodule)
    if given is not None:
        classifier.preprocessing = given


def _preprocessing(datamodule: object) -> Preprocessing | None:
    found = getattr(datamodule, "preprocessing", None)
    return found if isinstance(found, Preprocessing) else None


def _refuse_other_classes(num_classes: int, known: Sequence[str] | None, given: tuple[str, ...]) -> None:
    if len(given) == num_classes and (known is None or tuple(known) == given):
        return
    if len(given) == num_classes and known is not None:
        index = next(i for i, (ours, theirs) in enumerate(zip(known, given, strict=True)) if ours != theirs)
        where = f"; they first differ at class {index}, {known[index]!r} and {given[index]!r}"
    else:
        where = ""
    raise BadValue(
        f"the classifier's classes are not the data's: it has {num_classes}{_listed(known)}, the data"
        f" {len(given)}{_listed(given)}{where}. Give it the data with its own classes in its order, or, to train it on"
        " these, classifier.reset_head(datamodule.num_classes, class_names=datamodule.class_names)"
    )


def _listed(names: Sequence[str] | None) -> str:
    if names is None:
        return " without names"
    return f" ({', '.join(names[:20])}{', ...' if len(names) > 20 else ''})"
