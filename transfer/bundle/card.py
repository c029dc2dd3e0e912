"""The bundle's README.md: a model card with the Hugging Face Hub's metadata, made of `model.json` alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from transfer.bundle.formats import FORMATS
from transfer.bundle.models import INT8, SAFETENSORS
from transfer.bundle.record import Record, Teacher
from transfer.markdown import escape_markdown, markdown_table
from transfer.preprocessing import Preprocessing

README, READER = "README.md", "predict.py"
_MOST_CLASSES = 200  # that are listed; model.json has all
_HUB_LICENCES = {"Apache-2.0": "apache-2.0", "BSD-3-Clause": "bsd-3-clause"}
# What the Hub calls a metric; others keep their names.
_HUB_METRICS = {"top1": "accuracy", "f1": "f1", "map": "map"}


def write_card(record: Record) -> str:
    """Return the card's text."""
    parts = [
        f"---\n{_metadata(record)}\n---",
        f"# {escape_markdown(record.name)}",
        _summary(record),
        "## Use",
        _use(record),
        "## Metrics",
        _metrics(record),
        *([] if record.network.teacher is None else ["## Teacher", _teacher(record, record.network.teacher)]),
        "## Probabilities",
        _probabilities(record),
        "## Formats",
        _formats(record),
        "## Images",
        describe(record.preprocessing),
        "\n".join(f"- {name}: {escape_markdown(text)}" for name, text in record.reading.items()),
        f"## Classes ({len(record.class_names)})",
        _classes(record),
        "## Origin",
        "\n".join(f"- {line}" for line in _origin(record)),
        "## Not known",
        "\n".join(f"- {line}" for line in _unknown(record)),
    ]
    return "\n\n".join(parts) + "\n"


def describe(preprocessing: Preprocessing) -> str:
    """Return in words how images are prepared."""
    size, ratio = preprocessing.image_size, preprocessing.crop_ratio
    side = "The short side" if preprocessing.resize == "short_side" else "Each side, whatever the image's shape,"
    numbers = [", ".join(f"{value:.6g}" for value in values) for values in (preprocessing.mean, preprocessing.std)]
    grey = "" if len(preprocessing.mean) == 3 else " converted to grey,"
    return (
        f"{side} is resized to {int(size / ratio)} px ({preprocessing.interpolation}, antialiased as by Pillow), the"
        f" central {size} x {size} px are cut out,{grey} scaled to 0..1 and normalised with mean {numbers[0]} and"
        f" standard deviation {numbers[1]}."
    )


def seen_images(record: Record) -> str:
    """Return how many of the images that formats were compared on the network was trained on; empty if none."""
    most = max((found.num_seen for found in record.formats.values()), default=0)
    return f"{most:,} of the images of val were trained on, where accuracies are too high" if most else ""


def _metadata(record: Record) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    data = record.data
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=data.hub_id or data.name,
            dataset_name=data.name,
            dataset_split=split,
            metric_type=_HUB_METRICS.get(name, name),
            metric_name=name,
            metric_value=value,
        )
        for split, metrics in record.metrics.items()
        for name, value in metrics.items()
    ]
    card = ModelCardData(
        license=_HUB_LICENCES.get((record.weights and record.weights.licence) or "", "unknown"),
        library_name="efficientnet-transfer",
        pipeline_tag="image-classification",
        tags=["efficientnet-transfer", *(name for name in ("onnx", "openvino") if name in record.formats)],
        datasets=None if data.hub_id is None else [data.hub_id],
        model_name=record.name,
        eval_results=results or None,
    )
    return card.to_yaml().strip()


def _summary(record: Record) -> str:
    network, kind = record.network, "labels" if record.multilabel else "classes"
    start = "random weights" if record.weights is None else record.weights.name
    return (
        f"{escape_markdown(network.backbone)} ({network.num_parameters:,} parameters, {network.head} head) for the"
        f" {len(record.class_names)} {kind} of {escape_markdown(record.data.name)}, from {escape_markdown(start)}."
        f" Written by efficientnet-transfer {record.versions.get('efficientnet-transfer')}."
    )


def _use(record: Record) -> str:
    alone = ["pip install onnxruntime pillow numpy", f"python {READER} photo.jpg"] if "onnx" in record.formats else []
    ours = ["efficientnet-transfer check .", "efficientnet-transfer predict . photos/"]
    python = 'from transfer import load_bundle\n\nload_bundle(".").predict(["photo.jpg"])'
    return "\n\n".join([*(_code("", lines) for lines in (alone, ours) if lines), _code("python", [python])])


def _code(language: str, lines: Sequence[str]) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _metrics(record: Record) -> str:
    rows = []
    for split, metrics in record.metrics.items():
        for name, value in metrics.items():
            interval = record.intervals.get(split, {}).get(name)
            rows.append((split, name, f"{value:.4f}", f"{interval.low:.4f} to {interval.high:.4f}" if interval else ""))
    sizes = ", ".join(f"{name} {size:,}" for name, size in record.data.sizes.items())
    return f"{markdown_table(['split', 'metric', 'value', '95% interval'], rows)}\n\nImages: {sizes or 'unknown'}."


