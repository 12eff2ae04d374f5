"""Files of DiT and PixArt, read and written in the layouts of diffusers and of the authors.

    model = read_pixart("PixArt-XL-2-1024-MS.pth")  # or a folder of diffusers, or of ours
    write_pixart(Path("mine"), model)  # a folder of diffusers
    write_pixart(Path("mine.safetensors"), model, "original")

`diffusers`  `transformer_blocks.0.attn1.to_q.weight`; the config stands beside it
`original`   `blocks.0.attn.qkv.weight`; there is no config, so it is found from shapes

What shapes do not tell is as published: heads are 72 wide in models of 1152, 64 in others. Size and scale of positions
are read from `pos_embed`. A file that was written here says all in its metadata. Our own folders (`save_model`) have
the names of the original layout.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from safetensors.torch import save_file
from torch import Tensor

from core2d.app.errors import InputError
from core2d.app.outputs import atomic_path
from core2d.files.loading import load_model, read_json, save_model
from core2d.files.manifests import Manifest, compare_keys, manifest_of
from core2d.files.tensors import read_settings, read_tensors
from core2d.transformer.blocks import sincos_positions
from core2d.transformer.dit import SIZES, DiT
from core2d.transformer.layouts import (
    dit_from_diffusers,
    dit_to_diffusers,
    pixart_from_diffusers,
    pixart_to_diffusers,
    positions_of,
    with_state,
)
from core2d.transformer.pixart import PixArt

Style = Literal["diffusers", "original"]
SETTINGS = "transformer_config"  # in the metadata of a .safetensors file that was written here
POSITIONS = "pos_embed"
HEADS = {size["dim"]: size["heads"] for size in SIZES.values()}


def read_dit(path: str | Path, frequency_shift: float = 1.0) -> DiT:
    """Read a DiT: a folder of diffusers or ours, or a file of the original layout (.pt through the allow-list reader).

    Args:
        frequency_shift: of a folder of diffusers, see `dit_from_diffusers`.

    Returns:
        float32, frozen, in eval mode.

    Raises:
        InputError: nothing there, a damaged file, or anything but one whole DiT of finite numbers.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        if _class_of(path, "DiT", "DiTTransformer2DModel") == "DiT":
            return load_model(DiT, path, torch.float32)
        return dit_from_diffusers(load_model(DiTTransformer2DModel, path, torch.float32), frequency_shift)
    return _read_original(path, DiT, dit_config_of)


