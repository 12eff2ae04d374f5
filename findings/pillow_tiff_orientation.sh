#!/usr/bin/env bash
# Pillow 13.0.0: a TIFF turns itself as it is loaded, and a plain grey or RGBA one that is opened by its name is torn.
#
# One would bet: `numpy.asarray(Image.open(...))` gives the stored rows of every format, `ImageOps.exif_transpose` turns
#   them upright, and a name gives the pixels that an open file gives.
# What happens: with orientation 6 (a quarter turn) a PNG keeps its rows and its tag. A TIFF comes turned, and its tag
#   is gone after loading. An uncompressed one of mode L, RGBA or I;16, opened by name, is mapped from the disk at the
#   width of the turned picture: its rows are torn. Opened as a file, or compressed, or RGB, it is right. No warning.
# For users: give `Image.open` an open file, or masks and cut-outs kept as TIFF may be torn. Code that turns a picture
#   by the tag that it read before loading turns a TIFF twice.
# Here: `core2d/media/pictures.py` opens files, reads the tag first, and turns back where stored rows are asked for.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq pillow==13.0.0 numpy==2.4.6
cd "$folder"
venv/bin/python -I - <<'PYTHON'
import numpy as np
import PIL
from PIL import ExifTags, Image

print(f"Pillow {PIL.__version__}; 3 pixels wide, 2 high, orientation 6")
grey = np.arange(0, 180, 30, dtype=np.uint8).reshape(2, 3)
exif = Image.Exif()
exif[ExifTags.Base.Orientation] = 6

def read(source, stored):
    with Image.open(source) as image:
        pixels = np.asarray(image)
        tag = image.getexif().get(ExifTags.Base.Orientation)
    rows = {"as stored": stored, "turned": np.rot90(stored, -1)}
    return next((how for how, wanted in rows.items() if np.array_equal(pixels, wanted)), "torn"), tag

seen = {}
for mode, stored in {"L": grey, "RGB": np.stack([grey] * 3, -1), "RGBA": np.stack([grey] * 4, -1)}.items():
    for kind in ("png", "tiff"):
        Image.fromarray(stored).save(f"picture.{kind}", exif=exif)
        with open(f"picture.{kind}", "rb") as file:
            seen[mode, kind] = read(f"picture.{kind}", stored), read(file, stored)
        print(f"{kind} of mode {mode}: rows and tag by name {seen[mode, kind][0]}, as a file {seen[mode, kind][1]}")
stays, turns, tears = ("as stored", 6), ("turned", None), ("torn", None)
for mode in ("L", "RGB", "RGBA"):
    assert seen[mode, "png"] == (stays, stays), "it behaves otherwise now"
    assert seen[mode, "tiff"] == (turns if mode == "RGB" else tears, turns), "it behaves otherwise now"
PYTHON
