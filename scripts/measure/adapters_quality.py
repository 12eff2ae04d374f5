"""The items of `evaluate.py --suite adapters`: what adapters of the bundled prior do, measured against the truth.

The subjects, maps and seeds are those kept for reporting; recipes are chosen on others.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from measure.measure import ROOT, Item, Numbers, Record, say
from measure.suite import Suite
from torch import Tensor

from core2d.adapters.controlnet_files import read_controlnet
from core2d.adapters.ip_adapter import ImagePrompt, prompted, seen_by
from core2d.adapters.ip_adapter_files import read_ip_adapter
from core2d.bundled import control, control_scores, inpaint_scores, ip_adapter, ip_adapter_scores
from core2d.bundled.inpaint import INPAINT
from core2d.bundled.ip_adapter_scores import HeadSwaps
from core2d.bundled.scores import GUIDANCE, STEPS, pictures_of
from core2d.bundled.subject_scores import learn_and_score
from core2d.media.pictures import image_grid, save_image
from core2d.prior.backbone import Backbone
from core2d.prior.image_tower import ImageTower
from core2d.systems.dreambooth.recipe import LoraTrainRecipe
from core2d.systems.inpaint.pipeline import Inpaint
from core2d.systems.text_to_image.pipeline import TextToImage
from core2d.toybox.judge import PictureJudge, as_seen, load_picture_judge
from core2d.toybox.subjects import COUNT

SHOWN = 8  # columns of a sheet
LORA_MINUTES = 10


def items_of(assets: Path, seed: int) -> list[Item]:
    """All items of the suite, for the models in `assets`."""
    prior, judge = assets / control.PRIOR, assets / "toybox-judge" / "picture.safetensors"
    inpainter, tower, prompts = (assets / name for name in (INPAINT.folder, ip_adapter.TOWER, ip_adapter.FOLDER))

    def of_control(kind: control.Kind, about: str, **bars: Any) -> Item:
        name, needs = kind.folder.removeprefix("toybox-"), (prior, judge, assets / kind.folder)
        return Item(name, about, partial(followed, assets, kind, seed), needs=needs, **bars)

    return [
        Item("lora", f"{COUNT} subjects of held-out pairs, {LORA_MINUTES} minutes at most for each",
             partial(subjects, assets, seed), at_least={"kept": 0.6}, at_most={"drift": 3, "minutes": LORA_MINUTES},
             needs=(prior, judge)),
        of_control(control.DEPTH, "what is drawn by depth maps, and without them",
                   at_least={"iou": 0.80, "both": 0.90}),
        of_control(control.POSE, "where the joints of dolls are that are drawn by skeletons, and without them",
                   at_least={"iou": 0.80, "clothes": 0.90}, at_most={"joint_error": 2.5}),
        Item("inpaint", "pictures with a part drawn anew, 96 masks of 4 kinds", partial(inpainted, assets, seed),
             at_least={"both": 0.90}, at_most={"changed": 0, "seam": 1.5}, needs=(prior, judge, inpainter)),
        Item("outpaint", "pictures made wider by 25 and 50 % at each side", partial(outpainted, assets, seed),
             at_most={f"out{wider}_{name}": bar for wider in inpaint_scores.WIDER
                      for name, bar in (("changed", 0), ("seam", 1.5))}, needs=(prior, judge, inpainter)),
        Item("ip-adapter", "class and colour of references, without words", partial(prompted_by_pictures, assets, seed),
             at_least={"carried": 0.80}, needs=(prior, judge, tower, prompts)),
        Item("head-swap", "dolls with the heads of others", partial(heads_swapped, assets, seed),
             at_least={"swap_clothes": 0.80}, at_most={"swap_kept": 0},
             needs=(prior, inpainter, tower, prompts)),
    ]  # fmt: skip


@cache
def prior_of(assets: Path) -> Backbone:
    return Backbone.load(assets / control.PRIOR)


@cache
def pipeline_of(assets: Path) -> TextToImage:
    return TextToImage(prior_of(assets))


def subjects(assets: Path, seed: int) -> tuple[Numbers, list[Record]]:
    """Means over the subjects of a seed; each is learned as `core2d lora train` does by default."""
    found: list[Numbers] = []
    for number in range(COUNT):
        with tempfile.TemporaryDirectory() as folder:
            prior = prior_of(assets)
            found.append(
                learn_and_score(prior, judge_of(assets), LoraTrainRecipe(), seed, number, Path(folder) / "run")
            )
        numbers = ", ".join(f"{name} {value:.3g}" for name, value in found[-1].items())
        say(f"subject {number + 1} of {COUNT}: {numbers}")
    mean = {name: sum(one[name] for one in found) / COUNT for name in found[0]}
    return mean | {"least_kept": min(one["kept"] for one in found)}, [dict(one) for one in found]


def followed(assets: Path, kind: control.Kind, seed: int) -> Numbers:
    """See `core2d.bundled.control_scores`."""
    return kind.scores(pipeline_of(assets), read_controlnet(assets / kind.folder), assets / "toybox-judge", seed)


def inpainted(assets: Path, seed: int) -> Numbers:
    """The bundled model, and beside it (`_prior`) what the prior does alone; see `core2d.bundled.inpaint_scores`."""
    return _of_both(assets, partial(inpaint_scores.inpaint_scores, judge=judge_of(assets), seed=seed))


def outpainted(assets: Path, seed: int) -> Numbers:
    """The same at the sides of pictures."""
    return _of_both(assets, partial(inpaint_scores.outpaint_scores, judge=judge_of(assets), seed=seed))


def _of_both(assets: Path, score: Callable[[Inpaint], Numbers]) -> Numbers:
    plain = score(Inpaint(prior_of(assets)))
    return score(inpainter_of(assets)) | {f"{name}_prior": value for name, value in plain.items()}


def prompted_by_pictures(assets: Path, seed: int) -> Numbers:
    """See `core2d.bundled.ip_adapter_scores.image_prompt_scores`."""
    tower = ImageTower.load(assets / ip_adapter.TOWER)
    model = read_ip_adapter(assets / ip_adapter.FOLDER).model
    return ip_adapter_scores.image_prompt_scores(pipeline_of(assets), model, tower, judge_of(assets), seed)


def heads_swapped(assets: Path, seed: int) -> Numbers:
    """Heads inpainted with the pictures of others as prompts; see `core2d.bundled.ip_adapter_scores`."""
    tower, model = ImageTower.load(assets / ip_adapter.TOWER), read_ip_adapter(assets / ip_adapter.FOLDER).model
    pipeline = inpainter_of(assets)

    def change(cases: HeadSwaps) -> Tensor:
        changed = []
        rows = zip(cases.pictures, cases.heads, cases.references, strict=True)
        for number, (picture, head, reference) in enumerate(rows):
            seen, nothing = seen_by(model, tower, reference[None])
            drawing, telling = prompted(pipeline, [ImagePrompt(model, seen, nothing=nothing)])
            pixels = (picture.permute(1, 2, 0) * 255).round().byte().numpy()
            changed.append(drawing(
                "a doll", pixels, head[0].numpy() > 0, seed=1000 * seed + number, telling=telling,
                num_inference_steps=STEPS, guidance_scale=GUIDANCE, output_type="pt",
            ).images)  # fmt: skip
        return torch.cat(changed)

    return ip_adapter_scores.head_swap_scores(change, seed, pipeline.backbone.image_size)


@cache
def inpainter_of(assets: Path) -> Inpaint:
    return Inpaint.from_pretrained(assets / INPAINT.folder)


@cache
def judge_of(assets: Path) -> PictureJudge:
    return load_picture_judge(assets / "toybox-judge")


# -- pictures --------------------------------------------------------------------------------------------------


def write_pictures(assets: Path, seed: int, folder: Path) -> None:
    """control-KIND.png: maps, what is drawn by them, and the truth that they were made of, a row each."""
    for kind in (control.DEPTH, control.POSE):
        if (assets / kind.folder).is_dir():
            save_image(folder / f"control-{kind.name}.png", image_grid(control_sheet(assets, kind, seed), SHOWN))
            say(f"wrote {folder / f'control-{kind.name}.png'}")


def control_sheet(assets: Path, kind: control.Kind, seed: int) -> Tensor:
    scenes: Sequence = list(islice(control_scores.scored_scenes(seed, kind.scene_kind), SHOWN))
    pipeline = pipeline_of(assets)
    size = pipeline.backbone.image_size
    drawn = control_scores.follow(pipeline, read_controlnet(assets / kind.folder), scenes, kind.maps_of, seed)
    return torch.cat([as_seen(kind.maps_of(scenes, size)), drawn, as_seen(pictures_of(scenes, size)[0])])


SUITE = Suite(items_of, Path(__file__), (ROOT / "core2d" / "systems" / "dreambooth" / "command.py",))
