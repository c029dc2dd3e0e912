"""Measurements of how often networks are right."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from typing import Any

from docs.generate.measurement import Measurement, duration, load, percent

# The tasks of `benchmarks small_data` and its methods, as they are called there and in the table.
TASKS = ("clothing-30", "clothing-100", "clothing-300", "clothing-2700", "cifar10-500", "digits")
SOURCES = {"clothing": "clothing photos", "cifar10": "images of CIFAR-10 (JPEG)", "digits": "digits"}
METHODS = {
    "probe": "linear probe",
    "lpft": "LP-FT",
    "defaults": "without a recipe",
    "timm": "timm's usual recipe",
    "fastai": "fastai's",
}


def few_photos() -> str:
    """Return a table of the test accuracy that each method reaches with few photos."""
    results = load("small_data_cpu")
    rows = ["| Training images | " + " | ".join(METHODS.values()) + " |", "| --- |" + " --- |" * len(METHODS)]
    for task in TASKS:
        name, _, _ = task.partition("-")
        cells = [_accuracy(results[task].get(method)) for method in METHODS]
        rows.append(f"| {results[task]['images']['train']:,} {SOURCES[name]} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _accuracy(result: Mapping[str, Any] | None) -> str:
    if result is None:
        return "-"
    figure = result["mean_test_top1"]
    return f"{percent(figure['value'])} ({figure['count']})"


def _finetuned(run: Any) -> str:
    test = run["metrics"]["test"]["top1"]
    speed = f"{run['images_per_second']:.0f} images/s, {run['precision']}"
    return f"test top-1 {percent(test, 2)}, {duration(run['train_seconds'])} of training, {speed}"


def _chosen(choice: Any) -> str:
    tried, seconds = choice["fine_tuning"], choice["seconds"]
    interval = f"{percent(tried['interval']['low'])} to {percent(tried['interval']['high'])}"
    gain = tried["difference"]
    points = f"{100 * gain['value']:+.1f} points ({100 * gain['low']:.1f} to {100 * gain['high']:.1f})"
    return (
        f"LP-FT {percent(tried['accuracy'])} ({interval}, {tried['num_folds']} of {choice['folds']} folds), on the"
        f" same images as the probe {points}; {duration(seconds['networks'])} for the probe,"
        f" {duration(seconds['fine_tuning'])} for the folds, {duration(seconds['winner'])} for the run that is left"
    )


def _probed_networks(choice: Any) -> str:
    networks = [
        f"`{candidate['backbone']}` at {candidate['image_size']} px {percent(candidate['accuracy'])}"
        f" ({percent(candidate['interval']['low'])} to {percent(candidate['interval']['high'])})"
        for candidate in choice["candidates"]
    ]
    return f"{', '.join(networks)}; {duration(sum(choice['seconds'].values()))} with the winner's run"


def _adjusted(result: Any) -> str:
    parts = []
    for size in sorted((size for size in result if size.isdigit()), key=int):
        gains, weighted = (result[size]["mean_gain"][way] for way in ("adjusted", "balanced"))
        per_class, top1 = (f"{100 * gains[name]['value']:+.1f}" for name in ("mean_per_class", "top1"))
        instead = f"{100 * weighted['mean_per_class']['value']:+.1f} with balanced class weights instead"
        count = f"{gains['top1']['count']} draws"
        parts.append(f"{size} photos {per_class} points per class ({instead}), {top1} top-1 ({count})")
    return "; ".join(parts)


def _distilled(result: Any) -> str:
    alone, taught = (result["mean_test_top1"][f"student {which}"] for which in ("alone", "with teacher"))
    gains = " and ".join(f"{100 * gain:+.1f}" for gain in result["gains"])
    teacher = percent(result["teacher"]["test"]["top1"])
    return f"{percent(taught)} against {percent(alone)} without (by seed {gains} points); the teacher has {teacher}"


def _suspects(result: Any) -> str:
    draws = result["draws"]
    precision = ", ".join(percent(draw["precision"], 0) for draw in draws)
    recall = ", ".join(percent(draw["recall"], 0) for draw in draws)
    return f"precision {precision}; recall {recall} ({len(draws)} draws)"


def _extrapolated(result: Any) -> str:
    twice, four = (result["300 photos"][factor] for factor in ("2x", "4x"))
    errors = " and ".join(f"{100 * part['mean_absolute_gain_error']:.1f}" for part in (twice, four))
    covering = " and ".join(percent(part["gain_covering"], 0) for part in (twice, four))
    draws = len(result["300 photos"]["draws"])
    return (
        f"gain predicted within {errors} points (mean absolute error, {draws} draws); {covering} of the 95% intervals"
        " cover the measured gain"
    )


def _penalties(result: Any) -> str:
    sizes = [
        f"{size} images {percent(result[size]['mean_test_top1']['train'])} against"
        f" {percent(result[size]['mean_test_top1']['val'])}"
        for size in ("30", "300", "1000")
    ]
    return "; ".join(sizes) + f" (test top-1, means of {len(result['30']['train']['test_top1'])} draws)"


def _views(result: Any) -> str:
    few = {size: result[f"views of {size} images, top1 of the others by seed"] for size in ("30", "300")}
    parts = [f"{size} photos: {', '.join(percent(mean(values[n])) for n in values)}" for size, values in few.items()]
    return "; ".join(parts)


def _probed(result: Any) -> str:
    fits = result["probe"]
    test = percent(result["metrics"]["test"]["top1"], 2)
    return f"test top-1 {test}; {duration(fits['seconds'])} for {fits['penalties']} fits"


def _growing(result: Any) -> str:
    full, steps, time = (
        percent(result["mean_top1"][name]) for name in ("full size", "growing, equal steps", "growing, equal time")
    )
    share = sum(run["processor_seconds"] for run in result["growing, equal steps"]) / sum(
        run["processor_seconds"] for run in result["full size"]
    )
    return f"{steps} in {percent(share, 0)} of the processor time and {time} at equal time, against {full} at full size"


def _engines(result: Any) -> str:
    figures = result["validation"]
    return ", ".join(f"{name} {percent(figure['top1'])}" for name, figure in figures.items())


def _stages(result: Any) -> str:
    parts = []
    for size in sorted((size for size in result if size.isdigit()), key=int):
        gains = result[size]["mean_gain"]
        stages, auto = (f"{100 * gains[name]['value']:+.1f}" for name in ("stages", "auto"))
        draws = gains["auto"]["count"]
        parts.append(f"{size} photos {stages} points, what `auto` takes {auto} ({draws} draws)")
    return "; ".join(parts)


def _lpft_settings(result: Any) -> str:
    parts = []
    for name, found in result.items():
        if name != "lpft" and isinstance(found, dict) and "runs" in found:
            value, low, high = (f"{100 * found['mean_gain_over_rule'][key]:+z.1f}" for key in ("value", "low", "high"))
            called = "the best on val of these rates and decays" if name == "search" else name
            parts.append(f"{called} {value} ({low} to {high})")
    return f"{'; '.join(parts)} points ({len(result['lpft']['runs'])} draws)"


def _class_maps(result: Any) -> str:
    last, taken = (result["maps"][name]["maximum_on_photo"] for name in ("CAM of the last features", result["taken"]))
    chance = percent(result["area_of_the_photo"])
    return f"{percent(taken)} by {result['taken']}, {percent(last)} by CAM of the last features, {chance} by chance"


def _duplicates(result: Any) -> str:
    leaks = result["findings"][0]["message"].partition(":")[0]
    exact = result["exact_images_with_a_twin"]["train/test"]
    return f"{duration(result['seconds'])}; {leaks}, {exact} with an exact one"


MEASUREMENTS = (
    Measurement(
        "`lite0` on digits, 10 epochs at 64 px",
        "digits_lite0_cpu",
        _finetuned,
        "efficientnet-transfer finetune --config configs/digits_lite0.yaml",
        "seed 0",
    ),
    Measurement(
        "`lite0` on CIFAR-10 (JPEG), 2 epochs at 64 px",
        "cifar10_lite0_cpu",
        _finetuned,
        "efficientnet-transfer finetune --config configs/cifar10_lite0.yaml --data_root DIR",
        "seed 0",
    ),
    Measurement(
        "`choose` on 3,409 clothing photos, `lite0` at 128 px",
        "choose_clothing_cpu",
        _chosen,
        "efficientnet-transfer choose --data_root DIR --backbones lite0 --image_sizes 128",
    ),
    Measurement(
        "`choose` among `lite0`, `lite1` and `lite2` on 3,409 clothing photos, probes alone",
        "choose_probes_clothing_cpu",
        _probed_networks,
        "efficientnet-transfer choose --data_root DIR --methods probe",
    ),
    Measurement(
        "linear probe of `lite0` on CIFAR-10 (JPEG) at 64 px, from cached features of 50,000 images",
        "probe_cifar10_cpu",
        _probed,
        "python -m benchmarks probe RUN_DIR --every 4 --tol 1e-5",
    ),
    Measurement(
        "penalty of a probe chosen by folds of train, against chosen on val, clothing photos",
        "penalties_clothing_cpu",
        _penalties,
        "python -m benchmarks penalties TRAIN.features VAL.features --draws 10",
    ),
    Measurement(
        "probe with 1, 2 and 4 views of each training image, on the other clothing photos",
        "probe_choices_clothing_cpu",
        _views,
        "python -m benchmarks probe_choices --data_root DIR --cache_dir DIR --views 4 --few 30 300",
    ),
    Measurement(
        "`--progressive 96` on the clothing photos, `lite0` at 160 px, 60 steps of 32 images, val top-1",
        "progressive_cpu",
        _growing,
        "python -m benchmarks progressive --data_root DIR",
        "means of 2 seeds",
    ),
    Measurement(
        "`lite0` at 64 px on 600 clothing photos, 10 epochs, with `lite2` at 96 px as its teacher",
        "distillation_cpu",
        _distilled,
        "python -m benchmarks distillation --data_root DIR --seeds 2",
    ),
    Measurement(
        "suspect labels among 3,409 clothing photos, 5% of them changed at random, `lite0` at 224 px",
        "label_noise_cpu",
        _suspects,
        "python -m benchmarks label_noise --data_root DIR --cache_dir DIR",
    ),
    Measurement(
        "learning curves of `lite0` at 128 px, extrapolated from 300 clothing photos to 600 and 1,200",
        "learning_curve_cpu",
        _extrapolated,
        "python -m benchmarks learning_curve --data_root DIR --cache_dir DIR --out_dir DIR",
    ),
    Measurement(
        "probe that also sees earlier stages, against the last map alone, clothing photos at 128 px, test top-1",
        "stages_clothing_cpu",
        _stages,
        "python -m benchmarks stages FEATURES",
    ),
    Measurement(
        "linear probe with logit adjustment, against none, clothing photos, `lite0` at 128 px, test",
        "logit_adjustment_clothing_cpu",
        _adjusted,
        "python -m benchmarks logit_adjustment FEATURES",
    ),
    Measurement(
        "LP-FT with other settings, against the rule's, 500 images of CIFAR-10 (JPEG), `lite0` at 64 px, test top-1",
        "lpft_settings_cifar10_cpu",
        _lpft_settings,
        "python -m benchmarks lpft_settings cifar10-500 --data_root DIR --out_dir DIR",
    ),
    Measurement(
        "strongest place of a class map on the object, photos pasted into coloured noise, `lite0` at 64 px",
        "class_maps_64_cpu",
        _class_maps,
        "python -m benchmarks class_maps --data_root DIR --image_size 64",
        "seed 0",
    ),
    Measurement(
        "the same at 128 px",
        "class_maps_128_cpu",
        _class_maps,
        "python -m benchmarks class_maps --data_root DIR --image_size 128",
        "seed 0",
    ),
    Measurement(
        "engines on 341 validation photos, a probe fitted to 40 photos per class",
        "engine_accuracy_cpu",
        _engines,
        "python -m benchmarks photos",
    ),
    Measurement(
        "doctor on the 60,000 images of CIFAR-10 (JPEG)",
        "doctor_cifar10_cpu",
        _duplicates,
        "efficientnet-transfer doctor cifar10 --data_root DIR --num_workers 2",
    ),
)
