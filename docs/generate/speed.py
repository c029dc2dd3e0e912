"""Measurements of time, memory and how far the outputs of two ways to compute a network differ."""

from __future__ import annotations

from typing import Any

from docs.generate.measurement import Measurement, duration, percent, spread, times


def _against_timm(result: Any) -> str:
    return ", ".join(
        f"`{name}` {times(result[name]['ratio'])} its images/s ({spread(*result[name]['ratio_range'])})"
        for name in ("lite0", "b0")
    )


def _inference(result: Any) -> str:
    parts = []
    for case in ("lite0, 1 thread", "b0, 1 thread", "lite0, 2 threads", "b0, 2 threads"):
        openvino, torch = (result[case][engine]["ratio_to_timm"] for engine in ("openvino-bf16", "torch-bf16"))
        parts.append(f"{case}: OpenVINO in bfloat16 {times(openvino, 1)}, PyTorch {times(torch, 1)}")
    return "; ".join(parts)


def _overhead(result: Any) -> str:
    low, high = result["module_over_bare_range"]
    return f"{times(result['module_over_bare'], 3)} the time ({spread(low, high, digits=3)})"


def _traffic(result: Any) -> str:
    own, frozen = (
        [case[which]["ratio"] for name, case in result.items() if "@" in name] for which in ("own", "own frozen")
    )
    return f"{spread(min(own), max(own), 3)} times; with `--bn frozen` {spread(min(frozen), max(frozen), 3)}"


def _checkpointing(result: Any) -> str:
    return f"{result['reduction_percent']:.0f}% less memory, {times(result['time_ratio'])} the time"


def _allocator(result: Any) -> str:
    cases = ("lite0 training", "b0 training", "lite0 inference", "b0 inference")
    speeds = ", ".join(f"{case} {times(result[case]['ratio'])}" for case in cases)
    peaks = [result[case]["peak_ratio"] for case in cases]
    return f"{speeds} the images per processor second; peak memory {spread(min(peaks), max(peaks))} times"


def _precision(result: Any) -> str:
    networks = [value for value in result.values() if isinstance(value, dict) and "224x8" in value]
    parts = []
    for pixels, case in (("224", "224x8"), ("96", "96x16"), ("64", "64x32")):
        speeds = [network[case]["bf16"]["speed"] for network in networks]
        parts.append(f"{spread(min(speeds), max(speeds))} times the speed at {pixels} px")
    return f"{', '.join(parts)} ({len(networks)} networks)"


def _decoding(result: Any) -> str:
    decoder, crop, thread = (
        times(result[name]["ratio"])
        for name in (
            "decoding against Pillow",
            "from the file against resizing the whole",
            "a thread against a process",
        )
    )
    share = percent(result["share of decoding in an extraction, openvino-bf16"]["ratio"], 0)
    torch = percent(result["share of decoding in an extraction, torch"]["ratio"], 0)
    return (
        f"{result['file to input']['milliseconds']:.1f} ms: decoding takes {decoder} Pillow's time, resizing"
        f" the crop alone {crop} that of the whole, a thread {thread} a process's; {share} of the time in front of"
        f" OpenVINO's bfloat16 `lite0`, {torch} of PyTorch's"
    )


def _frozen(result: Any) -> str:
    parts = []
    for name in ("b0", "lite0"):
        case = result[name]["bn frozen"]
        memory = case["measured_peak_bytes"]["reduction_percent"]
        parts.append(f"`{name}` {memory:.0f}% less memory, {times(case['time_ratio'])} the time")
    return "; ".join(parts)


def _probe(result: Any) -> str:
    whole, parts = result["whole"], result["parts"]
    return (
        f"{duration(whole['wall'])} ({duration(whole['user'] + whole['kernel'])} of processor time), of which"
        f" {duration(parts['features']['wall'])} features and {duration(parts['fits']['wall'])} fits"
    )