def read_pixart(path: str | Path, sample_size: int | None = None) -> PixArt:
    """Read a PixArt: a folder of diffusers or ours, or a file of the original layout (.pth through the allow-list
    reader).

    Args:
        sample_size: side of the latents that it was trained on, for a file that does not tell.

    Returns:
        float32, frozen, in eval mode.

    Raises:
        InputError: nothing there, a damaged file, or anything but one whole PixArt of finite numbers.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        if _class_of(path, "PixArt", "PixArtTransformer2DModel", "Transformer2DModel") == "PixArt":
            return load_model(PixArt, path, torch.float32)
        return pixart_from_diffusers(load_model(PixArtTransformer2DModel, path, torch.float32))
    return _read_original(path, PixArt, lambda shapes, places: pixart_config_of(shapes, places, sample_size))


def write_dit(path: Path, model: DiT, style: Style = "diffusers", dtype: torch.dtype | None = None) -> None:
    """Write a DiT, whole or not at all: a folder for `diffusers`, a .safetensors file for `original`.

    Args:
        dtype: of the tensors; as they are by default.

    Raises:
        InputError: another suffix, or a model that the layout has no place for.
    """
    if style == "diffusers":
        with atomic_path(path) as folder:
            save_model(dit_to_diffusers(model), folder, dtype)
    else:
        _write_original(path, model, dtype)


def write_pixart(path: Path, model: PixArt, style: Style = "diffusers", dtype: torch.dtype | None = None) -> None:
    """The same of a PixArt; diffusers has no place for what stands for no caption."""
    if style == "diffusers":
        with atomic_path(path) as folder:
            save_model(pixart_to_diffusers(model), folder, dtype)
    else:
        _write_original(path, model, dtype)


def _class_of(folder: Path, *known: str) -> str:
    name = read_json(folder / "config.json").get("_class_name", "model without a name")
    if name not in known:
        raise InputError(f"{folder} holds a {name}: it is to be a {' or a '.join(known)}")
    return name


# -- the original layout -------------------------------------------------------------------------------------------


def _read_original(path: Path, kind: Any, config_of: Callable[[Manifest, Tensor | None], dict[str, Any]]) -> Any:
    name = kind.__name__
    if not path.is_file():
        raise InputError(f"no {name} at {path}: give a folder, or a file such as model.safetensors")
    state = {key: tensor.float() for key, tensor in read_tensors(path).items()}
    places = state.pop(POSITIONS, None)  # (1, n, d)
    found: Manifest = {key: tuple(tensor.shape) for key, tensor in state.items()}
    try:
        config = read_settings(path, SETTINGS) or config_of(found, places)
        with torch.device("meta"):
            wanted = manifest_of(kind(**config))
    except InputError as error:
        raise InputError(f"{path} holds no {name} that is known here: {error}") from None
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise InputError(f"{path} holds no whole {name}: {error}") from None
    missing, unexpected, mismatched = compare_keys(wanted, found)
    for names, what in ((missing, "lacks"), (unexpected, "also holds"), (mismatched, "has another shape of")):
        if names:
            raise InputError(f"{path} holds no {name} that is known here: it {what} {names[0]}")
    broken = next((key for key, tensor in state.items() if not tensor.isfinite().all()), None)
    if broken is not None:
        raise InputError(f"{path} holds numbers that are not finite, in {broken}: it is damaged")
    return with_state(kind, config, state)


def _write_original(path: Path, model: DiT | PixArt, dtype: torch.dtype | None) -> None:
    if path.suffix != ".safetensors":
        raise InputError(f"cannot write {path}: a file of a transformer ends in .safetensors")
    state = {**model.state_dict(), POSITIONS: positions_of(model)}
    ready = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in state.items()}
    said = {name: value for name, value in model.config.items() if not name.startswith("_")}
    with atomic_path(path) as temporary:
        save_file(ready, temporary, metadata={"format": "pt", SETTINGS: json.dumps(said)})


def dit_config_of(shapes: Mapping[str, tuple[int, ...]], places: Tensor | None) -> dict[str, Any]:
    """The config of the DiT whose tensors have these names of the authors and shapes, and these positions (1, n, d).

    Raises:
        KeyError, IndexError: these are not the tensors of a DiT.
        InputError: they are, of one that is not known.
    """
    config, answers = _shape(shapes)
    if places is None:
        raise InputError("it lacks pos_embed, which tells its size")
    side, scale = _side_and_scale(places)
    if scale != 1:
        raise InputError(f"its positions lie {scale:g} times finer than those of a DiT")
    return config | {
        "sample_size": side * config["patch_size"],
        "learn_sigma": answers == 2 * config["in_channels"],
        "classes": shapes["y_embedder.embedding_table.weight"][0] - 1,
    }


def pixart_config_of(
    shapes: Mapping[str, tuple[int, ...]], places: Tensor | None, sample_size: int | None = None
) -> dict[str, Any]:
    """The same of a PixArt.

    Positions that are missing or 0 tell no scale (the authors' model of many sizes makes them anew each time): then the
    scale is that of their size, as in diffusers.
    """
    config, answers = _shape(shapes)
    scale = None
    if places is not None and sample_size is None:
        side, scale = _side_and_scale(places)
        sample_size = side * config["patch_size"]
    if sample_size is None:
        raise InputError("it lacks pos_embed, which tells its size: give sample_size, such as 128 for 1024 pixels")
    return config | {
        "sample_size": sample_size,
        "out_channels": answers,
        "caption_dim": shapes["y_embedder.y_proj.fc1.weight"][1],
        "interpolation_scale": float(max(sample_size // 64, 1)) if scale is None else scale,
        "micro_conditions": "csize_embedder.mlp.0.weight" in shapes,
        "null_tokens": shapes.get("y_embedder.y_embedding", (0,))[0],
    }


def _shape(shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, int], int]:
    """Settings of both models, and the channels of their answers."""
    dim, channels, patch, _ = shapes["x_embedder.proj.weight"]
    depth = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    heads = HEADS.get(dim, max(dim // 64, 1))
    settings = {"patch_size": patch, "in_channels": channels, "dim": dim, "depth": depth, "heads": heads}
    return settings, shapes["final_layer.linear.weight"][0] // patch**2


def _side_and_scale(places: Tensor) -> tuple[int, float | None]:
    """Patches along a side of positions (1, n, d), and how fine they lie; None where all are 0.

    Raises:
        InputError: they are not those of a square in sines and cosines.
    """
    count, dim = places.shape[-2:]
    side = math.isqrt(count)
    if not places.any():
        return side, None
    table = places.reshape(count, dim).float()
    scale = 1.0
    if side > 1:  # the second patch lies at 1 / scale, of which the first frequency has sine and cosine
        scale = 1 / math.atan2(float(table[1, 0]), float(table[1, dim // 4]))
        scale = round(scale * 8) / 8 or scale  # files of few bits
    if side**2 != count or not torch.allclose(sincos_positions(side, side, dim, side, scale), table, atol=1e-2):
        raise InputError("its positions are not the sines and cosines of a square")
    return side, scale
