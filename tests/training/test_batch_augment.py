"""Mixup and cutmix report the share of the image's own pixels that is true."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from transfer.training.mixing import draw_mix


def mix_batch(images: Tensor, mixup_alpha: float, cutmix_alpha: float) -> tuple[Tensor, Tensor, float]:
    """Return the mixed images, their partners and the share of the image itself."""
    mix = draw_mix(images, mixup_alpha, cutmix_alpha)
    assert mix is not None
    return mix.blend(images), mix.partner, mix.share.item()


def test_alpha_zero_mixes_nothing() -> None:
    assert draw_mix(torch.randn(5, 3, 8, 8), 0.0, 0.0) is None


@pytest.mark.parametrize("alphas", [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_partners_are_a_permutation_of_the_batch(alphas: tuple[float, float]) -> None:
    partners = [mix_batch(torch.randn(6, 3, 8, 8), *alphas)[1].tolist() for _ in range(10)]
    assert all(sorted(partner) == list(range(6)) for partner in partners)
    assert len({tuple(partner) for partner in partners}) > 5


def test_mixup_blends_with_the_share_it_reports() -> None:
    for _ in range(20):
        images = torch.randn(6, 3, 8, 8)
        mixed, partner, share = mix_batch(images, 0.4, 0.0)
        torch.testing.assert_close(mixed, share * images + (1.0 - share) * images[partner])


def test_mixup_draws_its_share_from_the_beta_distribution() -> None:
    shares = torch.tensor([mix_batch(torch.zeros(2, 1, 1, 1), 0.4, 0.0)[2] for _ in range(2000)])
    assert shares.mean().item() == pytest.approx(0.5, abs=0.035)  # four standard errors
    assert shares.var().item() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.015)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (7, 19)])
def test_cutmix_reports_the_share_of_own_pixels(height: int, width: int) -> None:
    images = torch.arange(6.0).reshape(6, 1, 1, 1).expand(6, 3, height, width).clone()
    shares = []
    for _ in range(50):
        mixed, partner, share = mix_batch(images, 0.0, 1.0)
        own = torch.arange(6)[partner != torch.arange(6)]
        assert (mixed[own] == images[own]).float().mean((1, 2, 3)).tolist() == pytest.approx([share] * len(own))
        assert ((mixed == images) | (mixed == images[partner])).all()
        shares.append(share)
    assert min(shares) < 0.3 and max(shares) > 0.9


def test_cutmix_cuts_one_box_at_the_same_place_in_all_channels() -> None:
    images = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 3, 12, 12).clone()
    for _ in range(20):
        mixed, partner, share = mix_batch(images, 0.0, 1.0)
        if partner[0] == 0:
            continue
        cut = mixed[0] != 0
        assert torch.equal(cut[0], cut[1]) and torch.equal(cut[0], cut[2])
        box = cut[0].any(1).sum() * cut[0].any(0).sum()
        assert box == cut[0].sum() == round((1 - share) * 144)


def test_images_given_stay_as_they_were() -> None:
    images = torch.randn(4, 3, 8, 8)
    before = images.clone()
    for alphas in ((0.4, 0.0), (0.0, 1.0)):
        for _ in range(5):
            mix_batch(images, *alphas)
    assert torch.equal(images, before)


def test_with_both_alphas_each_method_has_equal_odds() -> None:
    images = torch.arange(2.0).reshape(2, 1, 1, 1).expand(2, 1, 9, 9).clone()
    blended = sum(
        ((mixed > 0) & (mixed < 1)).any() for mixed, _, _ in (mix_batch(images, 5.0, 5.0) for _ in range(800))
    )
    assert blended / 800 == pytest.approx(0.25, abs=0.06)  # mixup, and the partner is the other image
