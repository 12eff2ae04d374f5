"""A tiny lifted prior, and a place to run the command."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_motion_model import MotionAdapter

from core2d.prior.backbone import Backbone
from genvideo.animatediff.formats import Facts, write_motion
from genvideo.animatediff.motion import fresh_motion


@pytest.fixture
def flat(tiny_folder: Callable[..., Path]) -> Backbone:
    """A 2D prior with random weights."""
    return Backbone.load(tiny_folder("sd1"))


@pytest.fixture
def motion(flat: Backbone) -> MotionAdapter:
    """Modules that do something: random weights everywhere."""
    made = fresh_motion(flat.family.denoiser, heads=2)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return made.requires_grad_(False).eval()


@pytest.fixture
def motion_folder(motion: MotionAdapter, tmp_path: Path) -> Path:
    """The modules as a folder, said to take given frames."""
    write_motion(tmp_path / "motion", motion, facts=Facts(takes_frames=True))
    return tmp_path / "motion"
