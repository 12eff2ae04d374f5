"""The items of `benchmark.py --suite adapters`: how fast adapters are trained."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measure.measure import ROOT, Item, Numbers
from measure.suite import Suite
from torch import Tensor
from torch.nn import functional as F

from core2d.adapters.controlnet import fresh_controlnet
from core2d.bundled import control as bundled_control
from core2d.prior.backbone import Backbone
from core2d.prior.condition import Condition
from core2d.systems.control.task import EMPTY, ControlTask
from core2d.toybox.render import render
from core2d.toybox.scene import still

BATCH, PICTURES = 16, 64
STEPS, TURNS = 5, 4  # steps a turn; the first turn warms up
LEARNING_RATE, CLIP = 1e-5, 1.0  # those of diffusers' example


def items_of(assets: Path, seed: int) -> list[Item]:
    """All items of the suite, for the models in `assets`."""
    folder = assets / "toybox-sd"
    return [
        Item("controlnet-step", f"a training step of a ControlNet (batch {BATCH}), ours against diffusers' example",
             partial(controlnet_step, folder, seed), at_least={"stock_over_ours": 1}, needs=(folder,)),
    ]  # fmt: skip


def controlnet_step(folder: Path, seed: int) -> Numbers:
    """Median milliseconds of a step: forward, backward, clipped AdamW. Ours and stock take turns in one process.

    `stock` is the loop of diffusers' examples/controlnet/train_controlnet.py in float32, without what costs time
    beside the step (accelerator, logs): it encodes pictures and captions in every step. `stock_cached` has the latents
    from a cache, as ours has. All begin with the same weights and see the same pictures, maps and captions; attention
    is as the models are loaded.
    """
    prior = Backbone.load(folder)
    scenes = [still(seed, index, "object") for index in range(PICTURES)]
    pictures = torch.from_numpy(render(scenes, prior.image_size).rgb).permute(0, 3, 1, 2).contiguous()  # (n, 3, h, w)
    maps = bundled_control.depth_maps(scenes, prior.image_size)  # (n, 3, h, w)
    captions = [f"a picture of a thing, number {index}" for index in range(PICTURES)]
    first = fresh_controlnet(prior)
    runs = {
        "ours": our_step(prior, copy.deepcopy(first), pictures, maps, captions, seed),
        "stock": stock_step(prior, copy.deepcopy(first), pictures, maps, captions, seed, cached=False),
        "stock_cached": stock_step(prior, copy.deepcopy(first), pictures, maps, captions, seed, cached=True),
    }
    took: dict[str, list[float]] = {name: [] for name in runs}
    for turn, (name, step) in itertools.product(range(TURNS), runs.items()):
        for index in range(STEPS):
            started = time.perf_counter()
            step(turn * STEPS + index)
            took[name] += [time.perf_counter() - started] if turn else []
    numbers: Numbers = {f"{name}_ms": 1e3 * median(seconds) for name, seconds in took.items()}
    for name in ("stock", "stock_cached"):
        numbers[f"{name}_over_ours"] = numbers[f"{name}_ms"] / numbers["ours_ms"]
    return numbers


def our_step(
    prior: Backbone, model: Any, pictures: Tensor, maps: Tensor, captions: list[str], seed: int
) -> Callable[[int], None]:
    """A step of `ControlTask`, as the training loop takes it; captions are read in the step, as of the bundled ones."""
    with torch.no_grad():
        mean = prior.encode_images(pictures)
    parts = prior.family.parts
    ids = tokens(parts["tokenizer"], [*captions, ""])
    assert EMPTY == -1  # the last row

    def told(rows: Tensor) -> Condition:
        return Condition(parts["text_encoder"](input_ids=ids[rows]).last_hidden_state)

    task = ControlTask(model.train(), prior, mean, torch.zeros_like(mean), lambda rows: maps[rows], told, seed=seed)
    update = updating(model)
    positions = torch.arange(BATCH)

    def step(number: int) -> None:
        batch = task.batch(number, positions, BATCH)
        losses: Any = task.loss(model, batch)
        update(losses[0])

    return step


def stock_step(
    prior: Backbone, model: Any, pictures: Tensor, maps: Tensor, captions: list[str], seed: int, cached: bool
) -> Callable[[int], None]:
    """A step as diffusers' example takes it, of the same modules."""
    parts = prior.family.parts
    unet, text_encoder, vae = prior.denoiser, parts["text_encoder"], prior.vae
    scheduler = noise_scheduler(prior)
    ids = tokens(parts["tokenizer"], captions)
    update = updating(model.train())
    with torch.no_grad():
        latents_of_all = prior.encode_images(pictures)

    def step(number: int) -> None:
        generator = torch.Generator().manual_seed(seed + number)
        rows = torch.randint(len(pictures), (BATCH,), generator=generator)
        if cached:
            latents = latents_of_all[rows]
        else:
            encoded: Any = vae.encode(2 * pictures[rows] - 1)
            latents = encoded.latent_dist.sample() * vae.config["scaling_factor"]
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = torch.randint(scheduler.config["num_train_timesteps"], (BATCH,), generator=generator)
        noisy = scheduler.add_noise(latents, noise, timesteps)
        hidden = text_encoder(ids[rows], return_dict=False)[0]
        down, middle = model(noisy, timesteps, encoder_hidden_states=hidden, controlnet_cond=maps[rows],
                             return_dict=False)  # fmt: skip
        predicted = unet(
            noisy, timesteps, encoder_hidden_states=hidden, down_block_additional_residuals=down,
            mid_block_additional_residual=middle, return_dict=False,
        )[0]  # fmt: skip
        kind = scheduler.config["prediction_type"]
        target = noise if kind == "epsilon" else scheduler.get_velocity(latents, noise, timesteps)
        update(F.mse_loss(predicted, target))

    return step


def updating(model: Any) -> Callable[[Tensor], None]:
    """Backward, clipping and AdamW, the same for all."""
    parameters = list(model.requires_grad_(True).parameters())
    optimiser = torch.optim.AdamW(parameters, lr=LEARNING_RATE)

    def update(loss: Tensor) -> None:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return update


def noise_scheduler(prior: Backbone) -> Any:
    """Stock diffusers' scheduler of the training, on the prior's noise levels."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    return DDPMScheduler.from_config(prior.scheduler_config)


def tokens(tokenizer: Any, captions: list[str]) -> Tensor:
    """(n, length) padded ids."""
    found = tokenizer(captions, padding="max_length", max_length=tokenizer.model_max_length, truncation=True,
                      return_tensors="pt")  # fmt: skip
    return found.input_ids


SUITE = Suite(items_of, Path(__file__), (ROOT / "core2d" / "systems" / "control" / "task.py",))
