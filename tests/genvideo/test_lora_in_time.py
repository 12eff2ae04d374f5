"""`--lora` in clips: one that was learned from pictures, and one of another model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from core2d.adapters.lora import UNET, Lora, LowRank
from core2d.adapters.lora_files import write_lora
from core2d.adapters.lora_learning import fresh_lora
from core2d.app.errors import InputError
from core2d.prior.backbone import Backbone
from genvideo.animatediff.pipeline import AnimateDiff


def test_a_lora_of_pictures_changes_clips_and_one_of_another_model_is_told(
    flat: Backbone, tiny_folder: Callable[..., Path], motion_folder: Path, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(1)
    layers = {name: LowRank(one.down, 0.3 * torch.randn(one.up.shape, generator=generator))
              for name, one in fresh_lora(flat.denoiser, 2, "all").unet.items()}  # fmt: skip
    file = tmp_path / "a.safetensors"
    write_lora(file, Lora({UNET: layers}))

    def clip(loras: dict[str | Path, float]) -> torch.Tensor:
        pipeline = AnimateDiff.from_pretrained(tiny_folder("sd1"), motion_folder, loras)
        return pipeline("a red mug", num_frames=3, num_inference_steps=2, seed=1).frames

    plain = clip({})
    assert torch.equal(clip({file: 0.0}), plain) and (clip({file: 1.0}) - plain).abs().max() > 1e-3
    write_lora(file, Lora({UNET: {"down_blocks.9.to_q": LowRank(torch.ones(1, 8), torch.ones(8, 1))}}))
    with pytest.raises(InputError, match=r"a\.safetensors: .* it changes unet\.down_blocks\.9\.to_q"):
        clip({file: 1.0})
