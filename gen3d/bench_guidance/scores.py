"""What a run is worth, and what a guidance is worth over all of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from core2d.toybox import world
from core2d.toybox.captions import object_phrase
from core2d.toybox.judge import SIZE, PictureJudge
from core2d.toybox.render import Renders, render
from core2d.toybox.scene import Scene, View, plain, portrait
from gen3d.mesh import TexturedMesh
from gen3d.toybox import mesh_scores as meshes

ASIDE = range(2, 7)  # of the eight views, those at 90 to 270 degrees: nothing there looks like a front
RESAMPLED, CONFIDENCE = 2000, 0.95  # times, for an interval; its share of them


@dataclass(frozen=True)
class Truth:
    """What a prompt asks for: any of some Toybox bodies, of which an oracle knows one.

    Attributes:
        name, color: words of Toybox.
        seed: of the bodies.
        shapes: how many there are; which one is meant is for the mesh to choose.
    """

    name: str
    color: str
    seed: int
    shapes: int

    @property
    def prompt(self) -> str:
        return object_phrase(self.name, self.color)

    def body(self, index: int = 0) -> Scene:
        """One of the bodies, in the colour that is asked for."""
        return portrait(self.name, self.color, 0, meshes.ELEVATION, self.seed, index)

    def drawn(self, azimuths: Sequence[float] = meshes.AZIMUTHS, size: int = SIZE, index: int = 0) -> Renders:
        """A body on white, from where meshes are looked at (degrees)."""
        views = [View(np.radians(angle), np.radians(meshes.ELEVATION), meshes.RADIUS) for angle in azimuths]
        return render([replace(self.body(index), view=view, background=plain("white")) for view in views], size)


@dataclass(frozen=True)
class Scores:
    """What a mesh is worth.

    Attributes:
        chamfer: distance to the nearest body of the truth, each in its unit box; 0.02 is as near as true ones are.
        views_right: share of the eight views in which the judge reads class and colour.
        color_error: distance of the mean colour of what is seen (root mean square over channels, of sRGB in [0, 1])
            from that of the nearest body in the same view, mean over the eight views.
        janus: share of the five views from the sides and from behind that the judge takes for the front; None for
            classes without a front.
    """

    chamfer: float
    views_right: float
    color_error: float
    janus: float | None


def worst(truth: Truth) -> Scores:
    """Of a run that no mesh came of: off by the whole box, and wrong in all else."""
    return Scores(1.0, 0.0, 1.0, 1.0 if truth.name in world.FRONTED else None)


def score(mesh: TexturedMesh, judge: PictureJudge, truth: Truth) -> Scores:
    """Hold a mesh against the truth of its prompt."""
    distance, index = meshes.nearest_shape(mesh, truth.name, truth.seed, truth.shapes)
    seen = meshes.drawn(mesh)  # (8, 4, h, w)
    verdict = judge.judge(seen[:, :3])
    right = verdict.is_right([truth.name] * len(seen), [truth.color] * len(seen))
    taken_for_front = verdict.views[list(ASIDE)] == world.VIEWS.index("front")
    pictures = seen.movedim(1, -1).numpy()  # (8, h, w, 4)
    cover = pictures[..., 3:]
    own = mean_color(pictures[..., :3] - (1 - cover), cover)  # on white: what is left of it is not the mesh's
    there = truth.drawn(index=index).rgba
    true = mean_color(there[..., :3] * there[..., 3:], there[..., 3:])
    apart = np.sqrt(np.square(own - true).mean(1))  # (8,)
    return Scores(
        chamfer=distance,
        views_right=float(right.float().mean()),
        color_error=float(np.where(np.isnan(apart), 1.0, apart).mean()),
        janus=float(taken_for_front.float().mean()) if truth.name in world.FRONTED else None,
    )


def mean_color(premultiplied: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """(n, 3) mean colours of what is covered, of (n, h, w, 3) and (n, h, w, 1); NaN where nothing is."""
    area = cover.sum((1, 2))  # (n, 1)
    return np.where(area > 0, premultiplied.sum((1, 2)) / np.maximum(area, 1e-9), np.nan)


# -- many runs -------------------------------------------------------------------------------------------------


def summary(runs: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """Of the runs of one guidance: how many, how many made no mesh, and mean and interval of each number."""
    names = [*asdict(worst(Truth("chair", "red", 0, 1))), "seconds", "evaluations", "steps"]
    columns = {name: [float(run[name]) for run in runs if run[name] is not None] for name in names}
    failed = sum(run["failed"] is not None for run in runs)
    return {"runs": len(runs), "failed": failed} | {
        name: interval(values, seed) if values else None for name, values in columns.items()
    }


def interval(values: Sequence[float], seed: int) -> dict[str, float]:
    """Mean over runs, and the middle 95 % of the means of as many runs, drawn again with replacement (Efron 1979).

    The same seed draws the same runs of every guidance.
    """
    numbers = np.asarray(values, np.float64)
    drawn = np.random.default_rng(seed).integers(len(numbers), size=(RESAMPLED, len(numbers)))
    low, high = np.quantile(numbers[drawn].mean(1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return {"mean": float(numbers.mean()), "low": float(low), "high": float(high)}


def table(guidances: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The summaries in columns for a person to read, a line for each guidance and one above them."""
    columns = ("chamfer", "views_right", "color_error", "janus", "seconds", "evaluations", "steps")
    lines = [["guidance", "runs", "failed", *columns]]
    for name, found in guidances.items():
        lines.append([name, str(found["runs"]), str(found["failed"]), *(in_words(found[column]) for column in columns)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return {first: "  ".join(cells).rstrip() for first, *cells in padded}


def in_words(found: Mapping[str, float] | None) -> str:
    """Mean and interval: "0.052 (0.041 to 0.063)"."""
    if found is None:
        return "-"
    mean, low, high = (f"{found[part]:.3g}" if found[part] < 1000 else f"{found[part]:.0f}"
                       for part in ("mean", "low", "high"))  # fmt: skip
    return mean if low == high else f"{mean} ({low} to {high})"
