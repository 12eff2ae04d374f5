"""What each loader takes of a file, what it would drop, and whether it would say so.

`liftkit`       our readers, given stand-ins
`diffusers`     the stock loaders, given stand-ins (`core2d.systems.verify.stock`)
`kohya/ComfyUI` names alone: how many are written as these programs write them
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from core2d.adapters.controlnet_files import PREFIX, controlnet_of
from core2d.adapters.lora import Lora
from core2d.adapters.lora_files import ALPHA, FACTOR, lora_of
from core2d.adapters.lora_names import KOHYA, place_of
from core2d.app.errors import InputError
from core2d.files.manifests import manifest_of
from core2d.files.motion_names import PLACE, config_of, to_diffusers, window_of
from core2d.systems.verify import stock
from core2d.systems.verify.bases import Base, base_at, bases
from core2d.systems.verify.contents import Contents
from core2d.systems.verify.kinds import Kind
from core2d.systems.verify.stock import Arrived, Scales, asked

SAME_SCALE = 1e-4  # relative; alphas may be stored in half precision
NAMED = {  # how names begin in the layouts that these programs write
    "ControlNet": re.compile(rf"(?:{re.escape(PREFIX)})?(?:input_hint_block|input_blocks|middle_block(?:_out)?|"
                             r"time_embed|zero_convs|label_emb)\."),
    "motion modules": re.compile(r".*\.temporal_transformer\."),
    "checkpoint": re.compile(r"(?:model\.diffusion_model|first_stage_model|cond_stage_model|conditioner)\."),
    "UNet": re.compile(r"(?:input_blocks|middle_block|output_blocks|time_embed|label_emb|out)\."),
    "VAE": re.compile(r"(?:first_stage_model\.)?(?:(?:en|de)coder\.(?:down\.|up\.|mid\.|conv|norm)|"
                      r"(?:post_)?quant_conv\.)"),
    "low-rank change of another kind": re.compile("|".join(KOHYA)),
}  # fmt: skip
# What nothing computes with when pictures are drawn: noise schedules that samplers make anew, counters, the layer of
# OpenCLIP-H behind the one that SD 2.x reads, what only training needed, and sines.
IDLE = re.compile(
    r"(?:betas|alphas_cumprod(?:_prev)?|sqrt_\w+|log_one_minus_alphas_cumprod|posterior_\w+|logvar|lvlb_weights"
    r"|scale_factor|model_ema\.(?:decay|num_updates))"
    r"|.*\bposition_ids|.*\blogit_scale|cond_stage_model\.model\.(?:transformer\.resblocks\.23\..*|text_projection)"
    r"|(?:first_stage_model\.)?loss\..*|.*\.pos_encoder\.pe|.*\.pos_embed\.pe"
)


@dataclass(frozen=True)
class Answer:
    """What one loader does with a file.

    Attributes:
        taken: how many tensors it takes.
        dropped: names that it does not take, of those that something computes with.
        idle: how many others it does not take, which nothing computes with.
        error: why it refuses the file: then nothing is lost silently.
        says_so: whether it tells what it drops.
        rescaled: layers of a LoRA that it applies with another scale than the file says: name, that, and this.
    """

    taken: int = 0
    dropped: tuple[str, ...] = ()
    idle: int = 0
    error: str | None = None
    says_so: bool = False
    rescaled: tuple[tuple[str, float, float], ...] = ()

    @property
    def loses_silently(self) -> bool:
        """Whether somebody would think that all of the file counts, and it does not."""
        return self.error is None and not self.says_so and bool(self.dropped or self.rescaled)


def answers(contents: Contents, kind: Kind, model: str | None) -> tuple[dict[str, Answer], dict[str, Any]]:
    """What each loader does, by its name, and what else has been found out on the way."""
    if kind.name == "LoRA":
        return _of_lora(contents, model)
    found = {"liftkit": ours(contents, kind), "diffusers": theirs(contents, kind, model)}
    return found | _named(contents, kind), {}


def answer_of(contents: Contents, found: Arrived, says_so: bool = False, scales: Scales | None = None) -> Answer:
    """What a loader did, told as what it left."""
    if found.error is not None:
        return Answer(error=found.error)
    left = [name for name in contents.shapes if name not in found.names]
    dropped = tuple(name for name in left if not IDLE.fullmatch(name))
    rescaled = tuple(
        (".".join(place), said, found.scales[place])
        for place, said in (scales or {}).items()
        if place in found.scales and abs(found.scales[place] - said) > SAME_SCALE * abs(said)
    )
    taken = len(contents.shapes) - len(left)
    return Answer(taken, dropped, len(left) - len(dropped), None, says_so, rescaled)


# -- LoRA ----------------------------------------------------------------------------------------------------------


def _of_lora(contents: Contents, model: str | None) -> tuple[dict[str, Answer], dict[str, Any]]:
    base, fitting, count = base_of(contents, model)
    facts: dict[str, Any] = {"made_for": base.name if fitting == count else None}
    if fitting < count:
        facts["fits"] = f"{fitting} of {count} layers are layers of {base.name}"
    lora: Lora | None = None
    try:
        lora = lora_of(contents.path, contents.stand_ins())
        _check_fit(lora, base)
        mine = Answer(len(contents.shapes))
    except InputError as error:
        mine = Answer(error=str(error))
    scales = {(part, name): layer.scale for part, name, layer in lora.named()} if lora else {}
    if scales:
        told = {FACTOR.fullmatch(name) or ALPHA.fullmatch(name) for name in contents.shapes}
        alphas = {found["layer"] for found in told if found and found["factor"] == "alpha"}
        values = list(scales.values())
        facts["scale"] = {"min": min(values), "median": median(values), "max": max(values),
                          "layers": len(values), "without_alpha": len(values) - len(alphas)}  # fmt: skip
    found = asked(lambda: stock.lora(contents, base))
    if found.error is None:
        layers = {match["layer"] for name in found.names if (match := FACTOR.fullmatch(name))}
        alphas = {name for name in contents.shapes if (match := ALPHA.fullmatch(name)) and match["layer"] in layers}
        found = Arrived(found.names | alphas, None, found.scales)
    written = [name for name in contents.shapes if name.startswith(tuple(KOHYA))]
    by_name = answer_of(contents, Arrived(set(written)), says_so=True)
    return {"liftkit": mine, "diffusers": answer_of(contents, found, scales=scales), "kohya/ComfyUI": by_name}, facts


def base_of(contents: Contents, model: str | None) -> tuple[Base, int, int]:
    """The model that most layers of a LoRA fit into, how many do, and how many there are."""
    layers: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in contents.shapes.items():
        if found := FACTOR.fullmatch(name):
            half = {"A": "down", "B": "up"}.get(found["factor"], found["factor"])
            layers.setdefault(found["layer"], {})[half] = shape
    fits = []
    for base in [base_at(model)] if model else bases():
        fits.append((base, sum(_fits(base, layer, halves) for layer, halves in layers.items())))
        if fits[-1][1] == len(layers):
            break
    base, fitting = max(fits, key=lambda pair: pair[1])
    return base, fitting, len(layers)


def _fits(base: Base, layer: str, halves: Mapping[str, tuple[int, ...]]) -> bool:
    place = place_of(layer)
    weight = base.shapes.get(place[0], {}).get(f"{place[1]}.weight") if place else None
    if weight is None or not {"down", "up"} <= halves.keys():
        return False
    return weight == (halves["up"][0], *halves["down"][1:])


def _check_fit(lora: Lora, base: Base) -> None:
    """InputError, as our reader's user would get one, where a layer is not of the model."""
    for part, name, change in lora.named():
        if base.shapes.get(part, {}).get(f"{name}.weight") != change.shape:
            raise InputError(f"this LoRA is of another model than {base.name}: it changes {part}.{name}")


