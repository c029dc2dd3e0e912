"""The contenders of `benchmarks.gpu`: our networks and timm's, each as a call that computes one batch or one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.data import make_jpegs
from benchmarks.networks import build_own, build_peer, load_timm
from benchmarks.traffic import freeze_batch_norm
from datamodules import build_datamodule
from datamodules.loading.workers import default_num_workers
from transfer.costs.bare_steps import Batch, forward_pass, placed, training_step
from transfer.inference.engines import build_engine
from transfer.networks.classifier import Classifier
from transfer.networks.registry import get_variant
from transfer.preprocessing import IMAGENET, Preprocessing

CROP = 0.875


@dataclass(frozen=True)
class Contender:
    """A call that is timed.

    Attributes:
        call: computes once; work on a GPU may still run when it returns.
        images: images of a call.
        allocated_before: bytes on the GPU before it was built.
        is_slow: whether a call takes so long that none should wait behind it.
        inductor: after the first call, returns the kernels and bytes of the compiled graphs; None if it counts none.
    """

    call: Callable[[], object]
    images: int
    allocated_before: int
    is_slow: bool = False
    inductor: Callable[[], dict[str, int]] | None = None


def contenders_of(task: str, compiled: bool) -> list[str]:
    """Return the names of a part's contenders, timm first, to which all are compared; the first word says whose."""
    if task == "features":
        return ["timm", "own"]
    if not compiled:
        return ["timm", "own", "own frozen" if task == "training" else "own engine"]
    frozen = ["own frozen compiled"] if task == "training" else []
    return ["timm", "own", "own compiled", "timm compiled", *frozen]


def build_contender(
    name: str, task: str, backbone: str, batch: Batch, device: torch.device, backend: str, files: int, folder: Path
) -> Contender:
    """Return a contender by its name.

    Args:
        name: see `contenders_of`.
        task: `training`, `inference` or `features`.
        backbone: name of the backbone.
        batch: images on the device, channels_last, and their labels.
        device: where it computes.
        backend: torch.compile's.
        files: number of JPEGs to decode.
        folder: folder for them.
    """
    allocated = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    words, images = name.split(), len(batch[0])
    network = build_network(words[0], backbone)
    if task == "features":
        root = make_folder(folder, files)
        build = own_features if words[0] == "own" else timm_features
        call, images = build(network, root, batch[0].shape[-1], images, device)
        return Contender(call, images, allocated, is_slow=True)
    if "compiled" in words:
        network.compile(backend=backend)
    inductor = count_with_inductor() if "compiled" in words and backend == "inductor" else None
    if task == "training":
        step = training_step(network, device, precision="bf16-mixed")
        if "frozen" in words:
            freeze_batch_norm(network)
        return Contender(lambda: step(batch), images, allocated, inductor=inductor)
    if "engine" in words:
        engine = build_engine("torch-bf16", placed(network, device, torch.channels_last).eval(), batch[0])
        return Contender(lambda: engine(batch[0]), images, allocated)
    forward = forward_pass(network, device, precision="bf16-mixed")
    return Contender(lambda: forward(batch[0]), images, allocated, inductor=inductor)


def build_network(whose: str, backbone: str) -> nn.Module:
    """Return our network or timm's: `own` or `timm`."""
    variant = get_variant(backbone)
    return build_own(variant) if whose == "own" else build_peer(variant)


def count_with_inductor() -> Callable[[], dict[str, int]]:
    """Let inductor count from now on; return what gives the kernels and bytes of the graphs that it has compiled."""
    from torch._inductor import metrics

    torch._logging.set_logs(inductor_metrics=True)  # type: ignore[attr-defined]  # not in its __all__
    metrics.reset()
    return lambda: {"inductor_kernels": metrics.generated_kernel_count, "inductor_bytes": metrics.num_bytes_accessed}


def make_folder(folder: Path, files: int) -> Path:
    """Return a folder of two classes of JPEGs; up to 64 are distinct, the others links to them."""
    root = folder / "classes"
    if not root.exists():
        distinct = make_jpegs(folder / "made", min(files, 64))
        for index in range(files):
            link = root / f"class{index % 2}" / f"{index}.jpg"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(distinct[index % len(distinct)])
    return root


class Pooled(nn.Module):
    """A network without its last layer: ours or timm's, whose methods have the same names."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: Any = network

    def forward(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.network.forward_head(self.network.forward_features(images), pre_logits=True)
        return pooled


def own_features(
    network: nn.Module, root: Path, image_size: int, batch_size: int, device: torch.device
) -> tuple[Callable[[], Tensor], int]:
    """Return a pass over the files with our loader and engine, and its number of images."""
    assert isinstance(network, Classifier)
    data = build_datamodule(
        "folder",
        data_root=root,
        preprocessing=Preprocessing(image_size, CROP, "bicubic", *IMAGENET),
        batch_size=batch_size,
        num_workers=default_num_workers() if device.type == "cuda" else 0,
    )
    data.setup()
    loader: Iterable[Any] = data.eval_dataloader("train")
    pooled = Pooled(placed(network, device, torch.channels_last).eval())
    engine = build_engine("torch-bf16", pooled, torch.zeros(2, 3, image_size, image_size, device=device))

    def run() -> Tensor:
        return torch.cat([engine(data.normalize(images.to(device, non_blocking=True))) for images, _ in loader])

    return run, len(data.dataset.split("train"))


def timm_features(
    network: nn.Module, root: Path, image_size: int, batch_size: int, device: torch.device
) -> tuple[Callable[[], Tensor], int]:
    """Return a pass over the files with timm's loader and network, and its number of images."""
    data, is_gpu = load_timm().data, device.type == "cuda"
    dataset = data.ImageDataset(str(root))
    loader = data.create_loader(
        dataset,
        (3, image_size, image_size),
        batch_size,
        interpolation="bicubic",
        crop_pct=CROP,
        num_workers=default_num_workers() if is_gpu else 0,
        pin_memory=is_gpu,
        persistent_workers=is_gpu,
        use_prefetcher=is_gpu,
        device=device,
    )
    pooled = Pooled(placed(network, device, torch.channels_last)).eval()

    @torch.inference_mode()
    def run() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return torch.cat(
                [
                    pooled(images.to(device, memory_format=torch.channels_last, non_blocking=True)).float()
                    for images, _ in loader
                ]
            )

    return run, len(dataset)
