"""Lightning's Fabric for a probe: the devices that compute features."""

from __future__ import annotations

from lightning_fabric import Fabric

from transfer.config.schema import TrainerConfig
from transfer.errors import BadValue
from transfer.lightning import MisconfigurationException
from transfer.training.machines import refuse_missing_launcher
from transfer.training.trainer import quiet_lightning


def build_fabric(trainer: TrainerConfig) -> Fabric:
    """Return Lightning's Fabric on a trainer's devices, launched.

    Args:
        trainer: its accelerator, devices, num_nodes and strategy.

    Raises:
        BadValue: Lightning refuses a field.
    """
    quiet_lightning()
    try:
        fabric = Fabric(
            accelerator=trainer.accelerator,
            devices=trainer.devices,
            num_nodes=trainer.num_nodes,
            strategy=trainer.strategy,
        )
    except (MisconfigurationException, RuntimeError, ValueError, TypeError) as error:  # RuntimeError: no GPU
        raise BadValue(f"`trainer`: {error}") from None
    refuse_missing_launcher(fabric.strategy, trainer.num_nodes)
    fabric.launch()
    return fabric
