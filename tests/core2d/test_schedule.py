"""Noise schedules against diffusers' own, and the algebra of predictions."""

# diffusers annotates its schedulers with tensor classes that nothing is an instance of.
# pyright: reportArgumentType=false, reportOptionalSubscript=false

from typing import get_args

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

from core2d.app.errors import InputError
from core2d.prior.schedule import NoiseSchedule, PredictionType, zero_terminal_snr

SCALED_LINEAR = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
CONFIGS = [
    SCALED_LINEAR,
    {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"trained_betas": [0.01, 0.02, 0.05, 0.1], "num_train_timesteps": 4},
    {**SCALED_LINEAR, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
]


def schedule_of(kind: PredictionType) -> NoiseSchedule:
    if kind == "flow":
        return NoiseSchedule(None, "flow", 1000)
    return NoiseSchedule.from_config(SCALED_LINEAR | {"prediction_type": kind})


def noisy(kind: PredictionType) -> tuple[NoiseSchedule, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 3, 4, 5, 5, generator=generator, dtype=torch.float64)
    return schedule_of(kind), x0, noise, torch.tensor([3, 500, 990])


@pytest.mark.parametrize("config", CONFIGS)
def test_alphas_are_those_of_diffusers(config: dict):
    ours = NoiseSchedule.from_config(config)
    theirs = DDIMScheduler(**config)
    assert ours.alphas_cumprod is not None
    assert len(ours.alphas_cumprod) == ours.num_train_timesteps == theirs.config["num_train_timesteps"]
    torch.testing.assert_close(ours.alphas_cumprod.float(), theirs.alphas_cumprod, atol=2e-6, rtol=0)


def test_noise_and_velocity_are_those_of_diffusers():
    theirs = DDPMScheduler(**SCALED_LINEAR)
    schedule, x0, noise, t = noisy("v_prediction")
    x0, noise = x0.float(), noise.float()
    torch.testing.assert_close(schedule.add_noise(x0, noise, t), theirs.add_noise(x0, noise, t), atol=2e-6, rtol=0)
    torch.testing.assert_close(schedule.target(x0, noise, t), theirs.get_velocity(x0, noise, t), atol=2e-6, rtol=0)


def test_flow_is_that_of_diffusers():
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    schedule = NoiseSchedule.from_config(dict(theirs.config) | {"_class_name": "FlowMatchEulerDiscreteScheduler"})
    x0, noise = torch.randn(2, 1, 4, 5, 5)
    for index in (0, 400, 999):
        t = theirs.timesteps[index : index + 1]
        expected = theirs.scale_noise(x0, t, noise)
        torch.testing.assert_close(schedule.add_noise(x0, noise, t), expected, atol=2e-6, rtol=0)
    assert schedule.is_flow and schedule.prediction_type == "flow"


@pytest.mark.parametrize("kind", get_args(PredictionType))
def test_a_true_output_gives_back_noise_image_and_velocity(kind: PredictionType):
    schedule, x0, noise, t = noisy(kind)
    x_t = schedule.add_noise(x0, noise, t)
    output = schedule.target(x0, noise, t)
    prediction = schedule.prediction(output, x_t, t)
    torch.testing.assert_close(prediction.eps, noise)
    torch.testing.assert_close(prediction.x0, x0)
    torch.testing.assert_close(prediction.flow, noise - x0)
    torch.testing.assert_close(prediction.v, prediction.alpha_t * noise - prediction.sigma_t * x0)
    torch.testing.assert_close(schedule.output(prediction), output)
    assert prediction.alpha_t.shape == prediction.sigma_t.shape == (3, 1, 1, 1)


def test_one_denoiser_gives_one_prediction_whatever_it_predicts():
    schedule, x0, noise, t = noisy("epsilon")
    x_t = schedule.add_noise(x0, noise, t)
    eps = torch.randn_like(x_t)  # wrong on purpose: any output must mean the same in each form
    wanted = schedule.prediction(eps, x_t, t)
    for kind, output in (("v_prediction", wanted.v), ("sample", wanted.x0)):
        other = schedule_of(kind).prediction(output, x_t, t)
        torch.testing.assert_close(other.eps, wanted.eps)
        torch.testing.assert_close(other.x0, wanted.x0)


def test_one_step_for_all_samples():
    schedule, x0, noise, _ = noisy("epsilon")
    torch.testing.assert_close(schedule.add_noise(x0, noise, 7), schedule.add_noise(x0, noise, torch.tensor([7, 7, 7])))


def test_zero_terminal_snr_ends_in_pure_noise_and_keeps_the_start():
    schedule = schedule_of("epsilon")
    assert schedule.alphas_cumprod is not None
    shifted = zero_terminal_snr(schedule.alphas_cumprod)
    assert shifted[-1] == 0
    torch.testing.assert_close(shifted[0], schedule.alphas_cumprod[0])
    assert (shifted.diff() < 0).all()


def test_min_snr_weights():
    t = torch.tensor([0, 300, 999])
    epsilon = schedule_of("epsilon")
    alpha, sigma = epsilon.alpha_sigma(t, torch.empty(3))
    snr = (alpha / sigma) ** 2
    assert snr[0] > 5 > snr[2]
    torch.testing.assert_close(epsilon.min_snr_weight(t), (5 / snr).clamp(max=1))
    torch.testing.assert_close(schedule_of("v_prediction").min_snr_weight(t), snr.clamp(max=5) / (snr + 1))
    torch.testing.assert_close(schedule_of("sample").min_snr_weight(t), snr.clamp(max=5))
    torch.testing.assert_close(epsilon.min_snr_weight(t, gamma=torch.inf), torch.ones(3))
    torch.testing.assert_close(schedule_of("sample").min_snr_weight(t, floor=0.3), snr.clamp(0.3, 5))
    with pytest.raises(ValueError, match="variance-preserving"):
        schedule_of("flow").min_snr_weight(t)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"beta_schedule": "sigmoid"}, "unknown beta schedule 'sigmoid'"),
        ({"prediction_type": "score"}, "prediction type 'score'"),
        (SCALED_LINEAR | {"rescale_betas_zero_snr": True}, "cannot predict epsilon"),
    ],
)
def test_unusable_schedules_are_refused(config: dict, message: str):
    with pytest.raises(InputError, match=message):
        NoiseSchedule.from_config(config)


def test_a_step_between_two_lies_between_them():
    schedule = schedule_of("epsilon")
    assert schedule.alphas_cumprod is not None
    alpha, sigma = schedule.alpha_sigma(torch.tensor([5.0, 5.25, 999.0]), torch.empty(3, dtype=torch.float64))
    low, high, last = schedule.alphas_cumprod[[5, 6, 999]]
    torch.testing.assert_close(alpha**2, torch.stack([low, 0.75 * low + 0.25 * high, last]))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(3, dtype=torch.float64))
