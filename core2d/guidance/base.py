"""What a guidance is, and the two steps that every one of them begins and ends with."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core2d.app.errors import InputError
from core2d.prior.base import Prior
from core2d.prior.cameras import Cameras
from core2d.prior.condition import Condition

Info = dict[str, Tensor]  # detached; "t" and "gradient_norm" (b,) of every guidance here
Tell = Callable[[Condition, Tensor, Cameras | None], Condition]  # of images (b, 3, H, W) in [0, 1] and their cameras


class Guidance(Protocol):
    """Says how rendered images should change: the gradient of its loss is the direction.

    A new one either subclasses `ScoreDistillation` and replaces `predict` or `direction`, or is a function from
    `images_for` to `loss_of` of its own.
    """

    def __call__(self, images: Tensor, prompt: str, cameras: Cameras | None, step: int) -> tuple[Tensor, Info]:
        """A scalar loss, and what to log.

        Args:
            images: (b, 3, h, w) in [0, 1], differentiable.
            prompt: what all of them show.
            cameras: from where each is seen: one, or b. None if there is no view, as in a picture.
            step: of the optimisation; all randomness is a function of the seed and the step.
        """
        ...


@runtime_checkable
class Learning(Protocol):
    """A guidance with state: networks that learn beside the field, such as the LoRA of variational score distillation
    (2305.16213). The run trains, saves and resumes them with the field.

    Attributes:
        learner: what learns; its parameters get their gradient from `learner_loss` alone.
    """

    learner: nn.Module

    def learner_loss(self, images: Tensor, prompt: str, cameras: Cameras | None, step: int) -> Tensor:
        """A scalar; arguments as for a guidance, the images without gradient."""
        ...


def images_for(prior: Prior, images: Tensor, step: int) -> Tensor:
    """(b, 3, H, W) images of about as many pixels as the prior was trained on, made of (b, 3, h, w); differentiable.

    Square ones get its own size; others keep their aspect, as far as the autoencoder's factor lets them.

    Raises:
        ValueError: another shape.
        InputError: an image is not finite.
    """
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(f"guidance needs images (b, 3, h, w), got {tuple(images.shape)}")
    require_finite(images, f"the rendered images of step {step} hold NaN or infinity: lower the learning rate")
    size = size_for(prior, *images.shape[2:])
    if images.shape[2:] == size:
        return images
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)


def size_for(prior: Prior, height: int, width: int) -> tuple[int, int]:
    """Height and width in pixels, multiples of the autoencoder's factor, in the aspect of what is shown."""
    scale, factor = prior.image_size / (height * width) ** 0.5, prior.vae_scale_factor
    tall, wide = (max(1, round(side * scale / factor)) * factor for side in (height, width))
    return tall, wide


def loss_of(values: Tensor, gradient: Tensor) -> Tensor:
    """The scalar 0.5 |z - sg(z - g)|^2 / b, whose gradient by the values z is g / b for a given g; both (b, c, h, w).

    It is written as g (z - sg(z)) + 0.5 |g|^2, which has the same value and gradient but does not lose the low bits
    of a small g in z - g.
    """
    gradient = gradient.detach()
    still = values - values.detach()  # zero, with the derivative of the values
    return (gradient * still + 0.5 * gradient.square()).sum() / len(values)


def require_finite(values: Tensor, message: str) -> None:
    """InputError with the message if there is a NaN or an infinity."""
    if not torch.isfinite(values).all():
        raise InputError(message)
