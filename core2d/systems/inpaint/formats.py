"""Inpainting models: begun from a prior, read from a diffusers folder, or from a folder that borrows a prior.

A borrowing folder holds what differs from the prior that it names, so it is small:

    liftkit.json          {"borrows": "toybox-sd", "world": "toybox"}: a bundled model, or a folder beside this one
    conv_in.safetensors   `weight` and `bias` of the UNet's first layer, which sees mask and masked picture too
    lora.safetensors      a LoRA of the UNet's other layers, in the style of diffusers

`Inpaint.save_pretrained` writes the whole as an ordinary diffusers folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from core2d.adapters.lora import Lora
from core2d.adapters.lora_files import read_lora, write_lora
from core2d.adapters.options import said_of, with_lora
from core2d.app.errors import InputError
from core2d.app.outputs import write_json
from core2d.app.registry import bundled, resolve
from core2d.files.loading import read_json
from core2d.files.tensors import read_tensors
from core2d.prior.backbone import OURS, Backbone
from core2d.prior.condition import copy_of

CONV_IN, LORA = "conv_in.safetensors", "lora.safetensors"


def load_inpainter(
    name_or_folder: str | Path, device: str | torch.device = "cpu", dtype: str | torch.dtype | None = None
) -> Backbone:
    """A model of either kind, see `Backbone.load`, or one that borrows its prior.

    Raises:
        InputError: as `Backbone.load`; what a folder borrows is not there, or does not fit.
    """
    folder = resolve(name_or_folder)
    lender = lender_of(folder)
    if lender is None:
        return Backbone.load(folder, device, dtype, inpaints=True)
    prior, lora = Backbone.load(lender, device, dtype), read_lora(folder / LORA)
    with said_of(folder):
        return with_lora(with_first_layer(prior, read_tensors(folder / CONV_IN)), lora)


def lender_of(folder: Path) -> Path | None:
    """The prior that a model borrows; None where it has its own.

    Raises:
        InputError: it is not there.
    """
    said = read_json(folder / OURS).get("borrows") if (folder / OURS).is_file() else None
    if said is None:
        return None
    if isinstance(said, str) and Path(said).name == said:  # no path: a model that was sent along reaches nothing else
        beside = folder.resolve().parent / said
        if beside.is_dir() or said in bundled():
            return beside if beside.is_dir() else resolve(said)
    raise InputError(f"{folder / OURS} borrows {said!r}: name a bundled model, or a folder beside {folder}")


def write_borrowing(folder: Path, network: nn.Module, lora: Lora, prior: str, world: str | None) -> None:
    """Write what an inpainting model has beside its prior into a folder, in float16.

    Args:
        network: whose first layer is written.
        lora: of its other layers.
        prior: the name of the prior.
    """
    folder.mkdir(parents=True, exist_ok=True)
    layer: nn.Conv2d = network.conv_in  # pyright: ignore[reportAssignmentType]
    weights = {name: value.detach().to("cpu", torch.float16).contiguous() for name, value in layer.state_dict().items()}
    save_file(weights, folder / CONV_IN, {"format": "pt"})
    write_lora(folder / LORA, lora, "diffusers", torch.float16)
    write_json(folder / OURS, {"borrows": prior} | ({"world": world} if world else {}))


def fresh_inpainter(prior: Backbone) -> Backbone:
    """A prior that takes mask and masked picture and does not hear them yet: it says what the prior says, to the bit.

    Raises:
        InputError: its denoiser is no UNet.
    """
    if not hasattr(prior.denoiser, "conv_in"):
        raise InputError(f"an inpainting model begins as a UNet, and this one is a {type(prior.denoiser).__name__}")
    if prior.takes_mask:
        raise InputError("this model inpaints already: begin with the prior that it began with")
    layer: nn.Conv2d = prior.denoiser.conv_in  # pyright: ignore[reportAssignmentType]
    told = layer.weight.new_zeros(len(layer.weight), prior.latent_channels + 1, *layer.kernel_size)
    weight = torch.cat([layer.weight.detach(), told], dim=1)
    assert layer.bias is not None
    return with_first_layer(prior, {"weight": weight, "bias": layer.bias.detach()})


def with_first_layer(prior: Backbone, weights: Mapping[str, Tensor]) -> Backbone:
    """The same prior as an inpainting model with these weights of its first layer; everything else is shared.

    Raises:
        InputError: weights of another shape.
    """
    network = copy_of(prior.denoiser)
    before: nn.Conv2d = network.conv_in  # pyright: ignore[reportAssignmentType]
    channels = 2 * prior.latent_channels + 1
    wanted = {"weight": (before.out_channels, channels, *before.kernel_size), "bias": (before.out_channels,)}
    if (found := {name: tuple(value.shape) for name, value in weights.items()}) != wanted:
        raise InputError(f"the first layer is of another model: it has {found}, and this prior needs {wanted}")
    layer = nn.Conv2d(channels, before.out_channels, before.kernel_size, padding=before.padding)  # pyright: ignore
    layer.load_state_dict(dict(weights))
    network.conv_in = layer.to(before.weight)
    network.register_to_config(in_channels=channels)  # pyright: ignore[reportCallIssue]
    return Backbone(
        prior.family.with_denoiser(network), prior.vae, prior.scheduler_config, prior.camera_token,
        prior.image_encoder, prior.world, inpaints=True,
    )  # fmt: skip
