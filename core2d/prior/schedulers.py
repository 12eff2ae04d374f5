"""The samplers of diffusers by short names, made for the noise of a model."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers.schedulers
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from core2d.app.errors import InputError
from core2d.files.loading import quiet_libraries, read_json
from core2d.prior.schedule import NoiseSchedule

# Class, and settings for folders whose own scheduler has no such setting. What a folder says comes first.
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "dpm++": ("DPMSolverMultistepScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-a": ("EulerAncestralDiscreteScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
}

# What stock Stable Diffusion pipelines set in the scheduler of a folder, which oldest ones do not say, or say wrongly.
STABLE_DIFFUSION_SETTINGS: dict[str, Any] = {"steps_offset": 1, "clip_sample": False}

_NOISE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")


def read_scheduler_config(folder: Path, noise: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the scheduler of a diffusers folder is, its class and its noise always among it.

    As for stock pipelines, the class is the one in `model_index.json`, where that names one.

    Args:
        folder: of a model, with `scheduler/scheduler_config.json`.
        noise: what a config means that is silent on its noise; by default what its class does then.

    Raises:
        InputError: no config, or one that is not readable.
    """
    config, index = read_json(folder / "scheduler" / "scheduler_config.json"), folder / "model_index.json"
    named = read_json(index).get("scheduler") if index.is_file() else None
    if isinstance(named, list) and len(named) == 2 and isinstance(named[1], str):
        config["_class_name"] = named[1]
    scheduler_class = _class_named(config.get("_class_name"))
    if noise is None and scheduler_class is not None:
        parameters = inspect.signature(scheduler_class).parameters
        noise = {name: parameters[name].default for name in _NOISE if name in parameters}
    return {**(noise or {}), **config}


def make_scheduler(config: Mapping[str, Any], scheduler: SchedulerMixin | str | None = None) -> Any:
    """A fresh scheduler: by name for the noise of `config`, like a given one, or the one of `config`.

    Args:
        config: content of a model's `scheduler_config.json`.

    Raises:
        InputError: a scheduler that is not known or does not fit the model, or settings that it cannot have.
    """
    defaults: dict[str, Any] = {}
    if isinstance(scheduler, str):
        if scheduler not in SCHEDULERS:
            raise InputError(f"unknown scheduler {scheduler!r}: give one of {', '.join(SCHEDULERS)}")
        if NoiseSchedule.from_config(config).is_flow:
            raise InputError(f"scheduler {scheduler!r} does not fit a flow-matching model: leave it to the model")
        class_name, defaults = SCHEDULERS[scheduler]
    elif scheduler is not None:
        class_name, config = type(scheduler).__name__, scheduler.config  # pyright: ignore[reportAttributeAccessIssue]
    else:
        class_name = config.get("_class_name", "")
    scheduler_class = _class_named(class_name)
    if scheduler_class is None:
        raise InputError(
            f"the model's scheduler {class_name!r} is none of diffusers': name one of {', '.join(SCHEDULERS)}"
        )
    try:
        with quiet_libraries():
            return scheduler_class.from_config({**defaults, **config})
    except (ValueError, TypeError, ArithmeticError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"the model's scheduler config does not fit a {class_name}: {reason}") from error


def _class_named(name: Any) -> Any:
    """The scheduler class of diffusers, None if it has none of that name."""
    found = getattr(diffusers.schedulers, name, None) if isinstance(name, str) else None
    return found if isinstance(found, type) and issubclass(found, SchedulerMixin) else None
