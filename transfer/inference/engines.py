"""Build an engine by its name, or choose the fastest one whose answers are float32's."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor, nn

from transfer.errors import BadValue, UserError, unknown_name
from transfer.inference.names import ENGINES, NUM_EXAMPLES, check_engine, needs_cpu, num_examples
from transfer.inference.onnx_engine import ONNXEngine
from transfer.inference.openvino_engine import OpenVINOEngine
from transfer.inference.torch_engine import TorchEngine
from transfer.networks.bfloat16 import computes_bf16
from transfer.networks.classifier import Classifier, LogitsAndFeatures

# What `auto` demands of an engine's answers on the examples, compared with float32.
MIN_AGREEMENT = 0.995
MAX_LOGIT_DIFFERENCE = 1.0
MAX_RELATIVE_DIFFERENCE = 0.1
# Below this number of pixels (512 images of 224 x 224), building and comparing an engine takes longer than it saves:
# 1.4 s, against 3 ms an image (benchmarks/probe_photos_cpu.json, inference_cpu.json: lite0, 2 threads).
MIN_PIXELS = 512 * 224 * 224


class Engine(Protocol):
    """A network that only computes outputs, in its own precision.

    Attributes:
        name: its row in `transfer.inference.names.ENGINES`.
    """

    name: str

    def __call__(self, images: Tensor) -> Tensor:
        """Return the network's outputs, float32 on the images' device, for any number of images.

        Args:
            images: normalised, float32, on the device that the network had. Shape: (N, C, S, S)
        """
        ...


@dataclass(frozen=True)
class EngineRecord:
    """Which engine computed, and how close it comes to float32.

    Attributes:
        engine: its name.
        precision: of its weights and activations.
        images_compared: on how many images it was compared with PyTorch in float32; 0 for that engine itself.
        agreement: share of equal answers: the most probable class, or with a threshold each label; None where nothing
            was compared, or the outputs are no logits.
        largest_difference: of a logit; of outputs that are no logits, the relative difference. None: not compared.
        refused: engines that `auto` would have preferred, each with the reason.
    """

    engine: str
    precision: str
    images_compared: int = 0
    agreement: float | None = None
    largest_difference: float | None = None
    refused: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        text = f"{self.engine} ({self.precision})"
        if self.images_compared:
            answers = "" if self.agreement is None else f"{self.agreement:.1%} of the answers are float32's, "
            text += f": on {self.images_compared} images {answers}largest difference {self.largest_difference:.2g}"
        return "; ".join([text, *(f"not {name}: {reason}" for name, reason in self.refused.items())])


def build_engine(name: str, network: nn.Module, examples: Tensor) -> Engine:
    """Return an engine for a network, which stays as it is.

    Args:
        name: a row of `ENGINES`.
        network: images -> one tensor, on the device where it shall compute: a classifier, one with features, a
            backbone, or a module that returns pooled features.
        examples: normalised images of the size that will be computed, on the same device.

    Raises:
        UserError: there is no such engine, it is not installed, it does not compute on the device, or it cannot compute
            the network.
    """
    if name not in ENGINES:
        raise unknown_name("engine", name, ENGINES)
    if needs_cpu(name) and examples.device.type != "cpu":
        raise BadValue(f"`engine`={name} computes on the CPU, and the network is on {examples.device} (allowed: torch)")
    if name.startswith("openvino"):
        return OpenVINOEngine(name, network, examples)
    return ONNXEngine(name, network, examples) if name == "onnxruntime" else TorchEngine(name, network, examples)


def choose_engine(
    name: str, network: nn.Module, examples: Tensor, num_images: int, threshold: float | None = None
) -> tuple[Engine, EngineRecord]:
    """Return the engine of a name, or for `auto` the fastest one that agrees with PyTorch in float32 on the examples.

    Candidates are what is installed and what the processor computes natively, in the order of `fastest_first`. A
    classifier's answers must be the same for 99.5% of the examples and no logit may differ by more than 1; other
    outputs may differ by 10% of their length. For fewer pixels than 512 images of 224 x 224 it is always `torch`.

    Args:
        name: `auto` or a row of `ENGINES`; an engine that is named is compared too, but never refused.
        network: see `build_engine`.
        examples: see there; the first `num_examples(name)` are compared.
        num_images: how many images will be computed.
        threshold: probability from which a label is given, if an image may have several.

    Raises:
        UserError: see `build_engine`.
    """
    check_engine(name)
    examples = examples[: num_examples(name)]
    if name == "auto" and num_images <= NUM_EXAMPLES:  # folding, too, takes longer than it saves
        return TorchEngine("torch", network), EngineRecord("torch", ENGINES["torch"].precision)
    reference = build_engine("torch", network, examples)
    if not is_compared(name, num_images, examples.shape[-1]):
        return reference, EngineRecord("torch", ENGINES["torch"].precision)
    expected = reference(examples)
    if name != "auto":
        engine = build_engine(name, network, examples)
        record, problem = _compare(engine, network, examples, expected, threshold)
        if problem is not None:
            warnings.warn(f"`engine`={name}: {problem}", stacklevel=2)
        return engine, record
    refused: dict[str, str] = {}
    for candidate in fastest_first(examples.device):
        try:
            engine = build_engine(candidate, network, examples)
        except UserError as error:  # the library cannot compute a network of the user's own
            refused[candidate] = str(error)
            continue
        record, problem = _compare(engine, network, examples, expected, threshold)
        if problem is None:
            return engine, replace(record, refused=refused)
        refused[candidate] = problem
    return reference, EngineRecord("torch", ENGINES["torch"].precision, refused=refused)


def is_compared(name: str, num_images: int, image_size: int) -> bool:
    """Return whether `choose_engine` computes the examples, in float32 and with other engines."""
    return name != "torch" and (name != "auto" or num_images * image_size**2 >= MIN_PIXELS)


def fastest_first(device: torch.device) -> list[str]:
    """Return the engines that `auto` tries on a device before `torch`, as `benchmarks inference` ranks them.

    Without native bfloat16 the float32 ones remain. 8 bits are never chosen: they take seconds to calibrate, and change
    some answers.
    """
    order = ["openvino-bf16", "openvino", "torch-bf16", "onnxruntime"]
    if not computes_bf16(device):
        order = ["openvino", "onnxruntime"]
    packages = {name: ENGINES[name].package for name in order}
    return [
        name
        for name, package in packages.items()
        if package is None or (device.type == "cpu" and find_spec(package) is not None)
    ]


def _compare(
    engine: Engine, network: nn.Module, examples: Tensor, expected: Tensor, threshold: float | None
) -> tuple[EngineRecord, str | None]:
    """Return how close an engine comes to what is expected, and why that is not close enough, if it is not."""
    found = engine(examples)
    agreement: float | None = None
    if isinstance(network, LogitsAndFeatures):
        found, expected = found[:, : network.num_classes], expected[:, : network.num_classes]
    if isinstance(network, Classifier | LogitsAndFeatures):
        agreement, difference = _agreement(found, expected, threshold), float((found - expected).abs().max())
    else:
        difference = float((found - expected).norm() / expected.norm().clamp(min=1e-12))
    record = EngineRecord(engine.name, ENGINES[engine.name].precision, len(examples), agreement, difference)
    return record, _problem(record)


def _agreement(found: Tensor, expected: Tensor, threshold: float | None) -> float:
    if threshold is None:
        same = found.argmax(1) == expected.argmax(1)
    else:
        same = (found.sigmoid() >= threshold) == (expected.sigmoid() >= threshold)
    return float(same.float().mean())


def _problem(record: EngineRecord) -> str | None:
    """Return why the answers are not close enough to float32's, if they are not."""
    difference, images = record.largest_difference, f"on {record.images_compared} images"
    assert difference is not None
    if record.agreement is not None and record.agreement < MIN_AGREEMENT:
        return f"{record.agreement:.1%} of the answers are float32's {images} (needed: {MIN_AGREEMENT:.1%})"
    most = MAX_RELATIVE_DIFFERENCE if record.agreement is None else MAX_LOGIT_DIFFERENCE
    if not difference <= most:
        kind = "outputs differ by a share of" if record.agreement is None else "a logit differs by"
        return f"{kind} {difference:.2g} from float32's {images} (allowed: {most:g})"
    return None
