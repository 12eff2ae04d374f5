"""IP-Adapter (Ye et al. 2023, 2308.06721): pictures as prompts, by a cross-attention of their own beside that to words.

    model = read_ip_adapter("ip-adapter_sd15.bin").model  # core2d.adapters.ip_adapter_files
    seen, nothing = seen_by(model, ImageTower.load("image_encoder"), pictures)
    prior, telling = prompted(prior, [ImagePrompt(model, seen, scale=0.6, nothing=nothing)])  # or a pipeline
    condition = prior.encode_text([""]).telling(**telling)

An image tower reads a picture; a projection makes a few tokens of that (section 3.2.1); each cross-attention of the
UNet attends to them with keys and values of its own, and adds what it hears (section 3.2.2, equation 5):

    Z = Attention(Q, K, V) + scale Attention(Q, K', V')

It is an adapter of the one seam, so pictures are heard in pictures, clips and score distillation. Keys and values go
to the attentions with each call; what is put into the network itself has no weights. The row without words of guidance
hears no picture, as was trained: zeros, or what the tower makes of zeros. Image tokens never stand among the words, so
ControlNets and the camera token do not take them for any.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import ImageProjection, IPAdapterFullImageProjection, IPAdapterPlusImageProjection
from torch import Tensor, nn
from torch.nn import functional as F

from core2d.adapters.adaptable import Drawing, prior_of
from core2d.app.errors import InputError
from core2d.prior.base import LatentPrior
from core2d.prior.condition import INSTEAD, Condition, Inputs
from core2d.prior.image_tower import ImageTower

TOKENS = 4  # that the linear projection makes of a picture; stock readers know no other number
STRONGEST = 10.0  # that a picture counts; beyond 1 or so words are hardly heard
HEARD = "ip_hidden_states"  # what attention processors are told of pictures; diffusers lets it pass to those that ask
Projection = ImageProjection | IPAdapterPlusImageProjection | IPAdapterFullImageProjection


# -- the network ---------------------------------------------------------------------------------------------------


class KeysValues(nn.Module):
    """Keys and values of image tokens, for one cross-attention."""

    def __init__(self, context_dim: int, width: int) -> None:
        super().__init__()
        self.to_k_ip, self.to_v_ip = (nn.Linear(context_dim, width, bias=False) for _ in range(2))


class IPAdapterModel(nn.Module):
    """What is trained: the projection of what the tower sees, and keys and values for each cross-attention of a UNet.

    Args:
        image_proj: of one of the classes of diffusers.
        widths: of the cross-attentions, down, up, then the middle: the order in which files count them.
        context_dim: of a token.
    """

    def __init__(self, image_proj: Projection, widths: Sequence[int], context_dim: int) -> None:
        super().__init__()
        self.image_proj = image_proj
        self.ip_adapter = nn.ModuleList(KeysValues(context_dim, width) for width in widths)
        self.widths, self.context_dim = tuple(widths), context_dim

    @property
    def reads(self) -> Literal["embedding", "patches"]:
        """What of a picture it is told: the embedding of all of it, or the tokens of its patches (Plus, full face)."""
        return "embedding" if isinstance(self.image_proj, ImageProjection) else "patches"

    @property
    def seen_width(self) -> int:
        """Numbers of an embedding, or of the token of a patch."""
        first: Any = {
            ImageProjection: lambda one: one.image_embeds,
            IPAdapterPlusImageProjection: lambda one: one.proj_in,
            IPAdapterFullImageProjection: lambda one: one.ff.net[0].proj,
        }[type(self.image_proj)](self.image_proj)
        return first.in_features

    def forward(self, seen: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(r, e) embeddings or (r, p, d) patches -> keys and values (r, n, width) of each cross-attention."""
        tokens = self.image_proj(seen)  # (r, n, context)
        return [(layer.to_k_ip(tokens), layer.to_v_ip(tokens)) for layer in self.ip_adapter]  # pyright: ignore


