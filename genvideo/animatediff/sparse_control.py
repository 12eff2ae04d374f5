"""SparseCtrl (Guo et al. 2023, 2311.16933): an encoder that tells published motion modules what some frames show.

    control = read_sparse_control("v3_sd15_sparsectrl_rgb.ckpt")
    pipeline = AnimateDiff(prior, control=control)
    clip = pipeline("a sleeping dog", given={0: picture, -1: another}).frames[0]

It is a ControlNet with motion modules of one attention each. The noisy clip is hidden from it: it sees the given
frames, zeros in place of the others, and a mask that tells them apart (section 3.2). The class is that of diffusers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.controlnets.controlnet_sparsectrl import SparseControlNetModel
from safetensors.torch import save_file
from torch import Tensor, nn

from core2d.app.errors import InputError
from core2d.app.outputs import atomic_path, write_json
from core2d.files.loading import load_model, read_json, save_model
from core2d.files.manifests import Comparison
from core2d.prior.backbone import LatentPrior
from genvideo.animatediff.formats import (
    OURS,
    Facts,
    Style,
    built,
    facts_from,
    read_tensors,
    settings,
    settings_in,
    to_diffusers,
    to_original_name,
)
from genvideo.animatediff.norms import norms_of, see_frames

LAST_NAME = "controlnet_mid_block.weight"  # whatever stands before it in a file stands before all names


@dataclass(frozen=True)
class SparseControl:
    """An encoder and what is known of it.

    Attributes:
        model: frozen, in eval mode.
        report: how the tensors found differ from what it needs; nothing missing or of another shape.
        matched: how many tensors were taken.
    """

    model: SparseControlNetModel
    report: Comparison = field(default_factory=lambda: Comparison([], [], []))
    matched: int = 0

    @property
    def takes_latents(self) -> bool:
        """Whether frames are given as latents (the RGB encoder); otherwise as pictures (scribbles)."""
        return self.model.use_simplified_condition_embedding

    def check_fit(self, unet: nn.Module) -> None:
        """InputError if it was made for another UNet than this."""
        for name in ("in_channels", "block_out_channels", "layers_per_block", "cross_attention_dim"):
            has, wants = (_plain(model.config[name]) for model in (self.model, unet))  # pyright: ignore
            if has != wants:
                raise InputError(f"the SparseCtrl encoder was made for a UNet with {name} {has}, and this has {wants}")

    def see(
        self, prior: LatentPrior, given: Mapping[int, Tensor], shape: tuple[int, ...], scale: float = 1.0
    ) -> Controlled:
        """What it sees of a clip whose latents have `shape` (b, c, f, h, w).

        Args:
            prior: whose autoencoder encodes the frames.
            given: pictures (3, H, W) in [0, 1] by the frame that they are of, from 0.
            scale: of what the encoder adds.
        """
        frames, (height, width) = shape[2], shape[3:]
        if not self.takes_latents:
            height, width = height * prior.vae_scale_factor, width * prior.vae_scale_factor
        channels = shape[1] if self.takes_latents else 3
        condition, mask = torch.zeros(1, channels, frames, height, width), torch.zeros(1, 1, frames, height, width)
        for index, picture in given.items():
            seen = prior.encode_images(picture[None].float()) if self.takes_latents else picture[None].float()
            condition[:, :, index], mask[:, :, index] = seen.to(condition), 1.0
        return Controlled(self.model, condition, mask, scale)


@dataclass(frozen=True)
class Controlled:
    """The frames that an encoder sees: condition (1, c, f, h, w), mask (1, 1, f, h, w)."""

    model: SparseControlNetModel
    condition: Tensor
    mask: Tensor
    scale: float

    def window(self, start: int, frames: int) -> Controlled:
        """Some of the frames."""
        part = slice(start, start + frames)
        return replace(self, condition=self.condition[:, :, part], mask=self.mask[:, :, part])

    def residuals(self, clips: Tensor, steps: Tensor, tokens: Tensor) -> dict[str, Any]:
        """What is added within the UNet, as its arguments; clips (b, c, f, h, w), steps (b,), tokens (b f, n, d)."""
        down, middle = self.model(
            clips, steps, encoder_hidden_states=tokens, controlnet_cond=self.condition.to(clips),
            conditioning_mask=self.mask.to(clips), conditioning_scale=self.scale, return_dict=False,
        )  # fmt: skip
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}


def _plain(value: Any) -> Any:
    """One number for a setting that is the same in every block."""
    if isinstance(value, list | tuple):
        return value[0] if len(set(value)) == 1 else list(value)
    return value


# -- files ---------------------------------------------------------------------------------------------------------


def read_sparse_control(path: str | Path, heads: int | None = None) -> SparseControl:
    """Read an encoder: a folder of diffusers, or a file of the authors (.ckpt through the allow-list reader).

    Args:
        heads: of all attention, which no tensor tells; 8 in all published files.

    Raises:
        InputError: nothing there, or something that holds no complete encoder.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        name = read_json(path / "config.json").get("_class_name", "model without a name")
        if name != "SparseControlNetModel":
            raise InputError(f"{path} holds a {name}, not a SparseCtrl encoder")
        model = load_model(SparseControlNetModel, path, torch.float32)
        if (path / OURS).is_file() and facts_from(read_json(path / OURS), path / OURS).norms.motion == "frame":
            see_frames(model)
        return SparseControl(model.requires_grad_(False), matched=len(model.state_dict()))
    if not path.is_file():
        raise InputError(f"no SparseCtrl encoder at {path}: give a folder, or v3_sd15_sparsectrl_rgb.ckpt")
    state = read_tensors(path)
    start = next((name.removesuffix(LAST_NAME) for name in state if name.endswith(LAST_NAME)), None)
    if start is None:
        raise InputError(f"{path} holds no SparseCtrl encoder: no tensor is named {LAST_NAME}")
    state = {name.removeprefix(start): value for name, value in state.items()}
    windows = [value.shape[1] for name, value in state.items() if name.endswith((".pos_encoder.pe", ".pos_embed.pe"))]
    found = to_diffusers(state)
    try:
        told = settings_in(path)
        config = config_of(found, min(windows, default=32), heads or told.get("heads", 8))
        config |= {"norm_num_groups": told["groups"]} if "groups" in told else {}
    except (KeyError, ValueError) as error:
        raise InputError(f"{path} holds no complete SparseCtrl encoder: {error} is missing") from None
    model, report, matched = built(SparseControlNetModel, config, found, f"{path} holds no complete SparseCtrl encoder")
    original = any("temporal_transformer" in name for name in state)
    if facts_from(told["facts"], path).norms.motion == "frame" if "facts" in told else original:
        see_frames(model)
    return SparseControl(model.requires_grad_(False), report, matched)  # norms that were put in, too


