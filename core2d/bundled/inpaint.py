"""toybox-inpaint: the prior, told a mask and the picture without what is masked.

What ships is small: the first layer, which sees both, and a LoRA of all others. It is trained as it ships, and borrows
the prior.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn

from core2d.adapters.lora import go_on_from, lora_of
from core2d.adapters.lora_files import read_lora
from core2d.adapters.lora_learning import NAME, low_rank
from core2d.adapters.options import with_lora
from core2d.app.errors import InputError
from core2d.app.outputs import atomic_path, write_json
from core2d.bundled import clip, inpaint_scores, prior
from core2d.bundled.scores import Scores
from core2d.bundled.stages import judge_in
from core2d.bundled.training import Stage, TrainingSetup, history_of, keep, processes, run_training
from core2d.bundled.world import picture_rows, training_pictures
from core2d.files.tensors import read_tensors
from core2d.prior.backbone import Backbone
from core2d.prior.condition import Condition
from core2d.systems.inpaint.formats import (
    CONV_IN,
    LORA,
    fresh_inpainter,
    load_inpainter,
    with_first_layer,
    write_borrowing,
)
from core2d.systems.inpaint.pipeline import Inpaint
from core2d.systems.inpaint.task import EMPTY, InpaintTask
from core2d.toybox import world
from core2d.toybox.dataset import Pictures
from core2d.training.loop import TrainingRecipe

PRIOR = "toybox-sd"  # that it borrows
RANK = 20  # of the LoRA: 1.9 MB in half precision
RECIPE = TrainingRecipe(
    steps=6000, batch_size=32, learning_rate=1e-3, warmup_steps=100, ema_decay=0.998, checkpoint_every=250,
    anneal="minutes", minutes=90,
)  # fmt: skip


def train_inpaint(setup: TrainingSetup) -> Scores:
    """First layer and LoRA, which begin as nothing, or as what ships."""
    needed = setup.assets / PRIOR
    if not (needed / "unet").is_dir():
        raise InputError(f"an inpainting model needs {needed}: train the prior stage first")
    backbone = Backbone.load(needed, setup.place)
    folder, setup = setup.assets / INPAINT.folder, replace(setup, size=backbone.image_size)
    fresh = setup.starts_fresh(folder / CONV_IN)
    learning, model = begin(backbone, None if fresh else folder)
    with processes().main_process_first():
        pictures = training_pictures(setup.data, setup.pictures, setup.size)
    task = inpaint_task(model, learning, pictures)
    recipe = setup.recipe(RECIPE)
    if setup.place.type == "cpu":  # where the backward of torch's fused attention is half of a whole step
        learning.denoiser.set_attn_processor(AttnProcessor())  # pyright: ignore[reportCallIssue]
    spent = run_training(setup, INPAINT.name, task, recipe)
    learning.denoiser.set_attn_processor(AttnProcessor2_0())  # pyright: ignore[reportCallIssue]
    lora, first = lora_of(learning.denoiser, NAME), learning.denoiser.get_submodule("conv_in").state_dict()
    judge, seed = setup.assets / "toybox-judge", world.TUNING_SEEDS[0]
    plain = scored(Inpaint(backbone), judge, seed)
    found = scored(Inpaint(with_lora(with_first_layer(backbone, first), lora)), judge, seed)
    # The prior may be another than the one that the noted scores came from.
    before = None if fresh else scored(Inpaint(load_inpainter(folder, setup.place)), judge, seed)

    def save() -> None:
        history = history_of(folder)
        with atomic_path(folder) as temporary:
            write_borrowing(temporary, learning.denoiser, lora, PRIOR, backbone.world)
            write_json(temporary / "training.json", history)

    found |= {f"{name}_prior": value for name, value in plain.items()}
    return keep(setup, INPAINT, recipe, spent, found, save, before)


def begin(backbone: Backbone, shipped: Path | None) -> tuple[Backbone, nn.Module]:
    """An inpainting model of a prior, and what of it learns: the first layer and low-rank layers beside the others."""
    if shipped is None:
        begun = fresh_inpainter(backbone)
    else:
        begun = with_first_layer(backbone, read_tensors(shipped / CONV_IN))
    learning, layers = low_rank(begun, RANK, "all", seed=7)
    if shipped is not None:
        go_on_from(learning.denoiser, read_lora(shipped / LORA), NAME)
    model = nn.ModuleDict({"layers": layers, "conv_in": learning.denoiser.get_submodule("conv_in")})
    return learning, model.requires_grad_(True)


def inpaint_task(model: nn.Module, learning: Backbone, pictures: Pictures) -> InpaintTask:
    """Train `model`, of the denoiser of `learning`, on pictures and their captions."""
    factor = learning.vae.config["scaling_factor"]
    mean, deviation = (part * factor for part in prior.encode_latents(learning.vae, pictures))
    parts = learning.family.parts
    captions = clip.tokenise(parts["tokenizer"], [*pictures.captions, ""]).to(learning.device)  # (n + 1, length)
    assert EMPTY == -1  # the last row of the captions

    def words(rows: Tensor) -> Condition:
        return Condition(parts["text_encoder"](input_ids=captions[rows]).last_hidden_state)

    def shown(rows: Tensor) -> Tensor:
        return picture_rows(pictures, rows)[0].float() / 255

    def measure() -> Scores:
        return inpaint_scores.followed(Inpaint(learning), world.TUNING_SEEDS[1])

    return InpaintTask(model, learning, mean, deviation, shown, words, measure=measure, seed=23)


def scored(pipeline: Inpaint, judge_folder: Path, seed: int) -> Scores:
    """All scores of a pipeline of either kind."""
    judge = judge_in(judge_folder)
    return inpaint_scores.inpaint_scores(pipeline, judge, seed) | inpaint_scores.outpaint_scores(pipeline, judge, seed)


INPAINT = Stage("inpaint", "toybox-inpaint", train_inpaint, "both", "what an inpainting model has beside its prior")
