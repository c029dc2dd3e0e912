"""Bandwidths: the standards' by hand, given ones, and names that are none."""

from __future__ import annotations

import pytest

from transfer.costs.links import DEFAULTS, LINKS, find_link
from transfer.errors import BadValue


@pytest.mark.parametrize(
    ("name", "gigabytes"),
    [("nvlink4", 450), ("pcie3", 15.754), ("pcie4", 31.508), ("ethernet25", 3.125), ("infiniband-ndr", 50)],
)
def test_a_row_is_one_direction_of_its_standard(name: str, gigabytes: float) -> None:
    link = find_link(name, between_machines=False)
    assert link.bandwidth == pytest.approx(gigabytes * 1e9, rel=1e-4)
    assert 0 < link.latency < 1e-4 and link.source.startswith("assumed: ")
    assert set(DEFAULTS) <= LINKS.keys()


def test_a_bandwidth_is_given_in_bytes_per_second() -> None:
    within, between = (find_link("12.5GB", between_machines=network) for network in (False, True))
    assert within.bandwidth == between.bandwidth == 12.5e9
    assert (within.latency, between.latency) == (LINKS["pcie4"].latency, LINKS["ethernet25"].latency)
    assert within.source.startswith("given")


@pytest.mark.parametrize(
    ("text", "said"),
    [("nvlink", "did you mean 'nvlink"), ("12.5", "'12.5'"), ("0GB", "'0GB'"), ("", "20GB"), ("300GB/s", "nvlink4")],
)
def test_another_text_is_refused(text: str, said: str) -> None:
    with pytest.raises(BadValue, match="`bandwidth`") as error:
        find_link(text, between_machines=True)
    assert said in str(error.value)
