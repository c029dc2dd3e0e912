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

from transfer.errors import UserError
from transfer.files import expanded, file_sha256
from transfer.networks.classifier import Classifier
from transfer.networks.registry import get_variant
from transfer.networks.rows import Variant
from transfer.weights.build import build_classifier
from transfer.weights.files import TRAINED_LIKE, known_row, read_metadata, read_state_dict, strict_load
from transfer.weights.key_names import find_scheme, to_own_keys
from transfer.weights.reading import infer_variant
from transfer.weights.rows import FAMILIES, WEIGHTS, WeightsRow, contradictions, get_weights, named_row

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
        row: whose file this is, by its sha256 or its tensors; None if no row's.
        trained_like: the row or family that the file's header names, as efficientnet-transfer convert wrote it.
        variant: the backbone; None if the tensors are no known one's.
        num_tensors: in the file.
        checks: in order; a file that cannot be read gets no further, nor does one of no known backbone, but that what
            differs from a row's is listed if it is taken for one.
    """

    path: str
    sha256: str
    row: str | None
    trained_like: str | None
    variant: str | None
    num_tensors: int
    checks: tuple[Check, ...]

    @property
    def failed(self) -> bool:
        """Whether a check failed; what could not be told is no failure."""
        return any(check.passed is False for check in self.checks)


def verify(path: str | Path, like: str | None = None) -> Verification:
    """Check a checkpoint file without executing anything in it.

    Args:
        like: a row or a family that the file is taken for. Its settings are those under which the logits are computed.

    Raises:
        UserError: no such file, or `like` is no row and no family.
    """
    if like is not None and like not in FAMILIES:
        get_weights(like)
    path = expanded(path)
    sha256 = file_sha256(path)
    public = known_row(sha256)
    trained_like = read_metadata(path).get(TRAINED_LIKE)
    checks: list[Check] = []

    def result(variant: str | None, num_tensors: int) -> Verification:
        row = public.name if public else None
        return Verification(str(path), sha256, row, trained_like, variant, num_tensors, tuple(checks))

    try:
        state = read_state_dict(path)
    except UserError as error:
        checks.append(Check("readable", False, str(error).removeprefix(f"{path}: ")))
        return result(None, 0)
    checks.append(Check("readable", True, f"{len(state)} tensors; nothing in the file was executed"))

    try:
        variant = infer_variant(state)
    except UserError as error:
        named = WEIGHTS.get(like or "")
        advice = "" if named else "; name the row that it is taken for to see what differs"
        checks.append(Check("backbone", False, f"{error}{advice}"))
        if named:
            checks.append(_check_fit(state, get_variant(named.backbone)))
        return result(None, len(state))
    own = to_own_keys(state, variant)
    detail = f"the file of {public.name}" if public else f"no row has this file (sha256 {sha256[:16]}...)"
    golden = find_golden(own)
    if golden is not None and public is None:
        public, detail = WEIGHTS[golden], f"the tensors of {golden}, in another file"
    checks.append(_check_backbone(state, variant, (like, public.name if public else None, trained_like)))
    if checks[-1].passed:
        checks.append(_check_identity(detail, variant, public, trained_like, like))
        fit = _check_fit(state, variant)
        checks += [fit, _check_finite(own), _check_variances(own)]
        settings = like or (public.name if public else trained_like)
        checks.append(_check_logits(own, variant, golden if fit.passed else None, settings))
    return result(variant.name, len(state))


def golden_images(size: int) -> Tensor:
    """Return rings (1, 3, size, size) in [-2, 2), from whole numbers: the same bits on every machine."""
    y, x = torch.arange(size).view(-1, 1), torch.arange(size)
    channels = [(3 * x * x + 5 * y * y + x * y + 97 * c) % 256 for c in range(3)]
    return torch.stack(channels).unsqueeze(0) / 64.0 - 2.0


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """Return the hex digest of tensors named as in `Classifier`, whatever the file format and order they came in.

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
    """Return the stored logits; see tests/support/make_golden.py."""
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


def find_golden(own: Mapping[str, Tensor]) -> str | None:
    """Return the name of the row whose tensors these are, among those with stored logits."""
    digest = tensors_sha256(own)
    return next((name for name, entry in read_golden()["rows"].items() if entry["tensors_sha256"] == digest), None)


def _check_backbone(state: Mapping[str, Tensor], variant: Variant, names: tuple[str | None, ...]) -> Check:
    """Check whether the tensors are those of the backbone that these rows or families have."""
    for name in names:
        try:
            if name is not None:
                named_row(name, variant)
        except UserError as error:
            return Check("backbone", False, f"the tensors are a {variant.name}'s: {error}")
    scheme = find_scheme(state)
    whose = "this project's" if scheme == "own" else f"those of {scheme}"
    return Check("backbone", True, f"{variant.name}; the tensors' names are {whose}")


def _check_identity(
    detail: str, variant: Variant, public: WeightsRow | None, trained_like: str | None, like: str | None
) -> Check:
    """Check whether the file is known by its sha256, tensors or header, and whether it is what it is taken for."""
    taken = named_row(like, variant) if like is not None else None
    header = named_row(trained_like, variant) if trained_like is not None else None
    known = public or header
    if known is None:
        if taken is not None and taken.sha256 is not None:
            return Check("known", False, f"{detail}; {taken.name}'s starts with {taken.sha256[:8]}")
        return Check("known", None, detail)
    if public is None:
        detail = f"a file of your own, trained like {known.name}, as its header says"
    for given, who in ((taken, like), (header, f"its header says {trained_like}, which")):
        if given is not None and (wrong := contradictions(given, known)):
            return Check("known", False, f"{detail}; {who} would mean {', '.join(wrong)}")
    return Check("known", True, detail)


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
    """Compare the logits, computed under the settings of the row or family `settings`, with the stored ones."""
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
    layers = named_row(settings, variant).settings
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