def write_sparse_control(path: Path, model: SparseControlNetModel, style: Style = "diffusers") -> None:
    """Write an encoder, whole or not at all: a folder for `diffusers`, a .safetensors file for `original`."""
    if style == "diffusers":
        with atomic_path(path) as folder:
            save_model(model, folder)
            write_json(folder / OURS, asdict(Facts(norms_of(model), "published")))
        return
    if path.suffix != ".safetensors":
        raise InputError(f"cannot write {path}: a file of a SparseCtrl encoder ends in .safetensors")
    state = {}
    for name, value in model.state_dict().items():
        name = name.replace(".pos_embed.pe", ".attn1.pos_encoder.pe")
        state[to_original_name(name)] = value.detach().cpu().contiguous()
    facts = Facts(norms_of(model), "published")
    said = settings(model.config["attention_head_dim"], model.config["norm_num_groups"], facts)
    with atomic_path(path) as temporary:
        save_file(state, temporary, metadata=said)


def config_of(state: Mapping[str, Tensor], window: int, heads: int) -> dict[str, Any]:
    """The config of the encoder that tensors under diffusers' names are of; KeyError where one is missing."""
    blocks = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("down_blocks."))
    channels = tuple(state[f"down_blocks.{i}.resnets.0.conv1.weight"].shape[0] for i in range(blocks))
    attention = [f"down_blocks.{i}.attentions.0.norm.weight" in state for i in range(blocks)]
    simple = "controlnet_cond_embedding.weight" in state
    embedding = "controlnet_cond_embedding"
    seen = state[f"{embedding}.weight" if simple else f"{embedding}.conv_in.weight"]
    convolutions = sum(name.startswith(f"{embedding}.blocks.") and name.endswith("weight") for name in state)
    strided = (state[f"{embedding}.blocks.{index}.weight"] for index in range(1, convolutions, 2))
    widths = (len(seen), *(len(weight) for weight in strided))
    return {
        "in_channels": state["conv_in.weight"].shape[1],
        "conditioning_channels": seen.shape[1] - 1,  # the mask is another
        "down_block_types": tuple("CrossAttnDownBlockMotion" if has else "DownBlockMotion" for has in attention),
        "block_out_channels": channels,
        "layers_per_block": sum(name.startswith("down_blocks.0.resnets.") and name.endswith(".conv1.weight")
                                for name in state),
        "norm_num_groups": 32 if all(width % 32 == 0 for width in channels) else 8,
        "cross_attention_dim": state["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"].shape[1],
        "attention_head_dim": heads,
        "use_linear_projection": state["mid_block.attentions.0.proj_in.weight"].ndim == 2,
        "conditioning_embedding_out_channels": (16, 32, 96, 256) if simple else widths,
        "motion_max_seq_length": window,
        "motion_num_attention_heads": heads,
        "use_simplified_condition_embedding": simple,
    }  # fmt: skip