def _teacher(record: Record, teacher: Teacher) -> str:
    """Return a table of the network and the one that it learned from."""
    splits = [(split, name) for split, found in teacher.metrics.items() for name in ("top1", "map") if name in found]
    network, size = record.network, record.preprocessing.image_size
    rows = [
        (
            who,
            f"{escape_markdown(found.backbone)} at {px} px",
            f"{found.num_parameters:,}",
            f"{4 * found.num_parameters / 2**20:.1f}",
            "" if time is None else f"{time:g}",
            *(f"{metrics[split][name]:.4f}" if name in metrics.get(split, ()) else "" for split, name in splits),
        )
        for who, found, px, time, metrics in (
            ("this network", network, size, teacher.student_milliseconds, record.metrics),
            ("its teacher", teacher, teacher.image_size, teacher.milliseconds, teacher.metrics),
        )
    ]
    heads = ["", "network", "parameters", "MiB in float32", "ms per image", *(" ".join(split) for split in splits)]
    text = f"{markdown_table(heads, rows)}\n\nIt learned from the teacher's answers, too."
    if teacher.device is not None:
        device = escape_markdown(teacher.device)
        text += f" Times: one image at a time in float32 PyTorch, when training had ended, on {device}."
    return text


def _probabilities(record: Record) -> str:
    divided = "" if record.temperature == 1 else f"logits / {record.temperature:.4g}, then "
    kind = f"sigmoid; a label from {record.threshold:.4g} on" if record.multilabel else "softmax"
    found = record.calibration
    if found is None:
        return f"{divided}{kind}; not calibrated."
    return (
        f"{divided}{kind}. On {found.num_images:,} images of val the expected calibration error is"
        f" {found.ece_after:.4f}, cross-fitted, and {found.ece_before:.4f} without the temperature. `predict"
        " --abstain` leaves doubtful and strange images unanswered, `--sets 0.95` gives sets of classes."
    )


def _formats(record: Record) -> str:
    rows = [(SAFETENSORS, "model.safetensors", "prepared pixels, normalised", "", "", "", "")]
    for name, found in record.formats.items():
        row, times = FORMATS[name], found.milliseconds
        images = f"{found.num_images:,} of {found.images}" if found.images == "val" else "the golden inputs"
        rows.append(
            (
                name,
                ", ".join(row.files),
                row.takes,
                images,
                f"{found.largest_difference:.2g} ({found.relative_difference:.1e} of the largest)",
                f"{100 * found.same_top1:.2f}%",
                ", ".join(f"{value:g} ms at {size}" for size, value in times.items()) + f" ({found.cpu})",
            )
        )
    heads = ["format", "files", "takes", "compared on", "largest difference of logits", "same class", "time per image"]
    text = f"{markdown_table(heads, rows)}\n\nCompared with the float32 PyTorch classifier, from the decoded image on."
    if said := seen_images(record):
        text += f" {said[0].upper()}{said[1:]}."
    for name, found in record.formats.items():
        if loss := found.loss:
            text += (
                f" {name} answers {100 * loss.accuracy:.2f}% rightly, float32 {100 * loss.float32:.2f}%: a loss of"
                f" {100 * loss.drop:.2f} points (95% interval {100 * loss.interval.low:.2f} to"
                f" {100 * loss.interval.high:.2f})."
            )
    return text


def _classes(record: Record) -> str:
    shown = ", ".join(map(escape_markdown, record.class_names[:_MOST_CLASSES]))
    left = len(record.class_names) - _MOST_CLASSES
    return shown + (f", ... and {left} more in model.json" if left > 0 else "")


def _origin(record: Record) -> Iterator[str]:
    data, weights = record.data, record.weights
    yield f"data: {escape_markdown(data.name)}; licence: {escape_markdown(data.licence or 'unknown')}"
    for split, digest in data.fingerprint.items():
        yield f"fingerprint of {split}: `{digest}`"
    if weights is None:
        yield "weights: random"
    else:
        yield (
            f"weights: {escape_markdown(weights.name)}, trained on {escape_markdown(weights.trained_on)}; licence:"
            f" {escape_markdown(weights.licence or 'unknown')}; SHA-256 `{weights.sha256}`"
        )
    yield "golden inputs: " + ("photos of val, under the licence of the data" if record.golden == "photos" else "noise")
    yield "versions: " + ", ".join(f"{name} {version}" for name, version in record.versions.items() if version)


def _unknown(record: Record) -> Iterator[str]:
    if record.weights is None or record.weights.licence in (None, "unknown"):
        yield "the licence of the weights" + (": they are your own" if record.weights is None else "")
    if record.data.licence is None:
        yield "the licence of the data"
    if record.calibration is None:
        yield "how well its probabilities are calibrated"
    if not record.metrics:
        yield "its accuracy"
    yield "how it answers on images unlike those of its data"
    if any(name.endswith(INT8) for name in record.formats):
        yield "how its 8 bits answer on other processors, which may round otherwise"
