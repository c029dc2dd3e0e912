"""Training: the LightningModule, losses, metrics, optimizers, callbacks and the Trainer."""
