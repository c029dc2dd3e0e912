"""A network given by its blocks: one name, its rows, an independent implementation, a run like any other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from efficientnet_pytorch import EfficientNet as Reference
from efficientnet_pytorch.utils import BlockDecoder, GlobalParams
from torch.utils.flop_counter import FlopCounterMode

from transfer.commands import convert
from transfer.commands.convert.source import read_network
from transfer.commands.finetune import main
from transfer.costs.counts import count_macs, roundings
from transfer.errors import UserError
from transfer.networks.notation import format_blocks, with_blocks
from transfer.networks.registry import get_backbone, get_variant, list_backbones
from transfer.networks.warm_start import take_over
from transfer.runs.predictor import load_run
from transfer.weights.build import build_backbone, build_classifier, measure_warm_start
from transfer.weights.files import strict_load
from transfer.weights.key_names import to_own_keys
from transfer.weights.start import resolve_start

# tensorflow/tpu efficientnet_builder.py, without strides and channels.
B0 = "r1_k3_e1_se0.25-r2_k3_e6_se0.25-r2_k5_e6_se0.25-r3_k3_e6_se0.25-r3_k5_e6_se0.25-r4_k5_e6_se0.25-r1_k3_e6_se0.25"
OTHER = "r1_k5_e1-r1_k3_e3_se0.25-r3_k7_e4-r2_k3_e6_se0.5-r1_k3_e6-r2_k5_e2_se1-r1_k3_e6"
SMALL = "r1_k3_e1-r1_k5_e2-r1_k3_e2_se0.25-r1_k3_e1-r1_k3_e2-r1_k3_e2-r1_k3_e1"
V2 = "r1_k3_e1-r2_k5_e2-r2_k3_e1-r1_k5_e4-r2_k3_e3_se0.1-r1_k7_e6_se0.25"


def test_the_notation_is_the_released_codes() -> None:
    assert format_blocks(get_variant("b0").stages) == B0
    assert format_blocks(get_variant("lite0").stages) == B0.replace("_se0.25", "")
    assert format_blocks(get_variant("v2-b0").stages) == (
        "r1_k3_e1-r2_k3_e4-r2_k3_e4-r3_k3_e4_se0.25-r5_k3_e6_se0.25-r8_k3_e6_se0.25"
    )


def test_each_stage_gets_its_blocks_and_the_rest_is_the_baselines() -> None:
    b0, variant = get_variant("b0"), get_variant(f"b0@blocks={OTHER}")
    rows = [(row.repeats, row.kernel_size, row.expand_ratio, row.se_ratio) for row in variant.stages]
    assert rows == [
        (1, 5, 1, 0.0), (1, 3, 3, 0.25), (3, 7, 4, 0.0), (2, 3, 6, 0.5), (1, 3, 6, 0.0), (2, 5, 2, 1.0), (1, 3, 6, 0.0),
    ]  # fmt: skip
    kept = [(row.in_channels, row.out_channels, row.stride, row.operator) for row in variant.stages]
    assert kept == [(row.in_channels, row.out_channels, row.stride, row.operator) for row in b0.stages]
    assert (variant.stem_channels, variant.num_features, variant.resolution, variant.dropout_rate) == (
        *(32, 1280, 224, 0.2),
    )
    assert (variant.row, variant.num_parameters, variant.num_macs) == (b0, 0, 0)
    assert [row.fused for row in get_variant(f"v2-b0@blocks={V2}").stages] == [True] * 3 + [False] * 3


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        (f"b0@blocks={OTHER}", f"b0@blocks={OTHER}"),
        (f"EfficientNet_B0@BLOCKS={OTHER.upper()}", f"b0@blocks={OTHER}"),
        (f"b0@blocks={OTHER.replace('r1_k5_e1', 'e01_se0.0_k5_r1')}", f"b0@blocks={OTHER}"),
        (f"b0@blocks={OTHER.replace('se0.5', 'se0.50')}", f"b0@blocks={OTHER}"),
        (f"b0@phi=1.0, blocks={OTHER}", f"b0@blocks={OTHER},phi=1"),
        (f"b0@blocks={OTHER},w=2,d=1", f"b0@blocks={OTHER},w=2"),
        (f"b0@blocks={OTHER},phi=0", f"b0@blocks={OTHER}"),
        (f"b0@blocks={B0}", "b0"),
        (f"b0@blocks={B0},phi=1", "b0@phi=1"),
        (f"lite0@blocks={B0.replace('_se0.25', '')}", "lite0"),
    ],
)
def test_one_network_has_one_name(name: str, canonical: str) -> None:
    variant = get_backbone(name)
    assert variant.name == canonical
    assert get_backbone(canonical) == variant
    assert len(variant.name) < 200 and not set(variant.name) & set(" /\\:*?\"'<>|&;$!()[]{}~#`")


def test_a_scaled_one_repeats_and_widens_its_own_blocks() -> None:
    variant = get_variant(f"b0@blocks={OTHER},phi=1")
    b2 = get_variant("b2")
    assert [row.repeats for row in variant.stages] == [2, 2, 4, 3, 2, 3, 2]
    assert [row.out_channels for row in variant.stages] == [row.out_channels for row in b2.stages]
    assert [row.kernel_size for row in variant.stages] == [5, 3, 7, 3, 3, 5, 3]
    assert variant.resolution == 258
    assert resolve_start(variant.name, dataset_size=64).preprocessing.image_size == 74
    assert variant.row == get_variant("b0")


@pytest.mark.parametrize(
    "name",
    [f"b0@blocks={OTHER}", f"lite0@blocks={OTHER}", f"v2-b0@blocks={V2}", f"b0@blocks={OTHER},d=1.3,w=0.7,r=0.5"],
)
def test_the_count_is_what_torch_counts(name: str) -> None:
    variant = get_variant(name)
    with torch.device("meta"):
        classifier = build_classifier(name, 10).eval()
    for size in (variant.resolution, 97):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            classifier(torch.empty(1, 3, size, size, device="meta"))
        assert 2 * count_macs(variant, size, num_classes=10) == counter.get_total_flops()


def test_it_computes_what_the_decoder_of_the_released_notation_builds() -> None:
    variant = get_variant(f"b0@blocks={OTHER}")
    channels = [f"s{row.stride}{row.stride}_i{row.in_channels}_o{row.out_channels}" for row in variant.stages]
    strings = [f"{part}_{rest}" for part, rest in zip(OTHER.split("-"), channels, strict=True)]
    settings = dict.fromkeys(GlobalParams._fields) | {"width_coefficient": 1.0, "depth_coefficient": 1.0}
    settings |= {"batch_norm_momentum": 0.99, "batch_norm_epsilon": 1e-3, "depth_divisor": 8, "image_size": 64}
    settings |= {"dropout_rate": 0.2, "num_classes": 7, "include_top": True}
    reference = Reference(BlockDecoder.decode(strings), GlobalParams(**settings)).eval()
    own = build_classifier(variant.name, 7).eval()
    strict_load(own, to_own_keys(reference.state_dict(), variant), source="reference")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(own(images), reference(images), rtol=1e-4, atol=1e-5)


def test_without_a_scale_nothing_is_rounded_but_the_gates() -> None:
    rows = roundings(get_variant(f"lite0@blocks={SMALL}"))
    assert [row.effect for row in rows] == pytest.approx([0.0] * len(rows))
    assert [row.repeats for row in rows] == [1] * len(rows)


def test_a_fraction_of_the_input_channels_is_at_least_one_gate() -> None:
    with torch.device("meta"):
        stages = build_backbone(f"b0@blocks={OTHER.replace('e3_se0.25', 'e3_se0.01')}").stages
    assert stages[1][0].se.reduce.out_channels == 1
    assert stages[3][0].se.reduce.out_channels == 20  # half of 40
    assert stages[5][1].se.reduce.out_channels == 192


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "b0@blocks=r1_k3_e1",
            r"backbone b0@blocks=\.\.\.: 1 stages \(needed: 7, joined by '-', as b0's own: r1_k3_e1_se",
        ),
        ("b0@blocks=", "1 stages"),
        (f"v2-b0@blocks={B0}", r"v2-b0@blocks=\.\.\.: 7 stages \(needed: 6"),
        (
            f"b0@blocks={B0.replace('k5', 'k4')}",
            r"stage 3, 'r2_k4_e6_se0\.25': k4 \(allowed: r 1 to 99, k 3, 5, 7, e 1",
        ),
        (f"b0@blocks={B0.replace('e1', 'e0')}", r"stage 1, .*: e0 \(allowed"),
        (f"b0@blocks={B0.replace('r4', 'r0')}", r"stage 6, .*: r0 \(allowed"),
        (
            f"b0@blocks={B0.replace('r4', 'r100')}",
            r"stage 6, .*: 'r100' is unknown or given twice \(allowed: r 1 to 99",
        ),
        (
            f"b0@blocks={B0.replace('e1_se0.25', 'e1_se1.5')}",
            r"stage 1, .*: se1\.5 \(allowed.* se 0 to 1 in steps of 0",
        ),
        (f"b0@blocks={B0.replace('e1_se0.25', 'e1_se-1')}", "8 stages"),
        (f"b0@blocks={B0.replace('e1_se0.25', 'e1_se0.125')}", r"stage 1, .*: 'se0\.125' is unknown"),
        (f"b0@blocks={B0.replace('e1_se0.25', 'k3_se0.25')}", r"stage 1, .*: 'k3' is unknown or given twice"),
        (f"b0@blocks={B0.replace('e1_se0.25', 'se0.25')}", r"stage 1, 'r1_k3_se0\.25': e missing \(allowed"),
        (f"b0@blocks={B0.replace('e1_se0.25', 'e1_s22_i32')}", "'s22' is unknown"),
        (f"b0@blocks={B0.replace('e1_se0.25', '')}", "'' is unknown"),
        (f"b0@blocks={B0}-", "8 stages"),
        (f"v2-b0@blocks={V2.replace('r1_k3_e1', 'r1_k3_e1_se0.5')}", r"stage 1, .*: a fused block has no squeeze-exc"),
        (f"b1@blocks={B0}", r"b1 is no baseline \(write b0@blocks=\.\.\.,phi=1"),
        (f"resnet50@blocks={B0}", "resnet50 is not made of MBConv blocks"),
        (f"b0@blocks={OTHER},blocks={OTHER}", "is not KEY=NUMBER"),
        (f"b0@blocks={OTHER},phi=big", r"backbone b0@blocks=.*,phi=big: 'phi=big' is not KEY=NUMBER"),
        (f"b0@blocks={OTHER},d=99", r"depth coefficient 99 \(allowed"),
    ],
)
def test_what_is_not_allowed_is_named(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        get_backbone(name)


def test_blocks_of_blocks_are_refused() -> None:
    with pytest.raises(UserError, match=r"is no baseline"):
        with_blocks(get_variant(f"b0@blocks={OTHER}"), B0)


@pytest.mark.parametrize("name", list_backbones())
def test_every_baseline_of_mbconv_blocks_takes_its_own(name: str) -> None:
    variant = get_variant(name)
    scaled = (variant.width_coefficient, variant.depth_coefficient) != (1.0, 1.0)
    if scaled or name in ("mobilenet-v1", "resnet50"):
        with pytest.raises(UserError, match=r"is no baseline|not made of MBConv"):
            with_blocks(variant, format_blocks(variant.stages))
    else:
        assert with_blocks(variant, format_blocks(variant.stages)) is variant


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"pretrained": True},
            r"has channels and blocks of its own, and no checkpoint fits: use pretrained=False for r",
        ),
        ({"pretrained": "paper"}, "no checkpoint fits"),
        ({"init_from": "b0"}, r"b0 is built of other blocks than b0@blocks=.* \(allowed: nothing; leave it out\)"),
        ({"init_from": "tf_efficientnet_b0.in1k"}, "b0 is built of other blocks"),
    ],
)
def test_weights_that_cannot_fit_are_refused_with_the_reason(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_backbone(f"b0@blocks={OTHER}", **options)


def test_where_only_the_repeats_differ_it_starts_from_the_published_tensors() -> None:
    name = "lite0@blocks=" + B0.replace("_se0.25", "").replace("r2_k5", "r3_k5").replace("r4", "r2")
    source, started = build_backbone("lite0", pretrained=True), build_backbone(name, init_from="lite0")
    assert torch.equal(started.stages[5][1].project.conv.weight, source.stages[5][1].project.conv.weight)
    assert len(started.stages[2]) == 3 and not started.stages[2][2].project.norm.weight.any()
    shares = measure_warm_start(resolve_start(name, init_from="efficientnet_lite0.pypi"))
    assert shares is not None
    assert shares.taken + shares.copied + shares.fresh == pytest.approx(1.0) and 0 < shares.copied < shares.taken


def test_its_own_tensors_fit_itself_alone() -> None:
    name = f"b0@blocks={SMALL},w=0.25"
    variant = get_variant(name)
    trained, again = build_backbone(name), build_backbone(name)
    again.load_state_dict(trained.state_dict())
    take_over(again, trained.state_dict(), variant)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again.eval()(images), trained.eval()(images))


@pytest.mark.slow
def test_it_is_trained_resumed_reloaded_and_converted_like_any_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, name = tmp_path / "run", f"b0@blocks={SMALL},w=0.25"
    argv = ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.accelerator", "cpu")
    argv += ("--trainer.limit_val_batches", "1", "--data.num_workers", "0", "--optim.warmup_epochs", "0")
    argv += ("--backbone", name.upper(), "--pretrained", "false", "--image_size", "32", "--optim.layer_decay", "0.9")
    argv += ("--report", "false")
    assert main([*argv, "--data.batch_size", "16", "--grad_checkpointing", "true", "--out_dir", str(run_dir)]) == 0
    assert f"{name} from random weights; 32 px" in capsys.readouterr().out
    (run_dir / "results.json").unlink()  # as if it had been killed before its test
    assert main(["--resume", str(run_dir)]) == 0
    run = load_run(run_dir)
    assert (run.config.backbone, run.classifier.backbone.variant) == (name, get_variant(name))
    own = tmp_path / "own.safetensors"
    assert convert.main([str(run_dir), str(own), "--to", "own"]) == 0
    assert read_network(own).variant == get_variant(name)
    again = build_classifier(name, 10, pretrained="tensorflow", weights=own)
    state = run.classifier.backbone.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in again.backbone.state_dict().items())
    assert convert.main([str(run_dir), str(tmp_path / "timm.safetensors"), "--to", "timm"]) == 2
    assert f"--to timm: nobody else builds a {name}" in capsys.readouterr().err
