"""Noise schedules, and the conversions between what networks predict. Every such formula of the project is
here.

Every diffusion of the project is x_t = alpha_t x0 + sigma_t eps. Variance-preserving checkpoints (SD, PixArt)
have alpha_t = sqrt(abar_t), sigma_t = sqrt(1 - abar_t) at integer steps; flow-matching checkpoints have
alpha_t = 1 - t/T, sigma_t = t/T at real steps. A network predicts one of eps, x0, v = alpha_t eps - sigma_t
x0 (2202.00512), or the flow velocity eps - x0 (2210.02747); `NoiseSchedule.prediction` turns any of them into
all of them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from core2d.app.errors import InputError

PredictionType = Literal["epsilon", "v_prediction", "sample", "flow"]


@dataclass(frozen=True)
class Prediction:
    """What a denoiser says about x_t (b, c, h, w), whatever its network predicts.

    `eps`, `x0`, `v` have the shape of x_t; `alpha_t` and `sigma_t` are (b, 1, 1, 1).
    """

    eps: Tensor
    x0: Tensor
    v: Tensor
    alpha_t: Tensor
    sigma_t: Tensor

    @property
    def flow(self) -> Tensor:
        """The velocity eps - x0 of flow matching."""
        return self.eps - self.x0


class NoiseSchedule:
    """alpha_t and sigma_t of a checkpoint, and what its network predicts.

    Args:
        alphas_cumprod: (T,) of a variance-preserving process, or None for flow matching.
        prediction_type: what the network predicts.
        num_train_timesteps: T; needed for flow matching only.
    """

    def __init__(
        self,
        alphas_cumprod: Tensor | None,
        prediction_type: PredictionType = "epsilon",
        num_train_timesteps: int = 1000,
    ):
        if prediction_type not in get_args(PredictionType):
            raise InputError(f"prediction type {prediction_type!r} is none of {', '.join(get_args(PredictionType))}")
        if (alphas_cumprod is None) != (prediction_type == "flow"):
            raise InputError("a flow-matching checkpoint has no alphas_cumprod, any other one has")
        if prediction_type == "epsilon" and alphas_cumprod is not None and alphas_cumprod[-1] <= 0:
            raise InputError("a schedule that ends in pure noise (zero terminal SNR) cannot predict epsilon: use v")
        self.prediction_type: PredictionType = prediction_type
        self.alphas_cumprod = None if alphas_cumprod is None else alphas_cumprod.double()  # float64: sqrt is exact
        self.num_train_timesteps = num_train_timesteps if alphas_cumprod is None else len(alphas_cumprod)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "NoiseSchedule":
        """The schedule of a diffusers `scheduler_config.json`; InputError if it is of an unknown kind."""
        steps = config.get("num_train_timesteps", 1000)
        if not isinstance(steps, int) or steps < 1:
            raise InputError(f"the scheduler config has num_train_timesteps {steps!r}: write a number such as 1000")
        name = config.get("_class_name", "")
        if not isinstance(name, str):
            raise InputError(f"the scheduler config has _class_name {name!r}: write a name such as DDIMScheduler")
        if "FlowMatch" in name or config.get("prediction_type") == "flow_prediction":
            return cls(None, "flow", steps)
        return cls(alphas_cumprod_from_config(config), config.get("prediction_type", "epsilon"))

    @property
    def is_flow(self) -> bool:
        return self.alphas_cumprod is None

    def alpha_sigma(self, t: int | Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t and sigma_t in the dtype of `like` (b, ...), shaped (b, 1, ...) to multiply it.

        Args:
            t: one step or (b,) steps: in [0, T - 1], or in [0, T] for flow matching. Some samplers (Euler) ask for
                steps between two integers, where alpha_t^2 is interpolated.
        """
        t = torch.as_tensor(t, device=like.device).expand(len(like))  # (b,)
        if self.alphas_cumprod is None:
            sigma = t.double() / self.num_train_timesteps  # (b,)
            alpha = 1 - sigma  # (b,)
        else:
            self.alphas_cumprod = self.alphas_cumprod.to(like.device)
            below = t.long()  # (b,)
            above = (below + 1).clamp(max=self.num_train_timesteps - 1)  # (b,)
            start, end = self.alphas_cumprod[below], self.alphas_cumprod[above]  # (T,) at (b,) -> (b,)
            alpha_squared = start.lerp(end, t.double() - below)  # (b,)
            alpha, sigma = alpha_squared.sqrt(), (1 - alpha_squared).sqrt()  # (b,)
        shape = (len(like),) + (1,) * (like.ndim - 1)
        return alpha.to(like.dtype).view(shape), sigma.to(like.dtype).view(shape)

    def add_noise(self, x0: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
        """x_t = alpha_t x0 + sigma_t noise."""
        alpha, sigma = self.alpha_sigma(t, x0)
        return alpha * x0 + sigma * noise

    def prediction(
        self, output: Tensor, x_t: Tensor, t: int | Tensor, kind: PredictionType | None = None
    ) -> Prediction:
        """Everything that follows from a network's output at x_t; `kind` if it is not what the checkpoint
        predicts.
        """
        kind = kind or self.prediction_type
        alpha, sigma = self.alpha_sigma(t, x_t)
        if kind == "epsilon":
            eps = output
            x0 = (x_t - sigma * eps) / alpha
        elif kind == "sample":
            x0 = output
            eps = (x_t - alpha * x0) / sigma
        elif kind == "v_prediction":  # alpha^2 + sigma^2 = 1
            x0 = alpha * x_t - sigma * output
            eps = sigma * x_t + alpha * output
        else:  # flow: alpha + sigma = 1
            x0 = x_t - sigma * output
            eps = x_t + alpha * output
        return Prediction(eps=eps, x0=x0, v=alpha * eps - sigma * x0, alpha_t=alpha, sigma_t=sigma)

    def output(self, prediction: Prediction) -> Tensor:
        """The part of a prediction that the checkpoint's own network would give: the inverse of
        `prediction`.
        """
        if self.prediction_type == "epsilon":
            return prediction.eps
        if self.prediction_type == "sample":
            return prediction.x0
        return prediction.v if self.prediction_type == "v_prediction" else prediction.flow

    def target(self, x0: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
        """What the network is trained to say at `add_noise(x0, noise, t)`."""
        alpha, sigma = self.alpha_sigma(t, x0)
        return self.output(Prediction(noise, x0, alpha * noise - sigma * x0, alpha, sigma))

    def min_snr_weight(self, t: Tensor, gamma: float = 5.0, floor: float = 0.0) -> Tensor:
        """(b,) weights of the squared error, min(SNR, gamma) on x0 (2303.09556 s3.4); not for flow matching.

        gamma = inf weights x0 by its SNR, which is the plain loss on epsilon. A `floor` above 0 keeps the weight on
        x0 from falling with the SNR, as "truncated SNR" does (2202.00512 s4, floor 1).
        """
        if self.is_flow:
            raise ValueError("min-SNR weights are defined for variance-preserving schedules")
        alpha, sigma = self.alpha_sigma(t, torch.empty(len(t), device=t.device))  # (b,) each
        snr = (alpha / sigma) ** 2
        weight = snr.clamp(floor, gamma)
        if self.prediction_type == "sample":
            return weight
        return weight / snr if self.prediction_type == "epsilon" else weight / (snr + 1)


def alphas_cumprod_from_config(config: Mapping[str, Any]) -> Tensor:
    """(T,) float64 abar_t of the betas that a diffusers scheduler config describes; InputError if these are none."""
    try:
        betas = _betas(config)  # (T,)
    except (TypeError, OverflowError, RuntimeError) as error:
        raise InputError("the scheduler config has no betas that can be read: write numbers") from error
    if betas.ndim != 1 or not len(betas) or not ((betas >= 0) & (betas <= 1)).all():
        raise InputError("the scheduler config has betas outside of [0, 1], or none: such as .00085 to .012 are usual")
    abar = (1 - betas).cumprod(0)  # (T,)
    return zero_terminal_snr(abar) if config.get("rescale_betas_zero_snr") else abar


def _betas(config: Mapping[str, Any]) -> Tensor:
    """(T,) float64."""
    steps = config.get("num_train_timesteps", 1000)
    start, end = config.get("beta_start", 0.0001), config.get("beta_end", 0.02)
    kind = config.get("beta_schedule", "linear")
    if config.get("trained_betas") is not None:
        return torch.tensor(config["trained_betas"], dtype=torch.float64)
    if kind == "linear":
        return torch.linspace(start, end, steps, dtype=torch.float64)
    if kind == "scaled_linear":  # the Stable Diffusion family
        return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
    if kind == "squaredcos_cap_v2":  # the cosine of 2102.09672
        bar = [math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(steps + 1)]
        return torch.tensor([min(1 - bar[i + 1] / bar[i], 0.999) for i in range(steps)], dtype=torch.float64)
    raise InputError(f"unknown beta schedule {kind!r} in the scheduler config")


def zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """Shift and scale sqrt(abar) so that the last step is pure noise (2305.08891 algorithm 1)."""
    root = alphas_cumprod.sqrt()
    first, last = root[0], root[-1]
    return ((root - last) * first / (first - last)) ** 2
