#!/usr/bin/env bash
# Pillow 13.0.0: 16 bits of grey become white, and their transparency is lost.
#
# One would bet: `convert("RGB")` of a 16-bit grey picture scales 0..65535 to 0..255, and `convert("RGBA")` keeps what
#   is transparent, since `has_transparency_data` says that something is.
# What happens: values above 255 are clipped to 255, so that a third of full brightness (20000) is pure white; the grey
#   that a PNG declares transparent comes out opaque. With 8 bits both work. No warning.
# For users: depth maps and masks of 16 bits turn into white pictures: take `numpy.asarray(image)` and scale it.
# Here: `core2d/media/colors.py` does so, for pictures and for textures of meshes (`gen3d/mesh/files.py`).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq pillow==13.0.0 numpy==2.4.6
cd "$folder"
venv/bin/python -I - <<'PYTHON'
import numpy as np
import PIL
from PIL import Image

print(f"Pillow {PIL.__version__}; PNG files of one grey, which is declared transparent")
seen = {}
for bits, kind, grey in ((8, np.uint8, 78), (16, np.uint16, 20000)):
    Image.fromarray(np.full((2, 2), grey, kind)).save(f"{bits}.png", transparency=grey)
    with Image.open(f"{bits}.png") as image:
        assert image.has_transparency_data and int(np.asarray(image)[0, 0]) == grey
        seen[bits] = np.asarray(image.convert("RGBA"))[0, 0].tolist()
        assert np.asarray(image.convert("RGB"))[0, 0].tolist() == seen[bits][:3]
    print(f"{bits} bits: {grey} of {2**bits - 1} is {seen[bits]} as RGBA")
assert seen == {8: [78, 78, 78, 0], 16: [255, 255, 255, 255]}, "it behaves otherwise now"
PYTHON
