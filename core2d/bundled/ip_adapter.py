"""toybox-ip-adapter: image prompts for the prior, by the image tower of toybox-clip.

What a picture is told by is another picture of the same body, from another side and in another setting. Captions of
Toybox tell all that a picture shows, so half of them are dropped: beside them an image prompt would have nothing to
tell. The projection is the linear one: of what this tower sees, its embedding tells class and colour better than its
patches do.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import Tensor

from core2d.adapters.ip_adapter import IPAdapterModel, fresh_ip_adapter
from core2d.adapters.ip_adapter_files import read_ip_adapter, write_ip_adapter
from core2d.app.errors import InputError
from core2d.app.outputs import atomic_path, write_json
from core2d.bundled import clip, ip_adapter_scores, prior, world
from core2d.bundled.scores import Scores, pictures_of
from core2d.bundled.stages import judge_in
from core2d.bundled.training import Stage, TrainingSetup, history_of, keep, processes, run_training
from core2d.prior.backbone import OURS, Backbone
from core2d.prior.condition import Condition
from core2d.prior.image_tower import PART, ImageTower
from core2d.systems.image_prompt.task import EMPTY, ImagePromptTask
from core2d.systems.text_to_image.pipeline import TextToImage
from core2d.toybox import world as toybox
from core2d.toybox.dataset import CHUNK, Pictures, mixed_scene
from core2d.toybox.judge import PictureJudge
from core2d.toybox.scene import Scene
from core2d.toybox.subjects import seen_again
from core2d.training.loop import TrainingRecipe

PRIOR, TOWER = "toybox-sd", "toybox-clip"  # that it is of
FOLDER, FILE = "toybox-ip-adapter", "ip-adapter.safetensors"
REFERENCES = 2  # pictures that each picture is told by
PLAIN_REFERENCES = 1  # of them are on white and not from overhead, as one shows a thing
DROP_WORDS = 0.5
RECIPE = TrainingRecipe(
    steps=8000, batch_size=32, learning_rate=1e-3, warmup_steps=100, ema_decay=0.998, checkpoint_every=250,
    anneal="minutes", minutes=90,
)  # fmt: skip


def reference(index: int, number: int) -> Scene:
    """One of the references of a training picture."""
    scene = mixed_scene(world.SEED, index)
    return seen_again(scene, world.SEED, REFERENCES * index + number, plain=number < PLAIN_REFERENCES)


@torch.no_grad()
def seen_references(path: Path, tower: ImageTower, count: int) -> Tensor:
    """(count, REFERENCES, e) float16, what the tower sees in references; drawn once, and kept in a .npy file."""
    if not path.is_file():
        with atomic_path(path) as temporary:
            shape = (count * REFERENCES, tower.embedding_width)
            seen = np.lib.format.open_memmap(temporary, "w+", np.float16, shape)
            for start in range(0, len(seen), CHUNK):
                rows = range(start, min(start + CHUNK, len(seen)))
                scenes = [reference(row // REFERENCES, row % REFERENCES) for row in rows]
                pictures, _ = pictures_of(scenes, tower.side)
                embeddings = [tower.embed(part).cpu().half() for part in pictures.split(128)]
                seen[rows.start : rows.stop] = torch.cat(embeddings).numpy()
            seen.flush()
    return torch.from_numpy(np.load(path)).unflatten(0, (count, REFERENCES))


def train_ip_adapter(setup: TrainingSetup) -> Scores:
    """An adapter that begins as nothing, or as what ships."""
    for name, part in ((PRIOR, "unet"), (TOWER, "config.json")):
        if not (setup.assets / name / part).exists():
            raise InputError(f"an IP-Adapter needs {setup.assets / name}: train the prior and clip stages first")
    backbone = Backbone.load(setup.assets / PRIOR, setup.place)
    tower = ImageTower.load(setup.assets / TOWER).to(setup.place)
    setup = replace(setup, size=backbone.image_size)
    folder = setup.assets / FOLDER
    torch.manual_seed(6)
    fresh = setup.starts_fresh(folder / FILE)
    model = fresh_ip_adapter(backbone, tower) if fresh else read_ip_adapter(folder).model
    with processes().main_process_first():
        pictures = world.training_pictures(setup.data, setup.pictures, setup.size)
        path = setup.data / f"v{toybox.VERSION}-references-{REFERENCES}x{len(pictures)}-{TOWER}.npy"
        seen = seen_references(path, tower, len(pictures))
    pipeline, judge = TextToImage(backbone), judge_in(setup.assets / "toybox-judge")
    if setup.place.type == "cpu":  # where the backward of torch's fused attention is half of a whole step
        backbone.denoiser.set_attn_processor(AttnProcessor())  # pyright: ignore[reportCallIssue]
    task = ip_adapter_task(model.requires_grad_(True), backbone, pictures, seen)
    if judge is not None:
        task.measure = partial(_measured, pipeline, tower, judge)
    recipe = setup.recipe(RECIPE)
    spent = run_training(setup, "ip-adapter", task, recipe)
    backbone.denoiser.set_attn_processor(AttnProcessor2_0())  # pyright: ignore[reportCallIssue]

    def scored(weights: IPAdapterModel) -> Scores:
        if judge is None:
            return {}
        return ip_adapter_scores.image_prompt_scores(pipeline, weights, tower, judge, toybox.TUNING_SEEDS[0])

    found = scored(model)
    before = None if fresh else scored(read_ip_adapter(folder).model)  # prior and judge may be others than then

    def save() -> None:
        history = history_of(folder)
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            write_ip_adapter(temporary / FILE, model, torch.float16)
            write_json(temporary / OURS, {"world": toybox.NAME, PART: TOWER})
            write_json(temporary / "training.json", history)

    return keep(setup, IP_ADAPTER, recipe, spent, found, save, before)


def _measured(pipeline: TextToImage, tower: ImageTower, judge: PictureJudge, model: IPAdapterModel) -> Scores:
    return ip_adapter_scores.carried(pipeline, model, tower, judge, toybox.TUNING_SEEDS[1])


def ip_adapter_task(model: IPAdapterModel, backbone: Backbone, pictures: Pictures, seen: Tensor) -> ImagePromptTask:
    """Train `model` beside `backbone` on pictures and what is seen of their references (n, REFERENCES, e)."""
    factor = backbone.vae.config["scaling_factor"]
    mean, deviation = (part * factor for part in prior.encode_latents(backbone.vae, pictures))
    parts = backbone.family.parts
    captions = clip.tokenise(parts["tokenizer"], [*pictures.captions, ""]).to(backbone.device)  # (n + 1, length)
    assert EMPTY == -1  # the last row of the captions

    def told(rows: Tensor) -> Condition:
        return Condition(parts["text_encoder"](input_ids=captions[rows]).last_hidden_state)

    nothing = torch.zeros(seen.shape[-1])
    return ImagePromptTask(model, backbone, mean, deviation, seen, nothing, told, drop_words=DROP_WORDS, seed=23)


IP_ADAPTER = Stage("ip-adapter", FOLDER, train_ip_adapter, "carried", "image prompts for the prior")
