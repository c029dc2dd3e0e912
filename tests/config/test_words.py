from __future__ import annotations

from transfer.config.words import changed_words


def test_changed_words_are_those_that_differ_from_the_defaults() -> None:
    fields = {"backbone": "b1", "seed": 0, "data.stream": True, "image_size": None}
    assert changed_words(fields) == ["--backbone", "b1", "--data.stream", "true"]
    assert changed_words(fields, without=("backbone",)) == ["--data.stream", "true"]
