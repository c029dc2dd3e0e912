"""What can be scaled: a backbone by name, and a function of the user's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from transfer.errors import UserError
from transfer.scalable import get_scalable
from transfer.scaling import Scale


def small(depth: float, width: float, resolution: float) -> nn.Module:
    return nn.Sequential(*[nn.Conv2d(3, 3, 3) for _ in range(round(2 * depth))], nn.Conv2d(3, round(8 * width), 1))


def test_a_backbone_is_built_as_a_classifier_at_any_scale() -> None:
    baseline = get_scalable("b0", num_classes=7)
    factors = Scale(1.2, 1.1, 1.15)
    assert (baseline.name, baseline.image_size, baseline.size(factors)) == ("b0", 224, 258)
    with torch.device("meta"):
        network = baseline.build(factors)
    assert network.backbone.variant.name == "b0@d=1.2,w=1.1,r=1.15"
    assert network.num_classes == 7


def test_a_function_is_called_with_depth_width_and_resolution() -> None:
    baseline = get_scalable(small, image_size=32)
    network = baseline.build(Scale(2.0, 1.5, 1.25))
    assert (baseline.name, baseline.size(Scale(resolution=1.25))) == ("small", 40)
    assert len(network) == 5 and network(torch.randn(1, 3, 40, 40)).shape == (1, 12, 32, 32)


def test_a_function_is_found_by_its_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_network.py").write_text(
        "from torch import nn\ndef net(d, w, r):\n    return nn.Conv2d(3, int(8 * w), 3)\nnet.image_size = 96\n"
        "def wrong(d, w, r):\n    return 5\nnumber = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    baseline = get_scalable("my_network.net")
    assert (baseline.name, baseline.image_size) == ("my_network.net", 96)
    assert baseline.build(Scale(width=2.0)).out_channels == 16
    with pytest.raises(UserError, match=r"my_network\.wrong\(depth, width, resolution\) gave int, not an nn\.Module"):
        get_scalable("my_network.wrong").build(Scale())
    with pytest.raises(UserError, match=r"'my_network\.number' is no function"):
        get_scalable("my_network.number")
    with pytest.raises(UserError, match=r"baseline 'my_network\.nothing': .*\(allowed: b0, .* or an import path\)"):
        get_scalable("my_network.nothing")


def test_a_baseline_must_not_be_scaled_already() -> None:
    with pytest.raises(UserError, match=r"baseline b0@phi=1\.5 is scaled already"):
        get_scalable("b0@phi=1.5")
