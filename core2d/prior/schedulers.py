"""The samplers of diffusers by short names, made for the noise of a model."""

from collections.abc import Mapping
from typing import Any

import diffusers.schedulers
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from core2d.app.errors import InputError
from core2d.files.loading import quiet_libraries
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


def make_scheduler(config: Mapping[str, Any], scheduler: SchedulerMixin | str | None = None) -> Any:
    """A fresh scheduler: by name for the noise of `config`, like a given one, or the one of `config`.

    Args:
        config: content of a model's `scheduler_config.json`.
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
    scheduler_class = getattr(diffusers.schedulers, class_name, None)
    if not (isinstance(scheduler_class, type) and issubclass(scheduler_class, SchedulerMixin)):
        raise InputError(f"the model's scheduler {class_name!r} is none of diffusers'")
    with quiet_libraries():
        return scheduler_class.from_config({**defaults, **config})  # pyright: ignore[reportAttributeAccessIssue]
