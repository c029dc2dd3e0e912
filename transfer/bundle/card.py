"""The bundle's README.md: a model card with the Hugging Face Hub's metadata, made of `model.json` alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from transfer.bundle.formats import FORMATS
from transfer.bundle.member import Member, Teacher
from transfer.bundle.models import INT8, SAFETENSORS
from transfer.bundle.record import Record
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
        *(["## Networks", _members(record)] if len(record.members) > 1 else []),
        "## Metrics",
        _metrics(record),
        *_teachers(record),
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
    """Return how many of the images that formats were compared on a network was trained on; empty if none."""
    most = max((found.num_seen for found in record.formats.values()), default=0)
    who = " by one of the networks or more" if len(record.members) > 1 else ""
    return f"{most:,} of the images of val were trained on{who}, where accuracies are too high" if most else ""


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
    licences = {(member.weights and member.weights.licence) or "" for member in record.members}
    card = ModelCardData(
        license=_HUB_LICENCES.get(licences.pop() if len(licences) == 1 else "", "unknown"),
        library_name="efficientnet-transfer",
        pipeline_tag="image-classification",
        tags=["efficientnet-transfer", *(name for name in ("onnx", "openvino") if name in record.formats)],
        datasets=None if data.hub_id is None else [data.hub_id],
        model_name=record.name,
        eval_results=results or None,
    )
    return card.to_yaml().strip()


def _summary(record: Record) -> str:
    kind = "labels" if record.multilabel else "classes"
    networks = [member.network for member in record.members]
    alike = dict.fromkeys(f"{network.backbone} with {network.head} head" for network in networks)
    many = f"The mean of the probabilities of {len(record.members)} networks: " if len(record.members) > 1 else ""
    start = dict.fromkeys(_start(member) for member in record.members)
    return (
        f"{many}{escape_markdown(', '.join(alike))} ({record.num_parameters:,} parameters{' in all' if many else ''})"
        f" for the {len(record.class_names)} {kind} of {escape_markdown(record.data.name)}, from"
        f" {escape_markdown(', '.join(start))}."
        f" Written by efficientnet-transfer {record.versions.get('efficientnet-transfer')}."
    )


def _start(member: Member) -> str:
    return "random weights" if member.weights is None else member.weights.name


def _members(record: Record) -> str:
    """Return a table of the networks and of their average."""
    everyone = [*(member.metrics for member in record.members), record.metrics]
    shown = list(dict.fromkeys((s, n) for found in everyone for s in found for n in ("top1", "map") if n in found[s]))
    rows = [
        (
            *map(escape_markdown, (member.run, member.network.backbone)),
            f"{member.network.num_parameters:,}",
            f"{member.temperature:.4g}",
        )
        for member in record.members
    ]
    rows.append(("their average", "", f"{record.num_parameters:,}", ""))
    figures = [[f"{found[s][n]:.4f}" if n in found.get(s, {}) else "" for s, n in shown] for found in everyone]
    table = markdown_table(
        ["run", "backbone", "parameters", "temperature", *map(" ".join, shown)],
        [(*row, *cells) for row, cells in zip(rows, figures, strict=True)],
    )
    text = f"{table}\n\nEach network's logits are divided by its temperature before the probabilities are averaged."
    if "val" in record.metrics:
        return text
    return f"{text} The average is not measured on val: they share none, were trained on it, or it was not at hand."


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


def _teachers(record: Record) -> Iterator[str]:
    for member in record.members:
        if (teacher := member.network.teacher) is not None:
            yield "## Teacher" + (f" of {escape_markdown(member.run)}" if len(record.members) > 1 else "")
            yield _teacher(member, teacher, record.preprocessing.image_size)


def _teacher(member: Member, teacher: Teacher, image_size: int) -> str:
    """Return a table of a network and the one that it learned from."""
    splits = [(split, name) for split, found in teacher.metrics.items() for name in ("top1", "map") if name in found]
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
            ("this network", member.network, image_size, teacher.student_milliseconds, member.metrics),
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
        return f"{divided}{kind}; not calibrated{' as a whole' if len(record.members) > 1 else ''}."
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
            text += f" {name} ({found.parts} in 8 bits) answers {loss}."
    return text


def _classes(record: Record) -> str:
    shown = ", ".join(map(escape_markdown, record.class_names[:_MOST_CLASSES]))
    left = len(record.class_names) - _MOST_CLASSES
    return shown + (f", ... and {left} more in model.json" if left > 0 else "")


def _origin(record: Record) -> Iterator[str]:
    data = record.data
    yield f"data: {escape_markdown(data.name)}; licence: {escape_markdown(data.licence or 'unknown')}"
    for line, runs in _by_run(record, _origin_of).items():
        yield line if len(runs) == len(record.members) else f"{line} ({escape_markdown(', '.join(runs))})"
    yield "golden inputs: " + ("photos of val, under the licence of the data" if record.golden == "photos" else "noise")
    yield "versions: " + ", ".join(f"{name} {version}" for name, version in record.versions.items() if version)


def _by_run(record: Record, lines_of: Callable[[Member], Iterator[str]]) -> dict[str, list[str]]:
    """Return lines about the networks, each once, with the runs that it is about."""
    found: dict[str, list[str]] = {}
    for member in record.members:
        for line in lines_of(member):
            found.setdefault(line, []).append(member.run)
    return found


def _origin_of(member: Member) -> Iterator[str]:
    for split, digest in member.data.fingerprint.items():
        yield f"fingerprint of {split}: `{digest}`"
    if (weights := member.weights) is None:
        yield "weights: random"
    else:
        yield (
            f"weights: {escape_markdown(weights.name)}, trained on {escape_markdown(weights.trained_on)}; licence:"
            f" {escape_markdown(weights.licence or 'unknown')}; SHA-256 `{weights.sha256}`"
        )


def _unknown(record: Record) -> Iterator[str]:
    weights = [member.weights for member in record.members]
    if any(one is None or one.licence in (None, "unknown") for one in weights):
        yield "the licence of the weights" + ("" if any(weights) else ": they are your own")
    if record.data.licence is None:
        yield "the licence of the data"
    if record.calibration is None:
        yield "how well its probabilities are calibrated"
    if not record.metrics:
        yield "its accuracy"
    yield "how it answers on images unlike those of its data"
    if any(name.endswith(INT8) for name in record.formats):
        yield "how its 8 bits answer on other processors, which may round otherwise"