def _commands(result: Any) -> str:
    parts = [f"`{verb}` {times(result[verb]['wall_seconds']['ratio'], 1)}" for verb in ("probe", "evaluate", "predict")]
    return f"{', '.join(parts)} the speed"


def _formats(result: Any) -> str:
    formats = result["formats"]
    floats = ("onnx", "openvino", "torch", "torchscript")
    same = all(formats[name]["same_top1"] == 1 for name in floats)
    difference = max(formats[name]["relative_difference"] for name in floats)
    eight = ", ".join(
        f"`{name}` {percent(formats[name]['top1'])} in {formats[name]['megabytes']} MB,"
        f" {formats[name]['ms_per_image']['1']:.0f} ms a photo"
        for name in ("onnx-int8", "openvino-int8")
    )
    floating = ", ".join(f"`{name}` {formats[name]['ms_per_image']['1']:.0f} ms" for name in floats)
    equal = "the same classes" if same else "not all the same classes"
    return (
        f"float32: {equal}, logits within {difference:.1e} of the largest, {percent(formats['onnx']['top1'])} right;"
        f" {floating} a photo; 8 bits: {eight}. `predict.py` answers {result['reader']['seconds']} s after its start"
    )


def _pipeline(result: Any) -> str:
    ours, cached = result["ours"], result["ours, --data.cache disk"]
    return (
        f"{times(ours['ratio'])} as many ({spread(*ours['ratio_range'])});"
        f" with `--data.cache disk` {times(cached['ratio'], 1)}"
    )


def _sklearn(result: Any) -> str:
    return f"{times(result['times_less_processor_time'], 1)} less processor time, on a shared machine"


def _cores(result: Any) -> str:
    busy, alone = result["beside busy processes"], result["alone"]
    low, high = busy["ratio_range"]
    return f"{times(busy['ratio'], 1)} the images/s ({spread(low, high, digits=1)}); alone {times(alone['ratio'], 3)}"


def _tracing(result: Any) -> str:
    ways = {name: value for name, value in result.items() if isinstance(value, dict) and "relative_difference" in value}
    largest = max(way["relative_difference"] for way in ways.values())
    seconds = ", ".join(f"`{name}` {way['seconds']:.1f} s" for name, way in ways.items())
    return f"within {largest:.1e} of the largest logit; {seconds}"


def _predicted_memory(result: Any) -> str:
    def errors(what: str) -> str:
        found = [case[what]["error_percent"] for case in result["cases"]]
        return f"{min(found):+.1f}% to {max(found):+.1f}%"

    kept = [case["training"]["kept_bytes"] / case["training"]["measured_bytes"] - 1 for case in result["cases"]]
    return (
        f"training {errors('training')}, inference {errors('inference')}; freed blocks that a command keeps on a CPU"
        f" add {percent(min(kept), 0)} to {percent(max(kept), 0)} in training"
    )


def _predicted_steps(result: Any) -> str:
    errors = [100 * (case["ratio"] - 1) for case in result["cases"]]
    return f"{min(errors):+.0f}% to {max(errors):+.0f}%"


def _latency(result: Any) -> str:
    return ", ".join(
        f"`{name}` at {network['image_size']} px {network['latency']['median_ms']:.0f} ms,"
        f" {network['macs'] / 1e9:.1f} billion multiply-adds"
        for name, network in result["networks"].items()
    )


