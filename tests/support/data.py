"""What most tests of data need: a preprocessing, for they have no network to ask."""

from __future__ import annotations

from transfer.preprocessing import IMAGENET, Preprocessing

PREPROCESSING = Preprocessing(32, 0.875, "bicubic", *IMAGENET)
