"""Progressive learning (Tan & Le 2021, arXiv:2104.00298, section 4): images and regularisation grow during a run."""

from __future__ import annotations

from dataclasses import dataclass

# Algorithm 1: M stages of equal length, between whose first and last values everything grows linearly.
NUM_STAGES = 4
# In the authors' code RandAugment's magnitude starts at 5 of 30, mixup and CutMix at 0; dropout 0.1 is unverified
# (google/automl, efficientnetv2/main_tf2.py). They end with the run's own settings.
FIRST_RANDAUGMENT = 5 / 30
FIRST_DROPOUT = 0.1
FIRST_MIXING = 0.0


def grown(first: float, last: float, stage: int) -> float:
    """Return what a setting that ends with `last` is in a stage, 0 to NUM_STAGES - 1; it never shrinks."""
    return last if first >= last else first + (last - first) * stage / (NUM_STAGES - 1)


def stage_sizes(first: int, last: int) -> list[int]:
    """Return the side of the training images in each stage, in pixels."""
    return [round(grown(first, last, stage)) for stage in range(NUM_STAGES)]


def pixel_share(first: int, last: int) -> float:
    """Return the pixels of a whole run's training images relative to those of a run at full size."""
    return sum(size**2 for size in stage_sizes(first, last)) / (NUM_STAGES * last**2)


@dataclass(frozen=True)
class Stages:
    """Which images of a run belong to which stage: all of an optimizer step to the same, on every rank.

    Args:
        steps, steps_per_epoch: optimizer steps of the run and of an epoch.
        batches_per_step: batches whose gradients are accumulated.
        batch_size: images of a batch.
    """

    steps: int
    steps_per_epoch: int
    batches_per_step: int
    batch_size: int

    def of_batch(self, epoch: int, batch: int) -> int:
        """Return the stage of a rank's batch in an epoch, counted from 0."""
        step = epoch * self.steps_per_epoch + batch // self.batches_per_step
        return min(NUM_STAGES * step // self.steps, NUM_STAGES - 1)

    def of_image(self, epoch: int, position: int) -> int:
        """Return the stage of an image, whose position is that among the rank's images of the epoch."""
        return self.of_batch(epoch, position // self.batch_size)
