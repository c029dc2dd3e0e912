"""Is a checkpoint file what it is taken for? Checks without a network, on its tensors and on the logits they give.

Padding and BatchNorm epsilon leave no trace in a file: the same tensors under other settings are another network, and
nothing complains. For tensors that are known, `golden.json` holds the logits that their publisher's own implementation
gives for one image.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from transfer.backbones import get_backbone, infer_variant
from transfer.backbones.efficientnet import Variant
from transfer.checkpoints import TRAINED_LIKE, file_sha256, known_row, read_metadata, read_state_dict, strict_load
from transfer.classifier import Classifier, build_classifier
from transfer.errors import UserError, nearest
from transfer.keymaps import find_scheme, to_own_keys
from transfer.weights import FAMILIES, WEIGHTS, Rgb, WeightsRow, family_row

GOLDEN = Path(__file__).with_name("golden.json")
# Of the largest logit. Two implementations differ by some 1e-6, other padding by more than 1e-1.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Check:
    """What was looked at, whether it is as it should be (None: it could not be told), and what was found."""

    name: str
    passed: bool | None
    detail: str


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes:
        row: the row or family that the file is known to be: by its sha256, by its tensors, or because its header says
            so; None for an unknown file.
        variant: the backbone; None if the tensors are no known one's.
        num_tensors: in the file.
        checks: in order; a file that cannot be read gets no further, nor does one of no known backbone, but that what
            differs from a row's is listed if it is taken for one.
    """

    path: str
    sha256: str
    row: str | None
    variant: str | None
    num_tensors: int
    checks: tuple[Check, ...]

    @property
    def failed(self) -> bool:
        """Whether a check failed; what could not be told is no failure."""
        return any(check.passed is False for check in self.checks)


def verify(path: str | Path, like: str | None = None) -> Verification:
    """Checks a checkpoint file; nothing in it is executed.

    Args:
        like: a row or a family that the file is taken for. Its settings are those under which the logits are computed.

    Raises:
        UserError: no such file, or `like` is no row and no family.
    """
    if like is not None:
        check_name(like)
    sha256 = file_sha256(Path(path))
    checks: list[Check] = []

    def result(row: str | None, variant: str | None, num_tensors: int) -> Verification:
        return Verification(str(path), sha256, row, variant, num_tensors, tuple(checks))

    by_file = known_row(sha256)
    by_header = read_metadata(Path(path)).get(TRAINED_LIKE)
    if by_header not in (*FAMILIES, *WEIGHTS):
        by_header = None
    try:
        state = read_state_dict(Path(path))
    except UserError as error:
        checks.append(Check("readable", False, str(error).removeprefix(f"{path}: ")))
        return result(by_file.name if by_file else by_header, None, 0)
    checks.append(Check("readable", True, f"{len(state)} tensors; nothing in the file was executed"))

    try:
        variant = infer_variant(state)
    except UserError as error:
        named = WEIGHTS.get(like or "")
        advice = "" if named else "; name the row that it is taken for to see what differs"
        checks.append(Check("backbone", False, f"{error}{advice}"))
        if named:
            checks.append(_check_fit(state, get_backbone(named.backbone)))
        return result(by_file.name if by_file else by_header, None, len(state))
    own = to_own_keys(state, variant)
    by_tensors = find_golden(own)
    known = by_file.name if by_file else by_tensors or by_header
    checks.append(_check_backbone(state, variant, known, like))
    if checks[-1].passed:
        checks.append(_check_identity(sha256, variant, by_file, by_tensors, by_header, like))
        fit = _check_fit(state, variant)
        checks += [fit, _check_finite(own), _check_variances(own)]
        checks.append(_check_logits(own, variant, by_tensors if fit.passed else None, like or known))
    return result(known, variant.name, len(state))


def check_name(name: str) -> None:
    """Whether a row or a family has this name.

    Raises:
        UserError: neither; the nearest name is given.
    """
    if name not in (*FAMILIES, *WEIGHTS):
        raise UserError(
            f"unknown weights {name!r}{nearest(name, (*FAMILIES, *WEIGHTS))} (allowed: a family, {', '.join(FAMILIES)},"
            " or a row of python scripts/weights.py list)"
        )


