"""A tiny training of an IP-Adapter, and a program that does it: a test kills and launches it.

    python tests/helpers/image_prompt_training.py FOLDER MODEL '{"steps": 8}' [resume]

leaves the last weights in FOLDER/model.safetensors.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers.models.embeddings import ImageProjection
from helpers.control_training import PROMPTS, recipe
from safetensors.torch import save_file
from torch import Tensor

from core2d.adapters.ip_adapter import IPAdapterModel, cross_attentions
from core2d.prior.backbone import Backbone
from core2d.prior.condition import Condition
from core2d.systems.image_prompt.task import ImagePromptTask
from core2d.training.loop import train


def image_prompt_task(prior: Backbone, **options: Any) -> ImagePromptTask:
    """Three pictures that are seen by two others each, all random."""
    generator = torch.Generator().manual_seed(5)
    side, context = prior.latent_size, prior.denoiser.config["cross_attention_dim"]  # pyright: ignore
    mean = torch.randn(3, prior.latent_channels, side, side, generator=generator)
    seen = torch.randn(3, 2, 20, generator=generator).half()
    with torch.random.fork_rng():
        torch.manual_seed(6)
        widths = [place.inner_dim for place in cross_attentions(prior.denoiser)]
        model = IPAdapterModel(ImageProjection(20, context, 4), widths, context)  # pyright: ignore
        for layer in model.ip_adapter:
            torch.nn.init.zeros_(layer.to_v_ip.weight)  # pyright: ignore

    def told(rows: Tensor) -> Condition:
        return prior.encode_text(PROMPTS)[rows.tolist()]

    return ImagePromptTask(model, prior, mean, 0.1 * torch.ones_like(mean), seen, torch.zeros(20), told, **options)


def main(folder: Path, model: str, options: str, *resume: str) -> None:
    task = image_prompt_task(Backbone.load(model))
    train(task, recipe(**json.loads(options)), folder, resume=bool(resume), device=torch.device("cpu"))
    save_file(task.model.state_dict(), folder / "model.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
