"""toybox-judge: what scores the generators. Trained on its own seeds, on all class-colour pairs and on rejects."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from core2d.app.outputs import atomic_path, write_json
from core2d.toybox import world
from core2d.toybox.clips import draw_clips, words_of
from core2d.toybox.dataset import Pictures, draw, to_bytes
from core2d.toybox.judge import REJECT, MotionJudge, PictureJudge
from core2d.toybox.rejects import draw_rejects
from core2d.toybox.scene import frame, still
from core2d.training.loop import TrainingRecipe, step_generator

SEED = world.JUDGE_SEEDS[0]
ANSWER_WEIGHTS = (1.0, 1.0, 2.0, 2.0)  # class, colour, view, azimuth: the last two are seldom labelled
PICTURE_RECIPE = TrainingRecipe(
    steps=6000, batch_size=128, learning_rate=3e-3, warmup_steps=100, weight_decay=0.02, ema_decay=0.995
)
FRAME_RECIPE = TrainingRecipe(
    steps=1500, batch_size=128, learning_rate=2e-3, warmup_steps=100, weight_decay=0.02, ema_decay=0.99
)
MOTION_RECIPE = TrainingRecipe(
    steps=1500, batch_size=24, learning_rate=2e-3, warmup_steps=100, weight_decay=0.02, ema_decay=0.99
)


def judge_pictures(cache: Path, count: int, size: int = 64) -> Pictures:
    """Stills of objects with the judges' seed."""
    return draw(cache / f"v{world.VERSION}-judges-{size}px-{count}", partial(still, SEED, kind="object"), count, size)


def judge_frames(cache: Path, count: int, size: int = 64) -> Pictures:
    """One frame of each of `count` clips of objects, with the judges' seed."""
    return draw(cache / f"v{world.VERSION}-judge-frames-{size}px-{count}", partial(frame, SEED), count, size)


def reject_pictures(cache: Path, count: int, size: int = 64, in_clips: bool = False) -> np.ndarray:
    """(count, 3, size, size) uint8 of what must be rejected."""
    of = "clip-rejects" if in_clips else "rejects"
    path = cache / f"v{world.VERSION}-{of}-{size}px-{count}.npy"
    if not path.is_file():
        chunks = [range(start, min(start + 256, count)) for start in range(0, count, 256)]
        rows = [to_bytes(draw_rejects(SEED, chunk, size, in_clips)).transpose(0, 3, 1, 2) for chunk in chunks]
        with atomic_path(path) as temporary:
            np.save(temporary, np.concatenate(rows))
    return np.load(path, mmap_mode="r")


def judge_clips(cache: Path, count: int, size: int = 64) -> tuple[np.ndarray, Tensor]:
    """(count, frames, 3, size, size) uint8 clips and their motion (count,) as an index into `world.MOTIONS`."""
    clips = draw_clips(cache / f"v{world.VERSION}-clips-{size}px-{count}.npy", SEED, count, size)
    _, motions = words_of(SEED, count)
    return clips, torch.tensor([world.MOTIONS.index(word) for word in motions])


@dataclass
class PictureJudgeTask:
    """Two thirds honest pictures, one third rejects; all a little blurred, dimmed and grainy."""

    model: PictureJudge
    pictures: Pictures
    rejects: np.ndarray
    reject_share: float = 0.33
    seed: int = 14

    def batch(self, step: int, positions: Tensor, batch_size: int) -> dict[str, Tensor]:
        """Random rows with random wear."""
        generator = step_generator(self.seed, step)
        rejected = int(self.reject_share * batch_size)
        honest = torch.randint(len(self.pictures), (batch_size - rejected,), generator=generator).numpy()
        false = torch.randint(len(self.rejects), (rejected,), generator=generator).numpy()
        rgb = torch.from_numpy(np.concatenate([self.pictures.rgb[honest], self.rejects[false]]))
        labels = torch.full((batch_size, 4), -1, dtype=torch.long)
        labels[: len(honest)] = torch.from_numpy(self.pictures.labels[honest]).long()
        labels[len(honest) :, 0] = REJECT
        worn = wear(rgb.float() / 255.0, generator)
        return {"pictures": worn[positions], "labels": labels[positions]}

    def loss(self, model: PictureJudge, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Weighted sum of the cross-entropies of the four answers."""
        logits, labels = model(batch["pictures"]), batch["labels"]
        losses = [
            # summed over the rows that have the label, divided by all: a mean over rows, however they are shared out
            F.cross_entropy(answer.float(), labels[:, i], ignore_index=-1, label_smoothing=0.02, reduction="sum")
            * (weight / len(labels))
            for i, (answer, weight) in enumerate(zip(logits, ANSWER_WEIGHTS, strict=True))
        ]
        right = (logits[0].argmax(1) == labels[:, 0]).float().mean()
        return torch.stack(losses).sum(), {"class": losses[0], "view": losses[2], "right": right}


@dataclass
class MotionJudgeTask:
    """Clips, worn alike in all frames."""

    model: MotionJudge
    clips: np.ndarray
    motions: Tensor
    seed: int = 15

    def batch(self, step: int, positions: Tensor, batch_size: int) -> dict[str, Tensor]:
        """Random clips (n, 3, t, h, w) with random wear."""
        generator = step_generator(self.seed, step)
        rows = torch.randint(len(self.clips), (batch_size,), generator=generator)
        clips = torch.from_numpy(self.clips[rows.numpy()]).float() / 255.0  # (n, t, 3, h, w)
        clips = wear(clips.flatten(1, 2), generator).unflatten(1, clips.shape[1:3])
        return {"clips": clips.transpose(1, 2)[positions], "motions": self.motions[rows][positions]}

    def loss(self, model: MotionJudge, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Cross-entropy of the motion."""
        logits = model(batch["clips"]).float()
        right = (logits.argmax(1) == batch["motions"]).float().mean()
        return F.cross_entropy(logits, batch["motions"], label_smoothing=0.02), {"right": right}


def wear(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, light and grain that an honest picture survives, per row of (n, c, h, w) in [0, 1]."""
    n = len(pictures)
    draw_numbers = torch.rand((4, n, 1, 1, 1), generator=generator)
    size = pictures.shape[-2:]
    blurred = F.interpolate(F.avg_pool2d(pictures, 2), size, mode="bilinear", align_corners=False)
    share = (2 * draw_numbers[0] - 1).clamp(min=0)  # half of the rows stay sharp
    pictures = torch.lerp(pictures, blurred, share)
    pictures = pictures * (0.9 + 0.2 * draw_numbers[1]) + 0.06 * (draw_numbers[2] - 0.5)
    grain = 0.06 * draw_numbers[3] * torch.randn(pictures.shape, generator=generator)
    return (pictures + grain).clamp(0, 1)


def save(model: nn.Module, folder: Path, name: str) -> None:
    """Write a judge in half precision, as `folder`/`name`.safetensors; its config stands beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        key: value.half().contiguous() if value.is_floating_point() else value.contiguous()
        for key, value in model.state_dict().items()
    }
    with atomic_path(folder / f"{name}.safetensors") as path:
        save_file(state, path)
    write_json(folder / "config.json", {"toybox_version": world.VERSION, "size": 64})
