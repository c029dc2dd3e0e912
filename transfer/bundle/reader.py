"""Predict with model.onnx beside this file; needs onnxruntime, pillow and numpy: python predict.py photo.jpg ..."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps


def decode(path: str, ranges: dict[str, Any]) -> Any:
    """Return an image upright, on white and in 8 bits, or raise an error. uint8 RGB (H, W, 3)."""
    with Image.open(path, formats=("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")) as file:
        bits = Path(path).read_bytes()[24:25] if file.format == "PNG" else getattr(file, "tag_v2", {}).get(258, ())
        if 16 in bits and file.mode in ("RGB", "RGBA", "LA"):
            raise ValueError("16-bit colours, of which Pillow keeps only 8 bits")
        image = ImageOps.exif_transpose(file)
    if image.mode.startswith(("I", "F")):
        values, is_float = np.asarray(image, np.float64), image.mode == "F"
        low, high, unknown = values.min(), values.max(), (np.nan, np.nan) if is_float else (0, 65535)
        black, white = ranges["float_range" if is_float else "integer_range"] or unknown
        slack = white - black if is_float or black < 0 else 0
        if not black - slack <= low <= high <= white + slack:
            raise ValueError(f"values {low:g} to {high:g}, where {black:g} is black and {white:g} white")
        image = Image.fromarray(((values - black) * (255 / (white - black))).round().clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.asarray(image.convert("RGB"))


if __name__ == "__main__":
    path = "model.onnx"
    sys.excepthook = lambda kind, error, _: print(f"{path}:", *str(error).split() or [kind.__name__], file=sys.stderr)
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    model = json.loads(Path(__file__).with_name("model.json").read_text("utf-8"))
    session = onnxruntime.InferenceSession(Path(__file__).with_name("model.onnx"), providers=["CPUExecutionProvider"])
    for path in sys.argv[1:] or sys.exit(__doc__):
        pixels = decode(path, model["preprocessing"])
        found = session.run(["probabilities"], {"images": pixels[None]})[0][0]
        for index in np.flatnonzero(found >= model["threshold"]) if model["multilabel"] else [found.argmax()]:
            print(path, model["class_names"][index], f"{found[index]:.4f}")