def fresh_ip_adapter(prior: LatentPrior, tower: ImageTower, tokens: int = TOKENS) -> IPAdapterModel:
    """An adapter to train, with the linear projection: to the bit it changes nothing yet.

    Keys begin as those of words, as in the paper. So do its values there, which disturbs what the prior draws from the
    first step on; here they begin as zero.

    Raises:
        InputError: the prior's network is no UNet.
    """
    places = cross_attentions(prior.denoiser)
    context: Any = prior.denoiser.config["cross_attention_dim"]  # pyright: ignore[reportArgumentType, reportIndexIssue]
    projection = ImageProjection(tower.embedding_width, context, tokens)
    model = IPAdapterModel(projection, [place.inner_dim for place in places], context)
    with torch.no_grad():
        for layer, place in zip(model.ip_adapter, places, strict=True):
            layer.to_k_ip.weight.copy_(place.to_k.weight)  # pyright: ignore
            nn.init.zeros_(layer.to_v_ip.weight)  # pyright: ignore
    return model


def cross_attentions(network: nn.Module) -> list[Attention]:
    """Those of a UNet to words, flat or lifted into time: down, up, then the middle.

    Raises:
        InputError: it is no UNet.
    """
    if not hasattr(network, "down_blocks"):
        raise InputError("an IP-Adapter joins the cross-attentions of a UNet, and this model is a transformer")
    found = [(name, module) for name, module in network.named_modules()
             if name.endswith(".attn2") and "motion_modules" not in name]  # fmt: skip
    order = ("down_blocks", "up_blocks", "mid_block")
    return [module for _, module in sorted(found, key=lambda one: order.index(one[0].partition(".")[0]))]  # pyright: ignore


# -- the adapter ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Heard:
    """What the cross-attentions hear of one picture.

    Attributes:
        keys_values: for each, (r, n, width) both.
        scale: how much it counts.
        mask: (r, 1, H, W) in [0, 1], where it counts; None is everywhere.
        size: height and width of the latents.
    """

    keys_values: list[tuple[Tensor, Tensor]]
    scale: float
    mask: Tensor | None
    size: tuple[int, int]

    def mask_of(self, positions: int) -> Tensor:
        """(r, positions, 1), at as many positions as this level of the UNet has; bicubic, as in diffusers."""
        assert self.mask is not None
        height, width = self.size
        while height * width > positions:
            height, width = (height + 1) // 2, (width + 1) // 2  # as its convolutions of stride two do
        return F.interpolate(self.mask, (height, width), mode="bicubic").flatten(2).transpose(1, 2)


class ImageAttention:
    """A processor of one cross-attention: what the one before makes of the words, and what is heard of pictures."""

    def __init__(self, words: Any, place: int) -> None:
        self.words, self.place = words, place

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        ip_hidden_states: Sequence[Heard] = (),
    ) -> Tensor:
        """(r, positions, width) -> the same; the output projection is linear, so each part may go through it alone."""
        output = self.words(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        if not ip_hidden_states:
            return output
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))  # (r heads, positions, d)
        for picture in ip_hidden_states:
            key, value = (attn.head_to_batch_dim(part) for part in picture.keys_values[self.place])  # (r heads, n, d)
            heard = attn.batch_to_head_dim(attn.get_attention_scores(query, key) @ value)  # (r, positions, width)
            if picture.mask is not None:
                heard = heard * picture.mask_of(heard.shape[1])
            projected = F.linear(heard, attn.to_out[0].weight)
            output = output + picture.scale * projected / attn.rescale_output_factor
        return output


def put_into(network: nn.Module) -> None:
    """Let the cross-attentions of a network listen to pictures; nothing changes while there are none."""
    for place, attention in enumerate(cross_attentions(network)):
        if not isinstance(attention.processor, ImageAttention):
            attention.processor = ImageAttention(attention.processor, place)  # pyright: ignore[reportAttributeAccessIssue]


