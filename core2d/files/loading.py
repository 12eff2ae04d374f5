"""Reading and writing the parts of a diffusers folder: safetensors and JSON, from disk only, never a pickle.

Every model goes through `load_model`: it gives a frozen module in the dtype that was asked for, and says in
one line why a file does not fit instead of filling gaps with random weights.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from core2d.app.errors import InputError
from core2d.app.registry import visible
from core2d.files.manifests import Comparison, Manifest, compare_keys, manifest_of

Model = TypeVar("Model", bound=nn.Module)

# Older transformers stored the tower of a CLIP text model under this prefix; newer ones read both.
TEXT_PREFIX = "text_model."


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; InputError if it is missing or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path.parent} is not a model folder that can be read: it has no {path.name}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} does not hold a JSON object")
    return value


def weights_files(folder: Path) -> tuple[list[Path], str | None]:
    """The safetensors files of one model, and their variant (`fp16`, `bf16`, ...) where there are no plain ones.

    Where there are several variants and no plain files, `fp16` comes before `bf16`, which is coarser. Hidden files, and
    others beside those that the libraries name (`diffusion_pytorch_model`, `model`), do not count.

    Raises:
        InputError: there are none, or only pickled ones, which are not read, or variants of unknown kinds.
    """
    files = {path: _WEIGHTS.fullmatch(path.name) for path in sorted(visible(folder, "*.safetensors"))}
    named = {path: match for path, match in files.items() if match}
    variants: dict[str | None, list[Path]] = {}
    for path, match in (named or files).items():
        variants.setdefault(match and (match["variant"] or match["old_variant"]), []).append(path)
    if variants:
        choice = next((variant for variant in (None, "fp16", "bf16") if variant in variants), next(iter(variants)))
        if choice not in (None, "fp16", "bf16") and len(variants) > 1:
            names = ", ".join(str(variant) for variant in variants)
            raise InputError(f"{folder} holds the weights in several variants ({names}): keep the files of one")
        return variants[choice], choice
    pickled = sorted(path.name for kind in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in visible(folder, kind))
    if pickled:
        raise InputError(f"{folder} holds only the pickle {pickled[0]}, which is not read: convert it to safetensors")
    raise InputError(f"{folder} holds no .safetensors weights")


# A variant stands before the number of a part, or, as older versions of diffusers wrote it, after that.
_WEIGHTS = re.compile(
    r"(diffusion_pytorch_model|model)(\.(?P<variant>[^.]+?))?(-\d+-of-\d+(\.(?P<old_variant>[^.]+))?)?\.safetensors"
)


def read_manifest(files: list[Path]) -> Manifest:
    """Name -> shape of the tensors in safetensors files, from their headers."""
    manifest: Manifest = {}
    for path in files:
        try:
            with safe_open(path, "pt") as file:
                manifest |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} is not a safetensors file, or is damaged: {error}") from error
    return manifest


def load_model(model_class: type[Model], folder: Path, dtype: torch.dtype) -> Model:
    """A model of diffusers or transformers from its folder: frozen, in eval mode, in `dtype` on the CPU.

    Raises InputError if the folder lacks config or safetensors, or if names or shapes differ from what the
    config says.
    """
    read_json(folder / "config.json")
    files, variant = weights_files(folder)
    found = read_manifest(files)
    try:
        with quiet_libraries():
            model, info = model_class.from_pretrained(  # pyright: ignore[reportAttributeAccessIssue]
                folder,
                dtype=dtype,
                variant=variant,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except (ValueError, RuntimeError, OSError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())  # of the libraries, over several lines
        raise InputError(_misfit(model_class, folder, found) or f"{folder} cannot be loaded: {reason}") from error
    if info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"]:
        raise InputError(_misfit(model_class, folder, found) or f"{folder} does not fit its config.json")
    # Some loaders keep single modules in another format (T5's in float32 when asked for float16): as
    # published.
    return model.requires_grad_(False).eval()


def with_weights(module: nn.Module, state: Mapping[str, Tensor], dtype: torch.dtype) -> Any:
    """A module of the meta device with these weights, frozen; nothing is copied that has the dtype."""
    module.load_state_dict({name: tensor.to(dtype) for name, tensor in state.items()}, assign=True)
    tower: Any = getattr(module, "vision_model", None)
    if tower is not None:  # CLIP's has a buffer that is not stored
        embeddings = tower.embeddings
        embeddings.register_buffer("position_ids", torch.arange(embeddings.num_positions)[None], persistent=False)
    return module.requires_grad_(False).eval()


def compare_with_config(model_class: type[nn.Module], folder: Path, found: Manifest) -> Comparison:
    """How the tensors found differ from those of the model that the folder's config describes."""
    config = read_json(folder / "config.json")
    with torch.device("meta"):
        if hasattr(model_class, "load_config"):  # diffusers
            model = model_class.from_config(config)  # pyright: ignore[reportAttributeAccessIssue]
        else:
            model = model_class(model_class.config_class.from_dict(config))  # pyright: ignore[reportAttributeAccessIssue]
    tied = getattr(model, "all_tied_weights_keys", None) or ()  # stored once, under either name
    expected, found = (
        {name.removeprefix(TEXT_PREFIX): shape for name, shape in manifest.items() if name not in tied}
        for manifest in (manifest_of(model), found)
    )
    return compare_keys(expected, found)


def _misfit(model_class: type[nn.Module], folder: Path, found: Manifest) -> str | None:
    """One line on names and shapes that do not fit, or None if they all do (or the config itself is
    broken).
    """
    try:
        with quiet_libraries():
            differences = compare_with_config(model_class, folder, found)
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError):
        return None
    missing, unexpected, mismatched = differences
    parts = [
        f"{len(names)} tensors {what} (such as {names[0]})"
        for names, what in (
            (missing, "missing"),
            (unexpected, "unexpected"),
            (mismatched, "of another shape"),
        )
        if names
    ]
    return f"the weights in {folder} do not fit its config.json: {', '.join(parts)}" if parts else None


def save_model(model: nn.Module, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write a model as its library would: `config.json` and safetensors, floats in `dtype` if one is given.

    Text encoders get `text_model.`-prefixed keys, which every version of transformers and other programs
    read, and a config that says float32: transformers takes the dtype of a bare `from_pretrained` from there,
    so that stock pipelines open a folder of half-precision files in full precision, as diffusers does with
    its own models.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None).contiguous()
        for name, tensor in model.state_dict().items()
    }
    if hasattr(model, "save_config"):  # diffusers
        model.save_config(folder)  # pyright: ignore[reportCallIssue]
        config = read_json(folder / "config.json")
        config.pop("_name_or_path", None)  # the folder that it was loaded from is nobody's business
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        file = "diffusion_pytorch_model.safetensors"
    else:
        model.config.save_pretrained(folder)  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
        config = read_json(folder / "config.json") | {"dtype": "float32"}
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        file = "model.safetensors"
        if type(model).__name__ == "CLIPTextModel":
            state = {TEXT_PREFIX + name.removeprefix(TEXT_PREFIX): tensor for name, tensor in state.items()}
        for tied in getattr(model, "all_tied_weights_keys", None) or ():  # stored once, under the other name
            state.pop(tied, None)
    save_file(state, folder / file, metadata={"format": "pt"})


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep loading bars and reports of the model libraries to themselves: what is wrong is raised, not
    logged.
    """
    from transformers.utils import logging as transformers_logging

    bars = transformers_logging.is_progress_bar_enabled()
    loggers = [logging.getLogger(name) for name in ("transformers", "diffusers")]
    levels = [logger.level for logger in loggers]
    transformers_logging.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()