MEASUREMENTS = (
    Measurement(
        "training step at 224 px, batch 16, against timm at its fastest of two precisions and two layouts",
        "cpu_training_cpu",
        _against_timm,
        "OMP_NUM_THREADS=1 python -m benchmarks cpu_training",
        "1 thread, AVX-512 BF16",
    ),
    Measurement(
        "inference at 224 px, batch 16, against timm at its fastest precision",
        "inference_cpu",
        _inference,
        "python -m benchmarks inference",
    ),
    Measurement(
        "the LightningModule against a bare PyTorch loop with the same step",
        "module_overhead_cpu",
        _overhead,
        "python -m benchmarks module",
    ),
    Measurement(
        "bytes that an eager bf16 training step moves, against the same network in timm, counted without running it",
        "traffic",
        _traffic,
        "python -m benchmarks traffic",
    ),
    Measurement(
        "training step of `b4` at 380 px with `--grad_checkpointing true`",
        "memory_b4_cpu",
        _checkpointing,
        "OMP_NUM_THREADS=1 python -m benchmarks memory --backbone b4 --image_size 380 --batch_size 4 --steps 3",
        "1 thread",
    ),
    Measurement(
        "freed memory kept for the next step, against glibc's defaults, 224 px, batch 16",
        "allocator_cpu",
        _allocator,
        "python -m benchmarks allocator --rounds 2",
        "1 thread, float32",
    ),
    Measurement(
        "training step in bf16 autocast against float32",
        "precision_cpu",
        _precision,
        "OMP_NUM_THREADS=1 python -m benchmarks precision",
        "1 thread, AVX-512 BF16",
    ),
    Measurement(
        "`--bn frozen` with BatchNorm folded in training, against unfolded, 224 px, batch 16",
        "frozen_norms_cpu",
        _frozen,
        "OMP_NUM_THREADS=1 python -m benchmarks frozen_norms",
        "1 thread, float32",
    ),
    Measurement(
        "evaluation of photos (29 kB, 400 x 533) from the file to the network's input at 224 px",
        "decode_cpu",
        _decoding,
        "python -m benchmarks decode --data_root DIR --engines torch openvino-bf16",
        "1 thread",
    ),
    Measurement(
        "training-ready images/s, JPEGs of 500 x 375 to 224 px, against a torchvision-style pipeline on Pillow",
        "data_cpu",
        _pipeline,
        "python -m benchmarks data --rounds 7",
        "1 thread",
    ),
    Measurement(
        "linear probe of `lite0` on 3,409 photos at 224 px, from the start of Python to its end, without caches",
        "probe_photos_cpu",
        _probe,
        "python -m benchmarks probe_photos --data_root DIR",
    ),
    Measurement(
        "12 fits of a probe against scikit-learn's lbfgs on the same features of 45,000 images",
        "probe_cifar10_cpu",
        _sklearn,
        "python -m benchmarks probe RUN_DIR --every 4 --tol 1e-5",
    ),
    Measurement(
        "commands on 3,409 photos, against the version before engines, threads and kept memory (e0aceb7)",
        "photos_cpu",
        _commands,
        "python -m benchmarks photos --before DIR",
    ),
    Measurement(
        "the same while the host was busier",
        "photos_busy_host_cpu",
        _commands,
        "python -m benchmarks photos --before DIR",
    ),
    Measurement(
        "one network in a bundle's formats, 341 validation photos at 224 px",
        "formats_cpu",
        _formats,
        "OMP_NUM_THREADS=1 python -m benchmarks formats --rounds 5",
        "1 thread",
    ),
    Measurement(
        "training `lite0` beside 2 busy processes, against PyTorch's default OpenMP settings",
        "cores_cpu",
        _cores,
        "python -m benchmarks cores",
    ),
    Measurement(
        "pretrained `lite0` traced, exported or compiled at one size, used at another",
        "tracing_cpu",
        _tracing,
        "python -m benchmarks tracing",
    ),
    Measurement(
        "predicted against measured memory of one step: `b0`, `b3`, `lite0`, `resnet50` at three sizes each",
        "memory_prediction_cpu",
        _predicted_memory,
        "python -m benchmarks memory_prediction",
        "1 thread",
    ),
    Measurement(
        "predicted against measured step of DistributedDataParallel, 2 and 4 gloo processes at 32 px",
        "ddp_cpu",
        _predicted_steps,
        "python -m benchmarks ddp --steps 4",
    ),
    Measurement(
        "latency of one image",
        "profile_compare_cpu",
        _latency,
        "efficientnet-transfer costs --compare b0,b4,resnet50",
    ),
)
