"""The card is one that the Hub's own client reads, and says what model.json says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from huggingface_hub import ModelCard

from tests.bundle.test_record import MEMBER, RECORD
from transfer.bundle.card import write_card
from transfer.bundle.member import Teacher


def test_the_hubs_client_reads_the_metadata() -> None:
    card = ModelCard(write_card(RECORD))
    data = card.data
    assert (data.license, data.library_name, data.pipeline_tag) == (
        "apache-2.0",
        "efficientnet-transfer",
        "image-classification",
    )
    assert data.datasets is None and "onnx" in data.tags
    assert data.model_name == "photos_lite0"
    found = {(row.dataset_split, row.metric_name): (row.metric_type, row.metric_value) for row in data.eval_results}
    assert found["val", "top1"] == ("accuracy", 0.93) and found["test", "top1"] == ("accuracy", 0.91)
    assert {row.dataset_name for row in data.eval_results} == {"photos"}


def test_a_dataset_of_the_hub_is_linked() -> None:
    member = replace(MEMBER, data=replace(MEMBER.data, name="cifar10", hub_id="uoft-cs/cifar10"), weights=None)
    record = replace(RECORD, members=(member,))
    data = ModelCard(write_card(record)).data
    assert data.datasets == ["uoft-cs/cifar10"] and data.license == "unknown"
    assert {row.dataset_type for row in data.eval_results} == {"uoft-cs/cifar10"}


def test_the_text_holds_intervals_agreement_and_what_is_unknown() -> None:
    text = write_card(RECORD)
    for said in (
        "| val | top1 | 0.9300 | 0.9000 to 0.9500 |",
        "1.5e-05 (2.0e-06 of the largest) | 100.00% | 1.25 ms at 1, 0.75 ms at 32",
        "-1.00 points (95% interval -2.00 to +0.00)",
        "- the licence of the data",
        "logits / 1.25, then softmax. On 180 images of val the expected calibration error is 0.0250, cross-fitted",
        "resized to 36 px (bicubic",
        "cd" * 16,
    ):
        assert said in text, said


def test_names_are_no_markup() -> None:
    text = write_card(RECORD).rpartition("---\n")[2]
    assert "<b>" not in text and "dog \\| wolf" in text and "cät" in text


def test_a_network_without_metrics_has_a_card() -> None:
    text = write_card(
        replace(RECORD, members=(replace(MEMBER, weights=None),), metrics={}, intervals={}, calibration=None)
    )
    assert ModelCard(text).data.eval_results is None
    assert "- its accuracy" in text and "- how well its probabilities are calibrated" in text


def test_a_teacher_without_times_or_shared_images_has_a_row() -> None:
    teacher = Teacher(
        backbone="b4",
        image_size=380,
        num_parameters=2**20,
        metrics={"val": {"top1": 0.95}},
        milliseconds=None,
        student_milliseconds=None,
        device=None,
    )
    text = write_card(replace(RECORD, members=(replace(MEMBER, network=replace(MEMBER.network, teacher=teacher)),)))
    assert "| this network | lite0 at 32 px | 3,383,818 | 12.9 |  | 0.9300 |" in text
    assert "| its teacher | b4 at 380 px | 1,048,576 | 4.0 |  | 0.9500 |" in text
    assert "Times:" not in text and "## Teacher" not in write_card(RECORD)


def test_of_several_networks_a_teacher_stands_beside_its_own_student() -> None:
    facts: dict[str, Any] = {
        "backbone": "b4",
        "image_size": 380,
        "num_parameters": 2**20,
        "metrics": {"val": {"top1": 0.95}},
    }
    teacher = Teacher(**facts, milliseconds=9.0, student_milliseconds=3.0, device="a CPU")
    network, metrics = replace(MEMBER.network, teacher=teacher), {"val": {"top1": 0.71}}
    student = replace(MEMBER, run="photos/2", network=network, metrics=metrics)
    text = write_card(replace(RECORD, members=(MEMBER, student)))
    assert text.count("## Teacher of photos/2\n") == text.count("## Teacher") == 1
    assert "| this network | lite0 at 32 px | 3,383,818 | 12.9 | 3 | 0.7100 |" in text
    assert "| its teacher | b4 at 380 px | 1,048,576 | 4.0 | 9 | 0.9500 |" in text


def test_the_card_of_several_networks_shows_each_beside_their_average() -> None:
    other = replace(MEMBER, run="photos_b0/2", temperature=1.5, metrics={"val": {"top1": 0.94}}, weights=None)
    record = replace(RECORD, members=(MEMBER, other), metrics={"val": {"top1": 0.96}})
    text = write_card(record)
    assert "The mean of the probabilities of 2 networks" in text and "(6,767,636 parameters in all)" in text
    assert "| photos\\_lite0/1 | lite0 | 3,383,818 | 1 | 0.9300 | 0.9100 |" in text
    assert "| photos\\_b0/2 | lite0 | 3,383,818 | 1.5 | 0.9400 |  |" in text
    assert "| their average |  | 6,767,636 |  | 0.9600 |  |" in text
    assert "not measured on val" not in text and "licence: Apache-2.0; SHA-256" in text
    assert "- weights: random (photos\\_b0/2)" in text
    data = ModelCard(text).data
    assert data.license == "unknown" and [row.metric_value for row in data.eval_results] == [0.96]
    folds = replace(record, metrics={}, intervals={}, calibration=None)
    assert "not measured on val" in write_card(folds) and "softmax; not calibrated as a whole" in write_card(folds)


def test_images_that_one_of_the_networks_was_trained_on_are_counted() -> None:
    seen = {"onnx": replace(RECORD.formats["onnx"], num_seen=90)}
    assert "90 of the images of val were trained on, where" in write_card(replace(RECORD, formats=seen))
    text = write_card(replace(RECORD, members=(MEMBER, MEMBER), formats=seen))
    assert "90 of the images of val were trained on by one of the networks or more, where" in text
