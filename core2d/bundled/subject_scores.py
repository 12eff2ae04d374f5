"""How well a subject of Toybox is learned from a few pictures, and what that costs the prior elsewhere.

    found = subject_scores(prior, tuned, judge, subject(seed, 0, PICTURES + TRUTH), seed)

A judge looks at what is drawn; it has trained nothing here. Subjects and samples of `world.TUNING_SEEDS` choose a
recipe, those of `world.REPORTING_SEEDS` are reported.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from core2d.adapters.lora_learning import low_rank
from core2d.bundled.scores import GUIDANCE, Scores, draw_samples, pictures_of
from core2d.prior.backbone import Backbone
from core2d.systems.dreambooth.recipe import LoraTrainRecipe
from core2d.systems.dreambooth.task import DreamBoothTask, drawn, encoded
from core2d.systems.text_to_image.pipeline import TextToImage
from core2d.toybox import captions, world
from core2d.toybox.judge import PictureJudge
from core2d.toybox.scene import Scene
from core2d.toybox.subjects import Subject, others, subject
from core2d.training.loop import train

PICTURES = 5  # that a subject is learned from
TRUTH = 64  # pictures of the subject that nothing learned from, and of its class
DRAWN = 32  # samples of the subject
OTHERS = 48  # prompts of other classes


def subject_kept(drawn: Tensor, of_subject: Tensor, of_class: Tensor) -> float:
    """The share of the way from the mean of the class to that of the subject, along the line between them.

    0 is any object of the class, 1 the subject. Each is (n, d) features of a judge (`PictureJudge.features`).
    """
    start = of_class.mean(0)  # (d,)
    way = of_subject.mean(0) - start
    return ((drawn.mean(0) - start) @ way / (way @ way)).item()


def subject_scores(prior: Backbone, tuned: Backbone, judge: PictureJudge, learned: Subject, seed: int) -> Scores:
    """How much of a subject a tuned prior draws when it is called, and what became of other prompts.

    "kept" is `subject_kept` of the tuned prior; of what it began as, "kept_before" says it under the same name, and
    "kept_by_words" under the words that describe the subject. "drift" is how many points of class and colour, both
    right, are lost on `OTHERS` prompts of other classes, from the same noise; "kind_drift" is how far the tuned prior
    went towards the subject where its kind is asked for.

    Args:
        learned: its first `PICTURES` scenes are those that were learned from, the others are the truth.
    """
    before, after = TextToImage(prior), TextToImage(tuned)
    of_subject = _features(judge, learned.scenes[PICTURES:], prior.image_size)
    of_class = _features(judge, others(seed, learned.body.name, TRUTH), prior.image_size)

    def kept(pipeline: TextToImage, prompt: str) -> float:
        seen = judge.features(draw_samples(pipeline, [prompt] * DRAWN, seed, GUIDANCE))
        return subject_kept(seen, of_subject, of_class)

    return {
        "kept": kept(after, learned.called),
        "kept_before": kept(before, learned.called),
        "kept_by_words": kept(before, learned.described),
        "kind_drift": kept(after, learned.kind) - kept(before, learned.kind),
        "drift": 100 * (_right(before, judge, learned, seed) - _right(after, judge, learned, seed)),
    }


def _features(judge: PictureJudge, scenes: Sequence[Scene], size: int) -> Tensor:
    return judge.features(pictures_of(scenes, size)[0])


def _right(pipeline: TextToImage, judge: PictureJudge, learned: Subject, seed: int) -> float:
    """Share of prompts of other classes that are drawn in class and colour as they ask for."""
    pairs = [pair for pair in world.pairs(held_out=False) if pair[0] != learned.body.name]
    asked = [pairs[i * len(pairs) // OTHERS] for i in range(OTHERS)]
    prompts = [captions.object_phrase(name, color) for name, color in asked]
    verdict = judge.judge(draw_samples(pipeline, prompts, seed + 1, GUIDANCE))
    return verdict.is_right(*zip(*asked, strict=True)).float().mean().item()


def learn_and_score(
    prior: Backbone, judge: PictureJudge, recipe: LoraTrainRecipe, seed: int, number: int, run: Path
) -> Scores:
    """Teach a prior one of the subjects of a seed, as `core2d lora train` does, and score it; "minutes" with the rest.

    Args:
        recipe: whose names and places do not count.
        seed, number: see `core2d.toybox.subjects.subject`.
        run: a new folder of the training.
    """
    started, learned = time.perf_counter(), subject(seed, number, PICTURES + TRUTH)
    pictures, _ = pictures_of(learned.scenes[:PICTURES], prior.image_size)
    tuned, layers = low_rank(prior, recipe.rank, recipe.layers_of(prior.world), recipe.seed)
    prompts = replace(recipe, subject=learned.called).kept(prior.world)
    told, kept = prior.encode_text([learned.called, *prompts]), drawn(prior, prompts, recipe.seed)
    task = DreamBoothTask(layers, tuned, encoded(prior, pictures), kept, told, recipe.preservation, seed=recipe.seed)
    result = train(task, recipe.training(prior.world), run, device=prior.device)
    layers.load_state_dict(result.ema)
    minutes = (time.perf_counter() - started) / 60
    return {**subject_scores(prior, tuned, judge, learned, seed), "minutes": minutes}