def golden_images(size: int) -> Tensor:
    """Rings (1, 3, size, size) in [-2, 2), from whole numbers: the same bits on every machine."""
    y, x = torch.arange(size).view(-1, 1), torch.arange(size)
    channels = [(3 * x * x + 5 * y * y + x * y + 97 * c) % 256 for c in range(3)]
    return torch.stack(channels).unsqueeze(0) / 64.0 - 2.0


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """Hex digest of tensors under the names of `Classifier`, whatever the file format and order they came in.

    BatchNorm's counters of batches, which some formats leave out, do not count.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        if not name.endswith(".num_batches_tracked"):
            tensor = state[name].detach().cpu().contiguous()
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@cache
def read_golden() -> dict[str, Any]:
    """The stored logits, see scripts/make_golden.py."""
    return json.loads(GOLDEN.read_text())


def find_golden(own: Mapping[str, Tensor]) -> str | None:
    """Name of the row whose tensors these are, among those with stored logits."""
    digest = tensors_sha256(own)
    return next((name for name, entry in read_golden()["rows"].items() if entry["tensors_sha256"] == digest), None)


def format_rgb(values: Rgb) -> str:
    """Three numbers in four digits; one if they are equal."""
    shown = [f"{value:.4g}" for value in values]
    return shown[0] if len(set(shown)) == 1 else " ".join(shown)


def _row(name: str, variant: Variant) -> WeightsRow:
    return family_row(name, variant) if name in FAMILIES else WEIGHTS[name]


def _check_backbone(state: Mapping[str, Tensor], variant: Variant, known: str | None, like: str | None) -> Check:
    for name in (like, known):
        if name in WEIGHTS and WEIGHTS[name].backbone != variant.name:
            detail = f"the tensors are a {variant.name}'s, {name} is a {WEIGHTS[name].backbone}"
            return Check("backbone", False, detail)
    scheme = find_scheme(state)
    names = "this project's" if scheme == "own" else f"those of {scheme}"
    return Check("backbone", True, f"{variant.name}; the tensors' names are {names}")


def _check_identity(
    sha256: str,
    variant: Variant,
    by_file: WeightsRow | None,
    by_tensors: str | None,
    by_header: str | None,
    like: str | None,
) -> Check:
    """Whether the file is a known one, and then the one that it is taken for."""
    if by_file is not None:
        known, detail = by_file.name, f"the file of {by_file.name}"
    elif by_tensors is not None:
        known, detail = by_tensors, f"the tensors of {by_tensors}, in another file"
    elif by_header is not None:
        known, detail = by_header, f"trained like {by_header}, as its header says"
    else:
        return Check("known", None, f"no row has this file (sha256 {sha256[:16]}...)")
    for taken, who in ((like, like), (by_header, f"its header says {by_header}, which")):
        if taken is None or taken == known:
            continue
        if taken in WEIGHTS and known in WEIGHTS:
            return Check("known", False, f"{detail}, not of {taken}")
        contradictions = _differences(_row(taken, variant), _row(known, variant))
        if contradictions:
            return Check("known", False, f"{detail}; {who} would mean {', '.join(contradictions)}")
    return Check("known", True, detail)


def _differences(taken: WeightsRow, known: WeightsRow) -> list[str]:
    """What would be wrong if a file of `known` were loaded as `taken`, in words."""
    pairs = {
        "padding": (taken.settings.padding, known.settings.padding),
        "BatchNorm epsilon": (taken.settings.bn_eps, known.settings.bn_eps),
        "mean": (format_rgb(taken.preprocessing.mean), format_rgb(known.preprocessing.mean)),
        "std": (format_rgb(taken.preprocessing.std), format_rgb(known.preprocessing.std)),
    }
    return [f"{what} {given} instead of {right}" for what, (given, right) in pairs.items() if given != right]


def _check_fit(state: Mapping[str, Tensor], variant: Variant) -> Check:
    try:
        own = to_own_keys(state, variant)
        heads = {name for name in own if name.startswith("head.")}
        if "head.fc.weight" in heads and heads <= {"head.fc.weight", "head.fc.bias"}:
            _load(own, variant, settings=False)
            return Check("fit", True, f"every name and shape, with {len(own['head.fc.weight'])} classes")
        backbone = {name.removeprefix("backbone."): t for name, t in own.items() if name not in heads}
        strict_load(_build(own, variant, settings=False, num_classes=1).backbone, backbone, source="the file")
    except UserError as error:
        return Check("fit", False, str(error))
    head = "another head than a linear one, not checked" if heads else "no classifier"
    return Check("fit", True, f"every name and shape of the backbone; {head}")


def _check_finite(own: Mapping[str, Tensor]) -> Check:
    bad = [name for name, tensor in own.items() if not bool(tensor.isfinite().all())]
    if bad:
        return Check("finite", False, f"NaN or infinity in {_listed(bad)}")
    return Check("finite", True, "every number")


def _check_variances(own: Mapping[str, Tensor]) -> Check:
    variances = {name: tensor for name, tensor in own.items() if name.endswith(".running_var")}
    bad = [name for name, tensor in variances.items() if bool((tensor < 0).any())]
    if bad:
        return Check("variances", False, f"negative in {_listed(bad)}")
    return Check("variances", True, f"none negative in {len(variances)} BatchNorms")


def _check_logits(own: Mapping[str, Tensor], variant: Variant, golden: str | None, settings: str | None) -> Check:
    """Compares with the stored logits, computed under the settings of the row or family `settings`."""
    if golden is None or settings is None:
        advice = f"they are taken from {settings}" if settings else "say what it was trained like"
        detail = "no stored logits for this file: padding, BatchNorm epsilon and normalisation cannot be checked"
        return Check("logits", None, f"{detail}; {advice}")
    entry = read_golden()["rows"][golden]
    network = _load(own, variant, settings).eval()
    with torch.inference_mode():
        logits = network(golden_images(entry["image_size"]))[0]
    expected = torch.tensor(entry["logits"])
    difference = float((logits[:: entry["every"]] - expected).abs().max() / expected.abs().max())
    passed = difference <= TOLERANCE and int(logits.argmax()) == entry["argmax"]
    layers = _row(settings, variant).settings
    return Check(
        "logits",
        passed,
        f"{'those' if passed else 'not those'} that {read_golden()['implementation']} gives at"
        f" {entry['image_size']} px: {difference:.1e} off (allowed: {TOLERANCE:.0e} of the largest) with"
        f" {layers.padding} padding and BatchNorm epsilon {layers.bn_eps:g}",
    )


def _load(own: Mapping[str, Tensor], variant: Variant, settings: bool | str) -> Classifier:
    network = _build(own, variant, settings, num_classes=len(own["head.fc.weight"]))
    strict_load(network, own, source="the file")
    return network


def _build(own: Mapping[str, Tensor], variant: Variant, settings: bool | str, num_classes: int) -> Classifier:
    stem = own.get("backbone.stem.conv.weight")
    channels = stem.shape[1] if stem is not None and stem.ndim == 4 else 3
    return build_classifier(variant.name, num_classes, pretrained=settings, load_weights=False, in_channels=channels)


def _listed(names: list[str]) -> str:
    return f"{len(names)} of the tensors: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
