"""What connects devices and machines: published bandwidths, or a given one."""

from __future__ import annotations

from dataclasses import dataclass

from transfer.costs.units import parse_bytes
from transfer.errors import BadValue, nearest

# Latencies of a step of a ring: hwLat of Ring and Simple in NVIDIA/nccl, src/graph/tuning.cc (commit 01afd20, 2020).
_NVLINK_LATENCY, _PCIE_LATENCY, _NETWORK_LATENCY = 3.4e-6, 5.7e-6, 9.6e-6
_NCCL = "latency: NCCL's own model (src/graph/tuning.cc)"


@dataclass(frozen=True)
class Link:
    """A connection, the same in both directions at once.

    Attributes:
        bandwidth: bytes per second in one direction: of a device, or of all devices of a machine together.
        latency: seconds of one message.
        source: where the numbers are from.
    """

    bandwidth: float
    latency: float
    source: str


def _nvlink(gigabytes: int, gpu: str) -> Link:
    source = (
        f"assumed: half of the {2 * gigabytes} GB/s in both directions of NVIDIA's data sheet of the {gpu}; {_NCCL}"
    )
    return Link(gigabytes * 1e9, _NVLINK_LATENCY, source)


def _pcie(transfers: int) -> Link:
    bandwidth = transfers * 1e9 * 16 / 8 * 128 / 130
    return Link(bandwidth, _PCIE_LATENCY, f"assumed: 16 lanes of {transfers} GT/s, coded 128b/130b (PCI-SIG); {_NCCL}")


def _network(gigabits: int, standard: str) -> Link:
    return Link(gigabits * 1e9 / 8, _NETWORK_LATENCY, f"assumed: {gigabits} Gbit/s, one port of {standard}; {_NCCL}")


# Peaks of the standards; `all_reduce_perf` of nvidia/nccl-tests measures what is left of them (its bus bandwidth).
LINKS = {
    "nvlink2": _nvlink(150, "V100"),
    "nvlink3": _nvlink(300, "A100"),
    "nvlink4": _nvlink(450, "H100"),
    "nvlink5": _nvlink(900, "B200"),
    "pcie3": _pcie(8),
    "pcie4": _pcie(16),
    "pcie5": _pcie(32),
    "ethernet10": _network(10, "Ethernet (IEEE 802.3ae)"),
    "ethernet25": _network(25, "Ethernet (IEEE 802.3by)"),
    "ethernet100": _network(100, "Ethernet (IEEE 802.3ba)"),
    "infiniband-edr": _network(100, "InfiniBand EDR (4 lanes, IBTA)"),
    "infiniband-hdr": _network(200, "InfiniBand HDR (4 lanes, IBTA)"),
    "infiniband-ndr": _network(400, "InfiniBand NDR (4 lanes, IBTA)"),
}
# Of devices in a machine, and of machines.
DEFAULTS = ("pcie4", "ethernet25")


def find_link(text: str, *, between_machines: bool) -> Link:
    """Return a row of `LINKS` by its name, or a link with the bytes per second that a text such as `20GB` gives.

    Args:
        text: the name or the bandwidth.
        between_machines: whether a given bandwidth is a network's, for its latency.

    Raises:
        BadValue: there is no such row, and the text is no bandwidth.
    """
    if text in LINKS:
        return LINKS[text]
    try:
        bandwidth = parse_bytes(text, "bandwidth")
    except BadValue:
        allowed = f"{', '.join(LINKS)}, or bytes per second such as 20GB"
        raise BadValue(f"`bandwidth`={text!r} (allowed: {allowed}){nearest(text, LINKS)}") from None
    latency, kind = (_NETWORK_LATENCY, "a network's") if between_machines else (_PCIE_LATENCY, "PCIe's")
    return Link(bandwidth, latency, f"given; latency assumed: {kind} in NCCL's own model")