# -- everything else -----------------------------------------------------------------------------------------------


def ours(contents: Contents, kind: Kind) -> Answer:
    """What our readers do."""
    readers: dict[str, Callable[[Contents], Answer]] = {
        "ControlNet": _our_controlnet, "motion modules": _our_motion, "LoRA of motion modules": _our_motion_lora,
    }  # fmt: skip
    if kind.name not in readers:
        folders = ("checkpoint", "UNet", "VAE", "text encoder", "transformer")
        hint = ": give a folder of diffusers" if kind.name in folders else ""
        return Answer(error=f"does not read a {kind.name} from a file{hint}")
    try:
        return readers[kind.name](contents)
    except InputError as error:
        return Answer(error=str(error))


def _our_controlnet(contents: Contents) -> Answer:
    model = controlnet_of(contents.path, contents.stand_ins())
    return answer_of(contents, Arrived(contents.arrived(model.state_dict().values())))


def _our_motion(contents: Contents) -> Answer:
    """By names, since their reader stands above; it says on stderr what it leaves."""
    state = contents.stand_ins()
    found = to_diffusers(state)
    try:
        model = stock.on_meta_motion(config_of(found, window_of(state) or 32, 1))
    except IndexError as error:
        raise InputError(f"{contents.path} holds no complete motion modules: {error}") from None
    needed = manifest_of(model)
    short = next((name for name, shape in needed.items() if ".pos_embed." not in name
                  and (name not in found or found[name].shape != shape)), None)  # fmt: skip
    if short is not None:
        raise InputError(f"{contents.path} holds no complete motion modules: it lacks {short}")
    return answer_of(contents, Arrived(contents.arrived(found[name] for name in needed if name in found)), says_so=True)


def _our_motion_lora(contents: Contents) -> Answer:
    names = {name for name in contents.shapes if PLACE.search(name) and FACTOR.fullmatch(name)}
    left = [name for name in contents.shapes if name not in names and not ALPHA.fullmatch(name)]
    if left:
        return Answer(error=f"holds {left[0]}, which is no factor of a layer of a motion module")
    return Answer(len(contents.shapes))


def theirs(contents: Contents, kind: Kind, model: str | None) -> Answer:
    """What stock diffusers does."""
    readers: dict[str, Callable[[Contents], Arrived]] = {
        "ControlNet": stock.controlnet, "motion modules": stock.motion, "checkpoint": stock.checkpoint,
        "UNet": stock.unet, "VAE": stock.vae, "textual inversion": stock.textual_inversion,
        "LoRA of motion modules": stock.motion_lora,
    }  # fmt: skip
    if kind.name == "low-rank change of another kind":
        base, _, _ = base_of(contents, model)
        return answer_of(contents, asked(lambda: stock.lora(contents, base)))
    if kind.name == "IP-Adapter":
        named = [base for base in bases() if base.name == kind.made_for]
        base = base_at(model) if model else next(iter(named), None)
        if base is None:
            return Answer(error="not tried: for which model it is, is not known; name it by --model")
        return answer_of(contents, asked(lambda: stock.ip_adapter(contents, base)))
    if kind.name not in readers:
        return Answer(error=f"has no reader of a single file of this kind ({kind.name})")
    return answer_of(contents, asked(lambda: readers[kind.name](contents)))


def _named(contents: Contents, kind: Kind) -> dict[str, Answer]:
    """How many names are those of the original layouts, which these programs write; none for kinds that have one
    layout.
    """
    if kind.name not in NAMED:
        return {}
    named = {name for name in contents.shapes if NAMED[kind.name].match(name)}
    return {"kohya/ComfyUI": answer_of(contents, Arrived(named), says_so=True)}
