"""Cells of a linear probe: a frozen network, of which one process of the probe command fits the head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transfer.config.data_schema import DataConfig
from transfer.config.probe_schema import is_probe_field
from transfer.config.protocols import PROTOCOLS, Protocol
from transfer.errors import unknown_name
from transfer.experiments.table.cells import Cell, Table, own_data_root, own_settings

LINEAR_PROBE = Protocol(
    name="linear-probe",
    source="Kornblith et al. 2019 (arXiv 1805.08974), as restated in SimCLR (arXiv 2002.05709) B.8: logistic regression"
    " on the features of the frozen network, the best of 45 L2 penalties on val, fitted again to train and val. Ours:"
    " with fewer than 1,000 training images, cross-validation on these chooses the penalty.",
    batch_size=DataConfig.batch_size,
    steps=0,
    settings={},
)
_PROTOCOLS = {**PROTOCOLS, LINEAR_PROBE.name: LINEAR_PROBE}


def get_cell_protocol(name: str) -> Protocol:
    """Return a protocol of a table's cells: one of finetune, or the linear probe.

    Raises:
        BadValue: unknown name; the message lists the nearest and all names.
    """
    if name not in _PROTOCOLS:
        raise unknown_name("protocol", name, sorted(_PROTOCOLS))
    return _PROTOCOLS[name]


def is_probe(cell: Cell) -> bool:
    """Return whether a cell is a linear probe."""
    return cell.protocol == LINEAR_PROBE.name


def fields_of_a_probe(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the dotted fields of a run that a probe has, too; the others concern training."""
    return {name: value for name, value in fields.items() if is_probe_field(name)}


def probe_configuration(cell: Cell, table: Table, devices: int) -> dict[str, Any]:
    """Return the dotted fields of a cell's probe that differ from the defaults.

    Args:
        cell: the cell.
        table: the table that it belongs to.
        devices: GPUs of the probe, or processes where there are none.
    """
    weights = {} if table.pretrained is None else {"pretrained": table.pretrained}
    return {
        **weights,
        "data.batch_size": min(LINEAR_PROBE.batch_size, cell.max_batch_per_device),
        **fields_of_a_probe(own_settings(cell.dataset, table.set)),
        "dataset": cell.dataset,
        "backbone": cell.backbone,
        "seed": cell.seed,
        "features": "last",
        "logit_adjustment": False,
        "data_root": own_data_root(cell.dataset, table.data_root),
        "trainer.devices": devices,
    }
