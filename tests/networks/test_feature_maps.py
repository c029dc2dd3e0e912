"""A backbone for detectors: a list of maps, and no parameter that takes no part."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from transfer.errors import UserError
from transfer.networks.efficientnet import B0, EfficientNet
from transfer.networks.feature_maps import FeatureMaps
from transfer.networks.layers import LayerSettings
from transfer.networks.rows import Variant
from transfer.weights.build import build_backbone


def tiny() -> EfficientNet:
    return EfficientNet(Variant("tiny", 0.25, 0.3, 32, 0.2, 0, 0, B0), LayerSettings())


def test_it_returns_the_maps_of_the_backbones_stages() -> None:
    maps = build_backbone("lite0", pretrained=True, features_only=True).eval()
    whole = build_backbone("lite0", pretrained=True).eval()
    x = torch.randn(1, 3, 64, 80)
    with torch.no_grad():
        torch.testing.assert_close(maps(x), whole.forward_stages(x), rtol=0, atol=0)
        assert [m.shape[1] for m in maps(x)] == [16, 24, 40, 112, 320] == list(maps.stage_channels)
    top = sum(p.numel() for p in whole.top.parameters())
    assert top == 320 * 1280 + 2 * 1280
    assert sum(p.numel() for p in maps.parameters()) == sum(p.numel() for p in whole.parameters()) - top


@pytest.mark.parametrize("name", ["b0", "v2-b0", "mobilenet-v1", "mobilenet-v2", "resnet50"])
def test_it_describes_what_it_returns(name: str) -> None:
    with torch.device("meta"):
        maps = build_backbone(name, pretrained=False, features_only=True, output_stride=16)
        x = torch.randn(2, 3, 64, 64)
        found, last = maps(x), maps.backbone(x)
    assert tuple(m.shape[1] for m in found) == maps.stage_channels
    assert tuple(64 // m.shape[2] for m in found) == maps.stage_strides
    assert [info["num_chs"] for info in maps.feature_info] == list(maps.stage_channels)
    assert maps.backbone.num_features == last.shape[1] == found[-1].shape[1]
    assert not hasattr(maps, "num_features")


@pytest.mark.parametrize("name", ["b0", "v2-b0", "mobilenet-v1", "resnet50"])
def test_every_parameter_gets_a_gradient(name: str) -> None:
    maps = build_backbone(name, features_only=True, stochastic_depth_prob=0.0).train()
    maps(torch.randn(2, 3, 64, 64))[-1].square().mean().backward()
    assert [n for n, p in maps.named_parameters() if p.grad is None] == []


def test_the_modules_of_feature_info_output_the_maps() -> None:
    maps = FeatureMaps(tiny()).eval()
    seen: list[Tensor] = []
    for info in maps.feature_info:
        maps.get_submodule(info["module"]).register_forward_hook(lambda _module, _input, out: seen.append(out))
    out = maps(torch.randn(1, 3, 64, 64))
    torch.testing.assert_close(seen, out, rtol=0, atol=0)
    assert [(info["num_chs"], info["reduction"]) for info in maps.feature_info] == [
        (m.shape[1], 64 // m.shape[2]) for m in out
    ]


def test_a_function_of_your_own_is_refused() -> None:
    with pytest.raises(UserError, match=r"`features_only`=True with a function of your own"):
        build_backbone(f"{__name__}.own_network", features_only=True)


def own_network(depth: float, width: float, resolution: float) -> nn.Module:
    network = nn.Conv2d(3, 4, 1)
    network.num_features = 4  # type: ignore[assignment]
    return network


def _train_two_steps(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(0)
    network = DistributedDataParallel(FeatureMaps(tiny()), find_unused_parameters=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for step in range(2):  # DDP finds out in the second step that a parameter took no part in the first
        optimizer.zero_grad()
        images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(10 * step + rank))
        sum(m.square().mean() for m in network(images)).backward()
        optimizer.step()
    weights = torch.cat([p.detach().flatten() for p in network.parameters()])
    torch.save(weights, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_train_it_without_a_search_for_unused_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", os.environ.get("GLOO_SOCKET_IFNAME", "lo"))
    torch.multiprocessing.spawn(_train_two_steps, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    torch.manual_seed(0)
    start = torch.cat([p.detach().flatten() for p in FeatureMaps(tiny()).parameters()])
    assert torch.equal(first, second) and (first != start).any()
