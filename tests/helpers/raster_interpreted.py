"""Draw scenes with the Triton kernel in the interpreter and with the twin, and print how far they are apart.

Run by `triton_subprocess.run_interpreted`; the JSON maps each scene to what `distance` says.
"""

from __future__ import annotations

import json
import math
import sys

import torch
from helpers.raster_scenes import Scene, soup

from core2d.kernels.raster import Fragments, rasterize


def scenes() -> dict[str, tuple[Scene, int, int]]:
    """Name -> scene, height, width: chosen for what can go wrong in the kernel's loops."""
    clip, faces, _ = soup(1, triangles=24)
    ragged = torch.tensor([0, 9, 9, 24], dtype=torch.int32)
    broken = soup(2, triangles=6)
    broken.clip[4, 0] = math.nan
    broken.clip[7, 3] = math.inf
    small = soup(3, triangles=150, images=2, size=0.15)
    return {
        "several tiles": (soup(4, triangles=10), 35, 18),
        "more triangles than a block": (small, 16, 16),
        "crossing the camera plane": (soup(5, triangles=8, images=2, crossing=0.6), 16, 16),
        "an empty image": (Scene(clip, faces, ragged), 12, 20),
        "equal depths": (Scene(clip, torch.cat([faces.flip(0), faces]), torch.tensor([0, 48])), 16, 16),
        "not a number": (broken, 8, 8),
        "one pixel": (soup(6, triangles=3, size=3.0), 1, 1),
        "no triangles": (Scene(clip, faces[:0], torch.tensor([0, 0])), 4, 4),
    }


def distance(one: Fragments, other: Fragments) -> dict[str, float]:
    """Pixels that differ in face, largest differences of barycentric and depth, pixels `other` covers."""
    same = (one.depth == other.depth) | (one.face != other.face)  # inf - inf is not a number
    return {
        "faces": int((one.face != other.face).sum()),
        "barycentric": float((one.barycentric - other.barycentric).abs().amax()),
        "depth": float(torch.where(same, 0, one.depth - other.depth).abs().amax()),
        "covered": int(other.mask.sum()),
    }


if __name__ == "__main__":
    answer = {}
    for name, (scene, height, width) in scenes().items():
        kernel, twin = (rasterize(*scene, height, width, backend=backend) for backend in ("triton", "torch"))
        answer[name] = distance(kernel, twin)
    sys.stdout.write(json.dumps(answer) + "\n")
