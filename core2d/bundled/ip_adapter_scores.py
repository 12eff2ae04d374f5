"""Whether pictures are carried: what a judge reads from what is drawn, beside what is known of the reference.

Class and colour of a reference are known, since Toybox drew it. The judge looks only at what the prior made of it. A
head is swapped by inpainting, which is another system: it comes in as a function (`head_swap_scores`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from core2d.adapters.ip_adapter import ImagePrompt, IPAdapterModel, prompted, seen_by
from core2d.bundled import scores
from core2d.bundled.control_scores import HAIR, clothes_right
from core2d.bundled.scores import Scores, pictures_of
from core2d.prior.image_tower import ImageTower
from core2d.systems.text_to_image.pipeline import TextToImage
from core2d.toybox import captions, world
from core2d.toybox.dataset import labels_of
from core2d.toybox.judge import REJECT, PictureJudge, as_seen
from core2d.toybox.parts import Color
from core2d.toybox.scene import WHITE, Scene, still
from core2d.toybox.subjects import seen_again

SCORED = 96  # references
CARRIED = 24  # references that are drawn at each checkpoint
SOFT = 0.5  # scale beside words that ask for something else
SWAPPED = 32  # dolls
HEAD = (3, HAIR, 5, 14, 23)  # head, hair, nose and eyes: parts of the doll, as `core2d.toybox.doll.dress` adds them


def references(seed: int, count: int, plain: bool = True) -> list[Scene]:
    """Objects as one would show them: on white and not from overhead; else from any side, in any setting."""
    return [seen_again(still(seed, index, "object"), seed, index, plain) for index in range(count)]


def drawn_by(
    pipeline: TextToImage, model: IPAdapterModel, tower: ImageTower, scenes: Sequence[Scene], seed: int,
    words: Sequence[str] | None = None, scale: float = 1.0,
) -> Tensor:  # fmt: skip
    """(n, 3, 64, 64) pictures by references; sample i has the seed 1000 seed + i.

    Args:
        words: a prompt for each; none if None.
    """
    seen, nothing = seen_by(model, tower, pictures_of(scenes, tower.side)[0])
    drawing, telling = prompted(pipeline, [ImagePrompt(model, seen, scale, nothing=nothing)])
    pictures = drawing(
        list(words or [""] * len(scenes)), num_inference_steps=scores.STEPS, guidance_scale=scores.GUIDANCE,
        generator=[torch.Generator().manual_seed(1000 * seed + i) for i in range(len(scenes))], telling=telling,
        output_type="pt",
    ).images  # fmt: skip
    return as_seen(pictures.float().cpu())


def image_prompt_scores(
    pipeline: TextToImage, model: IPAdapterModel, tower: ImageTower, judge: PictureJudge, seed: int
) -> Scores:
    """What is carried of `SCORED` references that nothing was trained on.

    "carried" is the share of which class and colour are both read in what is drawn without words, "class" and "color"
    each alone; `_anyhow` is the same of references from any side and in any setting, `_by_words` of prompts that name
    both, the most that the prior can do, and `_without` of neither word nor picture. "words_class" is how often words
    that ask for another class get it at half the scale, and "words_color" how often that has the colour of the picture.
    """
    plain, anyhow = references(seed, SCORED), references(seed, SCORED, plain=False)
    classes, colors = torch.tensor([labels_of(scene)[:2] for scene in plain]).T
    named = [captions.object_phrase(scene.name, scene.colors[0]) for scene in plain]
    found: Scores = {}
    for name, pictures in (
        ("", drawn_by(pipeline, model, tower, plain, seed)),
        ("_anyhow", drawn_by(pipeline, model, tower, anyhow, seed)),
        ("_by_words", drawn_by(pipeline, model, tower, plain, seed, named, scale=0.0)),
        ("_without", drawn_by(pipeline, model, tower, plain, seed, scale=0.0)),
    ):
        verdict = judge.judge(pictures)
        right = verdict.classes == classes, verdict.colors == colors
        found |= {f"carried{name}": _share(right[0] & right[1]), f"class{name}": _share(right[0]),
                  f"color{name}": _share(right[1]), f"rejected{name}": _share(verdict.classes == REJECT)}  # fmt: skip
    asked = (classes + 7) % len(world.CLASS_NAMES)
    words = [captions.with_article(world.CLASS_NAMES[index]) for index in asked.tolist()]
    verdict = judge.judge(drawn_by(pipeline, model, tower, plain, seed, words, SOFT))
    return found | {"words_class": _share(verdict.classes == asked), "words_color": _share(verdict.colors == colors)}


def carried(pipeline: TextToImage, model: IPAdapterModel, tower: ImageTower, judge: PictureJudge, seed: int) -> Scores:
    """The same in short, of `CARRIED` references: what a training tells of itself at each checkpoint."""
    scenes = references(seed, CARRIED)
    classes, colors = torch.tensor([labels_of(scene)[:2] for scene in scenes]).T
    verdict = judge.judge(drawn_by(pipeline, model, tower, scenes, seed))
    right = verdict.classes == classes, verdict.colors == colors
    return {"carried": _share(right[0] & right[1]), "class": _share(right[0]), "color": _share(right[1])}


# -- another head --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeadSwaps:
    """Dolls that are to get the heads of others.

    Attributes:
        pictures: (n, 3, H, W) of the dolls, of 256 values.
        heads: (n, 1, H, W) 1 where a head is seen, hair and face.
        references: (n, 3, H, W) pictures of the others.
        scenes: the dolls as they should be afterwards, in the hair of the others.
    """

    pictures: Tensor
    heads: Tensor
    references: Tensor
    scenes: list[Scene]


def head_swaps(seed: int, count: int, size: int) -> HeadSwaps:
    """`count` dolls on white, whose hair has another colour than that of those who lend theirs."""
    dolls, lenders, swapped, index = [], [], [], 0
    while len(dolls) < count:
        one, other = (replace(still(seed, 2 * index + n, "doll"), ground=None, background=WHITE) for n in range(2))
        index += 1
        if one.colors[0] == other.colors[0]:
            continue
        dolls.append(one)
        lenders.append(other)
        swapped.append(_with_hair(one, other))
    pictures = (pictures_of(dolls, size)[0] * 255).round() / 255  # as a file has them, so that what is kept is equal
    return HeadSwaps(pictures, _heads(dolls, size), pictures_of(lenders, size)[0], swapped)


def head_swap_scores(change: Callable[[HeadSwaps], Tensor], seed: int, size: int, count: int = SWAPPED) -> Scores:
    """How well a way of changing the masked part of pictures by a reference swaps heads.

    "swap_clothes" is the share of hair, shirts and trousers that then have their colours, "swap_clothes_before" the
    same of pictures in which nothing was changed, "swap_kept" the largest difference outside of the masks.

    Args:
        change: gives pictures (n, 3, H, W); inpainting with an image prompt, which is told `references` and `heads`.
    """
    cases = head_swaps(seed, count, size)
    changed = change(cases).float().cpu()
    true = as_seen(pictures_of(cases.scenes, size)[0])
    outside = (changed - cases.pictures).abs() * (cases.heads == 0)
    return {
        "swap_clothes": clothes_right(as_seen(changed), true, cases.scenes),
        "swap_clothes_before": clothes_right(as_seen(cases.pictures), true, cases.scenes),
        "swap_kept": outside.max().item(),
    }


def _heads(scenes: Sequence[Scene], size: int) -> Tensor:
    """(n, 1, size, size) 1 where a head is seen: where its dye shows."""
    black, white = (pictures_of([_dyed(scene, (dye, dye, dye)) for scene in scenes], size)[0] for dye in (0.0, 1.0))
    return ((white - black).amax(1, keepdim=True) > 0.05).float()


def _dyed(scene: Scene, dye: Color) -> Scene:
    colors = [dye if index in HEAD else color for index, color in enumerate(scene.parts.colors)]
    return replace(scene, parts=replace(scene.parts, colors=colors))


def _with_hair(scene: Scene, other: Scene) -> Scene:
    colors = [other.parts.colors[HAIR] if index == HAIR else color for index, color in enumerate(scene.parts.colors)]
    return replace(scene, parts=replace(scene.parts, colors=colors), colors=(other.colors[0], *scene.colors[1:]))


def _share(right: Tensor) -> float:
    return right.float().mean().item()
