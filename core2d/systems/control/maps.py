"""Maps that ControlNets are told: how each kind is drawn from what is known of a picture, and how files are read.

A map is a picture (3, H, W) in [0, 1]. Kinds are drawn as published ControlNets were trained on them: depth as inverse
depth, near is white (MiDaS, 1907.01341); normals with red to the left, green to the top and blue towards the camera
(those of ControlNet 1.1); edges white on black (Canny 1986); poses as `core2d.media.skeletons` draws them.
"""

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.feature import canny
from torch import Tensor

from core2d.app.errors import InputError
from core2d.media.pictures import read_image

BLACK = (0, 0, 0)
EDGE_BLUR = 1.0  # pixels of the Gaussian before Canny's gradients
GOLDEN = 0.618034  # turns of the hue from class to class: neighbours differ most


# -- drawn from what is known --------------------------------------------------------------------------------------


def depth_map(depth: Tensor) -> Tensor:
    """(..., H, W) distances along the view axis, infinite where nothing is, -> (..., 3, H, W).

    Inverse depth over its largest in the picture: the nearest point is white, what is infinitely far black.
    """
    inverse = 1 / depth.clamp(min=1e-6)  # (..., H, W); 0 where nothing is
    largest = inverse.amax((-2, -1), keepdim=True).clamp(min=1e-12)
    return _grey(inverse / largest)


def normal_map(normal: Tensor, axes: Tensor) -> Tensor:
    """(..., 3, H, W) unit normals in world axes, 0 where nothing is, -> (..., 3, H, W); nothing is black.

    Args:
        axes: (..., 3, 3) the camera's right, up and forward as rows, in world axes.
    """
    seen = torch.einsum("...ij,...jhw->...ihw", axes, normal)  # right, up, forward
    toward = seen * seen.new_tensor([-1.0, 1.0, -1.0])[:, None, None]  # left, up, to the camera
    there = normal.square().sum(-3, keepdim=True) > 0.5  # (..., 1, H, W)
    return (toward + 1) / 2 * there


def segmentation_map(coverage: Tensor, classes: Tensor) -> Tensor:
    """(n, H, W) coverage in [0, 1] of a body and its class (n,) from 0 -> (n, 3, H, W): a hue a class, on black."""
    hues = [colorsys.hsv_to_rgb(GOLDEN * index % 1, 1.0, 1.0) for index in classes.tolist()]
    return torch.tensor(hues, dtype=coverage.dtype)[:, :, None, None] * coverage[:, None].round()


def edge_map(picture: Tensor, blur: float = EDGE_BLUR) -> Tensor:
    """(..., 3, H, W) pictures in [0, 1] -> (..., 3, H, W): Canny's edges of scikit-image, white on black."""
    grey = picture.movedim(-3, -1).cpu().double().numpy() @ np.array([0.299, 0.587, 0.114])  # (..., H, W)
    each = grey.reshape(-1, *grey.shape[-2:])  # (n, H, W)
    found = np.stack([canny(one, sigma=blur, low_threshold=0.1, high_threshold=0.2) for one in each])
    return _grey(torch.from_numpy(found).float().reshape(grey.shape))


def _grey(values: Tensor) -> Tensor:
    """(..., H, W) -> (..., 3, H, W)."""
    return values.unsqueeze(-3).expand(*values.shape[:-2], 3, *values.shape[-2:]).contiguous()


# -- files ---------------------------------------------------------------------------------------------------------


def read_map(path: Path, height: int, width: int, fit: bool = False) -> Tensor:
    """A map from a picture file, (3, height, width) in [0, 1]; what is transparent is black.

    Args:
        fit: of another size its middle is cut out and scaled; otherwise it is refused.

    Raises:
        InputError: it cannot be read, has another size, or is of one colour.
    """
    pixels = read_image(path, BLACK)  # (h, w, 3)
    if (pixels == pixels[0, 0]).all():
        raise InputError(f"{path} is of one colour: there is nothing in it that a picture could follow")
    if pixels.shape[:2] != (height, width):
        if not fit:
            has, wanted = f"{pixels.shape[1]} x {pixels.shape[0]}", f"{width} x {height}"
            raise InputError(f"{path} has {has} pixels, and {wanted} are drawn: give a map of that size, or --fit to "
                             "use its middle")  # fmt: skip
        pixels = fitted(pixels, height, width)
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def read_edges(path: Path, height: int, width: int) -> Tensor:
    """The edges (3, height, width) of a picture file, or of its middle where it has another size.

    Raises:
        InputError: it cannot be read, or has no edges.
    """
    pixels = fitted(read_image(path, (255, 255, 255)), height, width)
    edges = edge_map(torch.from_numpy(pixels).permute(2, 0, 1).float() / 255)
    if not edges.any():
        raise InputError(f"{path} has no edges at {width} x {height} pixels: there is nothing that could be followed")
    return edges


def fitted(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """The largest middle part of uint8 pixels (h, w, 3) of this shape, scaled to (height, width, 3)."""
    h, w = pixels.shape[:2]
    scale = min(h / height, w / width)
    top, left = (h - height * scale) / 2, (w - width * scale) / 2
    box = (left, top, left + width * scale, top + height * scale)
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS, box=box))
