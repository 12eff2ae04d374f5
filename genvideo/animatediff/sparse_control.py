"""SparseCtrl (Guo et al. 2023, 2311.16933): an encoder that tells published motion modules what some frames show.

    control = read_sparse_control("v3_sd15_sparsectrl_rgb.ckpt")
    pipeline = AnimateDiff(prior, control=control)
    clip = pipeline("a sleeping dog", given={0: picture, -1: another}).frames[0]

It is a ControlNet with motion modules of one attention each. The noisy clip is hidden from it: it sees the given
frames, zeros in place of the others, and a mask that tells them apart (section 3.2). The class is that of diffusers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.models.controlnets.controlnet_sparsectrl import SparseControlNetModel
from safetensors.torch import save_file
from torch import Tensor, nn

from core2d.app.errors import InputError
from core2d.app.outputs import atomic_path, write_json
from core2d.files.loading import load_model, quiet_libraries, read_json, save_model
from core2d.files.manifests import Comparison
from core2d.files.motion_names import to_diffusers, to_original_name, window_of
from core2d.files.tensors import read_tensors
from core2d.prior.base import LatentPrior
from core2d.prior.condition import Condition, Inputs
from core2d.prior.rows import as_clips
from genvideo.animatediff.formats import (
    CHANNELS,
    OURS,
    Facts,
    Style,
    built,
    check_division,
    facts_from,
    settings,
    settings_in,
)
from genvideo.animatediff.norms import norms_of, see_frames

GIVEN_FRAMES = "given_frames"  # what a condition holds for it, see `SparseControl.told`
LAST_NAME = "controlnet_mid_block.weight"  # whatever stands before it in a file stands before all names


@dataclass(frozen=True)
class SparseControl:
    """An encoder and what is known of it: an adapter of a lifted prior (`core2d.prior.condition.Adapter`).

    Attributes:
        model: frozen, in eval mode.
        report: how the tensors found differ from what it needs; nothing missing or of another shape.
        matched: how many tensors were taken.
        scale: of what it adds.
    """

    model: SparseControlNetModel
    report: Comparison = field(default_factory=lambda: Comparison([], [], []))
    matched: int = 0
    scale: float = 1.0

    @property
    def takes_latents(self) -> bool:
        """Whether frames are given as latents (the RGB encoder); otherwise as pictures (scribbles)."""
        return self.model.use_simplified_condition_embedding

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move it."""
        with quiet_libraries():  # diffusers warns that it keeps some layers in float32, of which it has none
            self.model.to(device, dtype)  # pyright: ignore[reportArgumentType]

    def check_fit(self, unet: nn.Module) -> None:
        """InputError if it was made for another UNet than this."""
        for name in ("in_channels", "block_out_channels", "layers_per_block", "cross_attention_dim"):
            has, wants = (_plain(model.config[name]) for model in (self.model, unet))  # pyright: ignore
            if has != wants:
                raise InputError(f"the SparseCtrl encoder was made for a UNet with {name} {has}, and this has {wants}")

    def __call__(self, inputs: Inputs, condition: Condition) -> Inputs:
        """What the UNet is given, with what the encoder adds; as it was where no frames are told."""
        told = condition.extra.get(GIVEN_FRAMES)
        if told is None:
            return inputs
        frames = inputs.frames
        seen = as_clips(told.to(inputs.x_t), frames)  # (b, c + 1, f, H, W)
        skips, middle = self.model(
            as_clips(inputs.x_t, frames), inputs.t[::frames], encoder_hidden_states=inputs.tokens,
            controlnet_cond=seen[:, :-1], conditioning_mask=seen[:, -1:], conditioning_scale=self.scale,
            return_dict=False,
        )  # fmt: skip
        return inputs.with_residuals(tuple(skips), middle)

    def told(self, prior: LatentPrior, given: Mapping[int, Tensor], shape: tuple[int, ...]) -> Tensor:
        """What a condition holds of given frames under the name `GIVEN_FRAMES`: (f, c + 1, H, W), a row for each frame
        of one clip; the last channel says which are given.

        Args:
            prior: whose autoencoder encodes the frames.
            given: pictures (3, H, W) in [0, 1] by the frame that they are of, from 0.
            shape: (b, c, f, h, w) of the clips' latents.
        """
        frames, (height, width) = shape[2], shape[3:]
        if not self.takes_latents:
            height, width = height * prior.vae_scale_factor, width * prior.vae_scale_factor
        rows = torch.zeros(frames, (shape[1] if self.takes_latents else 3) + 1, height, width)
        for index, picture in given.items():
            seen = prior.encode_images(picture[None].float()) if self.takes_latents else picture[None].float()
            rows[index, :-1], rows[index, -1] = seen[0].to(rows), 1.0
        return rows


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
        config = read_json(path / "config.json")
        name = config.get("_class_name", "model without a name")
        if name != "SparseControlNetModel":
            raise InputError(f"{path} holds a {name}, not a SparseCtrl encoder")
        heads = config.get("num_attention_heads") or config.get("attention_head_dim", 8)
        channels, groups = config.get("block_out_channels", CHANNELS), config.get("norm_num_groups", 32)
        check_division(path / "config.json", channels, heads, groups)
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
    found = to_diffusers(state)
    told = settings_in(path)
    try:
        config = config_of(found, window_of(state) or 32, heads or told.get("heads", 8))
        config |= {"norm_num_groups": told["groups"]} if "groups" in told else {}
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(f"{path} holds no complete SparseCtrl encoder: {error} is missing") from None
    check_division(path, config["block_out_channels"], config["attention_head_dim"], config["norm_num_groups"])
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
