"""What a prior is told, what its network is given, and what stands between the two: adapters.

A `Condition` is what a person or a system tells a prior: words, a view, a picture, a control map. `Inputs` are what one
call of the denoising network takes. An `Adapter` is a value that makes other inputs of them, by what it is told:

    class Brighter:  # a whole adapter
        def __call__(self, inputs: Inputs, condition: Condition) -> Inputs:
            return replace(inputs, tokens=inputs.tokens + condition.extra["brightness"][:, None])

    prior = prior.with_adapters(Brighter())  # a new prior; the old one is as it was
    condition = prior.encode_text(["a red mug"]).telling(brightness=torch.tensor([[0.5]]))

All parts of a condition have rows, so that guidance may stack, pick, mix and repeat them without knowing what they are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from core2d.prior.camera_token import camera_features

PARTS = ("tokens", "pooled", "mask", "sizes", "camera", "channels")
INSTEAD = " without words"  # after the name of what adapters are told: what the row without words is told in its place


@dataclass(frozen=True)
class Condition:
    """All that is told, one row a sample.

    Attributes:
        tokens: (b, n, d) context of the denoiser, the encoded prompts.
        pooled: (b, p) summary of the prompt, where the family uses one (SDXL).
        mask: (b, n) 1 where a token is real, where the family hides padding (PixArt).
        sizes: (b, 6) original height and width, top and left of the crop, target height and width in pixels (SDXL);
            those of the picture that is drawn, where they are not told.
        camera: (b, 5) features of the view (`core2d.prior.camera_token.camera_features`), where the prior knows views.
        channels: (b, c, h, w) latents joined to the noisy ones along the channels (Zero-1-to-3, inpainting).
        extra: (b, ...) by name, what adapters are told: control maps, image tokens, reference features.
    """

    tokens: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None
    sizes: Tensor | None = None
    camera: Tensor | None = None
    channels: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    def map(self, change: Callable[[Tensor], Tensor]) -> Condition:
        """The same change of every part."""
        changed = {name: change(part) for name, part in self._parts().items()}
        return Condition(**changed, extra={name: change(part) for name, part in self.extra.items()})

    def __getitem__(self, rows: slice | list[int] | Tensor) -> Condition:
        """Some of the rows; a condition again, so ask with a slice or a list."""
        return self.map(lambda part: part[rows])

    def repeat_interleave(self, times: int) -> Condition:
        """Every row `times` times, one after the other: (b, ...) -> (b times, ...)."""
        return self.map(lambda part: part.repeat_interleave(times, dim=0))

    def expand(self, rows: int) -> Condition:
        """One row seen as many; as it is if it has that many already.

        Raises:
            ValueError: another number of rows.
        """
        if len(self) not in (1, rows):
            raise ValueError(f"{len(self)} conditions for {rows} samples; give one, or one for each")
        return self if len(self) == rows else self.map(lambda part: part.expand(rows, *part.shape[1:]))

    def of_frames(self, clips: int, frames: int) -> Condition:
        """A row for each frame of clips, those of one clip side by side: of one row, one a clip, or one a frame.

        Raises:
            ValueError: another number of rows.
        """
        if len(self) in (1, clips * frames):
            return self.expand(clips * frames)
        return self.expand(clips).repeat_interleave(frames)

    def to(self, device: torch.device, dtype: torch.dtype) -> Condition:
        """On a device, all in a dtype but the mask."""
        moved = {name: part.to(device) if name == "mask" else part.to(device, dtype)
                 for name, part in self._parts().items()}  # fmt: skip
        return Condition(**moved, extra={name: part.to(device) for name, part in self.extra.items()})

    def append(self, tokens: Tensor) -> Condition:
        """With more context tokens (b, m, d) after the text."""
        mask = self.mask
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(tokens.shape[:2])], dim=1)  # (b, n + m)
        return replace(self, tokens=torch.cat([self.tokens, tokens.to(self.tokens.dtype)], dim=1), mask=mask)

    def seen_from(self, camera: Any) -> Condition:
        """With a view: `core2d.prior.cameras.Cameras`, or (n, 5) features, for one row or for each; None is no view.

        Raises:
            ValueError: neither one of both, nor as many.
        """
        if camera is None:
            return replace(self, camera=None)
        features = camera_features(camera)
        if 1 not in (len(features), len(self)) and len(features) != len(self):
            raise ValueError(f"{len(features)} cameras for {len(self)} samples; give one, or one for each")
        rows = max(len(features), len(self))
        return replace(self.expand(rows), camera=features.expand(rows, -1))

    def telling(self, **extra: Tensor) -> Condition:
        """With more for adapters, by name: (n, ...), for one row or for each.

        What guidance is to pull towards is told with what the row without words hears in its place, under the same name
        with `INSTEAD` after it: `telling(**{"picture": seen, "picture" + INSTEAD: zeros})`.
        """
        rows = max(len(self), *(len(part) for part in extra.values()))
        told = {name: part if len(part) == rows else part.expand(rows, *part.shape[1:]) for name, part in extra.items()}
        wide = self.expand(rows)
        return replace(wide, extra={**wide.extra, **told})

    def told_also(self, other: Condition, has_words: bool = False) -> Condition:
        """With what `other`, of as many rows, is told and this is not.

        So is made the row without words of guidance, which pulls towards the words and not towards the view, the map
        or the picture that both are told (MVDream, 2308.16512; ControlNet, 2302.05543). Of an image prompt, which
        stands for words, that row hears what is told for it (`INSTEAD`; IP-Adapter, 2308.06721, section 3.2.2).

        Args:
            has_words: this is no row without words, but one that asks for the same in other words.
        """
        both = ("camera", "channels", "sizes")
        missing = {name: getattr(other, name) for name in both if getattr(self, name) is None}
        extra = dict(other.extra)
        if not has_words:
            for name, part in other.extra.items():
                if name.endswith(INSTEAD):
                    extra[name.removesuffix(INSTEAD)] = part
        return replace(self, **missing, extra={**extra, **self.extra})

    @staticmethod
    def cat(conditions: list[Condition]) -> Condition:
        """All rows of several conditions of one prior.

        Raises:
            ValueError: one is told what another is not.
        """
        first = conditions[0]
        for other in conditions[1:]:
            if other._parts().keys() != first._parts().keys() or other.extra.keys() != first.extra.keys():
                told = sorted(first._parts().keys() ^ other._parts().keys() | first.extra.keys() ^ other.extra.keys())
                raise ValueError(f"rows of conditions differ in what they are told: {', '.join(told)}")
        joined = {name: torch.cat([getattr(one, name) for one in conditions]) for name in first._parts()}
        extra = {name: torch.cat([one.extra[name] for one in conditions]) for name in first.extra}
        return Condition(**joined, extra=extra)

    def _parts(self) -> dict[str, Tensor]:
        """The parts that are told, by name."""
        named = {name: getattr(self, name) for name in PARTS}
        return {name: part for name, part in named.items() if part is not None}


@dataclass(frozen=True)
class Inputs:
    """One call of a denoising network, as adapters see and change it. Rows of clips are frames, side by side.

    Attributes:
        x_t: (r, c, h, w) noisy latents, on the device and in the dtype of the network; r = b f rows of f frames.
        t: (r,) noise levels.
        tokens: (r, n, d) context, view tokens included.
        mask: (r, n), see `Condition`.
        pooled: (r, p), see `Condition`.
        sizes: (r, 6), see `Condition`.
        channels: (r, c, h, w) that are joined to x_t.
        frames: how many neighbouring rows are one clip; 1 for pictures.
        skips: what is added to the skip connections of a UNet: one (r, c_i, h_i, w_i) for each, or none.
        middle: what is added to its middle block (r, c, h, w), or None.
        attention: what its attention processors are told (diffusers' `cross_attention_kwargs`).
        guidance_embedding: (r, e) of a distilled student that takes its guidance scale as an input, or None.
    """

    x_t: Tensor
    t: Tensor
    tokens: Tensor
    mask: Tensor | None = None
    pooled: Tensor | None = None
    sizes: Tensor | None = None
    channels: Tensor | None = None
    frames: int = 1
    skips: tuple[Tensor, ...] = ()
    middle: Tensor | None = None
    attention: Mapping[str, Any] = field(default_factory=dict)
    guidance_embedding: Tensor | None = None

    @property
    def sample(self) -> Tensor:
        """(r, c, h, w) what the first layer sees: the noisy latents and what is joined to them."""
        return self.x_t if self.channels is None else torch.cat([self.x_t, self.channels], dim=1)

    def with_residuals(self, skips: tuple[Tensor, ...], middle: Tensor) -> Inputs:
        """With residuals on the skip connections and the middle, beside those that are there already.

        Raises:
            ValueError: another number of skip connections.
        """
        if self.skips and len(self.skips) != len(skips):
            raise ValueError(f"{len(skips)} residuals for {len(self.skips)} skip connections")
        added = tuple(a + b for a, b in zip(self.skips, skips, strict=True)) if self.skips else tuple(skips)
        return replace(self, skips=added, middle=middle if self.middle is None else self.middle + middle)

    def residuals(self) -> dict[str, Any]:
        """What a UNet of diffusers takes beside x_t, t and tokens; nothing where nothing is added."""
        given: dict[str, Any] = {}
        if self.skips:
            given["down_block_additional_residuals"] = self.skips
            given["mid_block_additional_residual"] = self.middle
        if self.attention:
            given["cross_attention_kwargs"] = dict(self.attention)
        if self.guidance_embedding is not None:
            given["timestep_cond"] = self.guidance_embedding
        return given


class Adapter(Protocol):
    """Changes what a network is given. It has weights of its own, if any, and no state between calls.

    One that is an `nn.Module` is moved and frozen with the prior. One that has to change layers of the network itself
    (LoRA, IP-Adapter) is also a `Changing` adapter.
    """

    def __call__(self, inputs: Inputs, condition: Condition) -> Inputs: ...


@runtime_checkable
class Changing(Protocol):
    """An adapter that puts other layers into the network."""

    def change(self, network: nn.Module) -> None:
        """Put them into a copy of the network, whose modules are its own and whose tensors are those of the original.

        So a layer may be replaced, and no tensor written to.
        """
        ...


def copy_of(network: nn.Module) -> nn.Module:
    """A copy whose modules are its own and whose parameters and buffers are those of the original."""

    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    return copy.deepcopy(network, shared)