class IPAdapter(nn.Module):
    """One image prompt as an adapter of a prior (`core2d.prior.condition.Changing`); those of several add up.

    Args:
        model: frozen, but for a training.
        name: what the prompt is called in `Condition.extra`: (r, e) embeddings or (r, p, d) patches, by `model.reads`.
            Under `mask_name(name)` it may be told a mask (r, 1, H, W) in [0, 1] of where the picture counts, which is
            stretched over what is drawn.
        scale: how much it counts; at 0 nothing changes, to the bit.

    Raises:
        InputError: a scale that is out of its range.
    """

    def __init__(self, model: IPAdapterModel, name: str = "image", scale: float = 1.0) -> None:
        super().__init__()
        if not (math.isfinite(scale) and abs(scale) <= STRONGEST):
            raise InputError(f"an image prompt cannot count {scale}: give a number such as 0.6, up to {STRONGEST:g}")
        self.model, self.name, self.scale = model, name, scale

    def change(self, network: nn.Module) -> None:
        put_into(network)

    def forward(self, inputs: Inputs, condition: Condition) -> Inputs:
        """What the UNet is given, with what its cross-attentions hear of the picture.

        Raises:
            InputError: no picture is told.
        """
        seen = condition.extra.get(self.name)
        if seen is None:
            raise InputError(f"an IP-Adapter is told no picture: tell it one, such as telling={{{self.name!r}: seen}}")
        if not self.scale:
            return inputs
        mask = condition.extra.get(mask_name(self.name))
        height, width = inputs.x_t.shape[-2:]
        keys_values = self.model(seen.to(inputs.tokens))
        heard = Heard(keys_values, self.scale, None if mask is None else mask.to(inputs.tokens), (height, width))
        before: Sequence[Heard] = inputs.attention.get(HEARD, ())
        return replace(inputs, attention={**inputs.attention, HEARD: (*before, heard)})

    def check_fit(self, prior: LatentPrior) -> None:
        """InputError if it was made for another model than this."""
        wants = tuple(place.inner_dim for place in cross_attentions(prior.denoiser))
        context: Any = prior.denoiser.config["cross_attention_dim"]  # pyright: ignore[reportArgumentType, reportIndexIssue]
        for what, ours, theirs in (("tokens of", self.model.context_dim, context),
                                   ("cross-attentions of", self.model.widths, wants)):  # fmt: skip
            if ours != theirs:
                raise InputError(f"this IP-Adapter is of another model: it has {what} {_short(ours)} channels, and "
                                 f"the model {what} {_short(theirs)}")  # fmt: skip


def mask_name(name: str) -> str:
    """What the mask of an image prompt is called."""
    return f"{name} mask"


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return f"{', '.join(map(str, dict.fromkeys(value)))} ({len(value)} of them)"
    return str(value)


# -- prompts -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImagePrompt:
    """A picture that is asked for, as an adapter is told it.

    Attributes:
        model: of the prior that draws.
        seen: (1, ...) for all that is drawn, or (n, ...) for each sample or frame; see `seen_by`.
        scale: how much it counts.
        mask: (1, H, W), or (n, 1, H, W), in [0, 1], where it counts; None is everywhere.
        nothing: (1, ...) what is seen of no picture; zeros if None.
    """

    model: IPAdapterModel
    seen: Tensor
    scale: float = 1.0
    mask: Tensor | None = None
    nothing: Tensor | None = None


def seen_by(model: IPAdapterModel, tower: ImageTower, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """What an adapter is told of pictures (n, 3, H, W) in [0, 1], (n, ...), and of no picture, (1, ...).

    Raises:
        InputError: the tower is not the one that the adapter was trained with.
    """
    width = tower.embedding_width if model.reads == "embedding" else tower.patch_width
    if width != model.seen_width:
        raise InputError(f"this IP-Adapter is of another image tower: it is told {model.seen_width} numbers of a "
                         f"picture ({model.reads}), and this tower tells {width}")  # fmt: skip
    with torch.no_grad():
        if model.reads == "embedding":
            seen = tower.embed(pictures)  # (n, e)
            return seen, torch.zeros_like(seen[:1])
        return tower.patches(pictures), tower.patches_of_nothing()


def prompted(drawing: Drawing, prompts: Sequence[ImagePrompt]) -> tuple[Drawing, dict[str, Tensor]]:
    """The same prior or pipeline with image prompts, which add up, and what it is to be told by `telling`.

    Raises:
        InputError: an adapter of another model, or numbers that are out of their range.
    """
    prior, adapters = prior_of(drawing), []
    telling: dict[str, Tensor] = {}
    for number, one in enumerate(prompts):
        adapter = IPAdapter(one.model, f"image_{number}", one.scale)
        adapter.check_fit(prior)
        adapters.append(adapter)
        telling |= told(adapter.name, one)
    return drawing.with_adapters(*adapters), telling


def told(name: str, prompt: ImagePrompt) -> Mapping[str, Tensor]:
    """What a condition is told of a prompt of this name: the picture, no picture in its place, and the mask."""
    nothing = torch.zeros_like(prompt.seen[:1]) if prompt.nothing is None else prompt.nothing
    found = {name: prompt.seen, name + INSTEAD: nothing.to(prompt.seen)}
    if prompt.mask is not None:
        found[mask_name(name)] = prompt.mask if prompt.mask.ndim == 4 else prompt.mask[None]
    return found
