"""The guidances beside SDS, against closed forms on an oracle and identities on tiny models."""

from typing import Any

import pytest
import torch
from torch import Tensor

from core2d.app.errors import InputError
from core2d.guidance import (
    ClassifierScoreDistillation,
    IntervalScoreMatching,
    Learning,
    ScoreDistillation,
    ScoreDistillationByInversion,
    ScoreDistillationConfig,
    TimeRange,
    VariationalScoreDistillation,
)
from core2d.guidance.inversion import invert
from core2d.prior.backbone import Backbone
from core2d.prior.cameras import Cameras, degrees, orbit
from core2d.prior.oracle import STABLE_DIFFUSION_SCHEDULE, OracleBackbone

ALL = [
    ClassifierScoreDistillation, IntervalScoreMatching, ScoreDistillation, ScoreDistillationByInversion,
    VariationalScoreDistillation,
]  # fmt: skip
PROMPT = "a red mug"
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}


def pictures(count: int = 2, size: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def gradient_of(guidance: Any, images: Tensor, cameras: Cameras | None = None, step: int = 3) -> Tensor:
    return torch.autograd.grad(guidance(images, PROMPT, cameras, step)[0], images)[0]


def one_picture(config: dict[str, Any] | None = None) -> OracleBackbone:
    """A prior that knows one picture, (1, 3, 16, 16): whatever is asked, the noise is what differs from it."""
    known = 2 * pictures(1, seed=9).detach() - 1
    return OracleBackbone(known, [PROMPT], scheduler_config=config)


# -- classifier score distillation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["eps", "x0"])
def test_csd_is_what_guidance_adds_to_sds(tiny_folder, form: Any):
    """SDS of scale s is SDS of scale 1 and (s - 1) times CSD, whatever is compared."""
    prior, images = Backbone.load(tiny_folder("sd1", camera=True), dtype=torch.float64), pictures().detach().double()
    images.requires_grad_()
    cameras = orbit(degrees([10.0, 200.0]), degrees([20.0]), 1.7)

    def settings(scale: float) -> ScoreDistillationConfig:
        return ScoreDistillationConfig(guidance_scale=scale, form=form)

    strong, plain = (gradient_of(ScoreDistillation(prior, settings(s)), images, cameras) for s in (7.5, 1.0))
    csd = gradient_of(ClassifierScoreDistillation(prior, settings(3.0)), images, cameras)
    assert csd.abs().max() > 1e-6
    torch.testing.assert_close(strong - plain, 6.5 * csd, atol=1e-8, rtol=1e-6)


def test_csd_says_nothing_where_words_change_nothing():
    assert not gradient_of(ClassifierScoreDistillation(one_picture()), pictures()).abs().max() > 1e-6


# -- inversion, and what is built on it --------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [STABLE_DIFFUSION_SCHEDULE, FLOW])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_inversion_keeps_to_a_straight_path(config: dict[str, Any], steps: int):
    """Of one known picture the noise of every step is that of the first, so any number of steps ends at the same."""
    prior, t = one_picture(config), torch.tensor([40, 700])
    latents, words = 2 * pictures().detach().double() - 1, prior.encode_text([PROMPT])
    found, last = invert(prior, latents, t, steps, lambda x, at: prior.predict(x, at, words))
    start = torch.ones(2, dtype=torch.long)
    x_1 = prior.add_noise(latents, torch.zeros_like(latents), start)
    first = prior.predict(x_1, start, words)
    torch.testing.assert_close(last.eps, first.eps, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found, prior.add_noise(prior.latents.expand(2, -1, -1, -1), first.eps, t))


def test_an_inversion_that_is_sampled_again_comes_back(tiny_folder):
    prior, t = Backbone.load(tiny_folder("sd1"), dtype=torch.float64), torch.tensor([300, 600])
    latents, words = torch.randn(2, 4, 8, 8, dtype=torch.float64), prior.encode_text([PROMPT])
    errors = []
    for steps in (10, 100):
        x, _ = invert(prior, latents, t, steps, lambda x, at: prior.predict(x, at, words))
        for step in range(steps, 0, -1):
            here, there = (torch.div(t * k, steps, rounding_mode="floor").clamp(min=1) for k in (step, step - 1))
            prediction = prior.predict(x, here, words)
            x = prior.add_noise(prediction.x0, prediction.eps, there)
        errors.append((x / prior.schedule.alpha_sigma(1, x)[0] - latents).abs().max().item())
    assert errors[1] < 0.35 * errors[0] and errors[1] < 0.1


def test_interval_matching_leads_nowhere_on_a_straight_path():
    found = gradient_of(IntervalScoreMatching(one_picture()), pictures())
    assert found.abs().max() < 1e-4 < gradient_of(ScoreDistillation(one_picture()), pictures()).abs().max()


def test_interval_matching_is_its_formula(tiny_folder):
    prior, images = Backbone.load(tiny_folder("sd1")), pictures()
    at = TimeRange((0.5, 0.5), (0.5, 0.5))
    guidance = IntervalScoreMatching(prior, ScoreDistillationConfig(guidance_scale=3, weighting="uniform", times=at))
    words, without = prior.encode_text([PROMPT]), prior.encode_text([""])
    latents = prior.encode_images(images)
    clean, t, s = latents.detach(), torch.tensor([500, 500]), torch.tensor([450, 450])
    x_s, _ = invert(prior, clean, s, 3, lambda x, at: prior.predict(x, at, without))
    before = prior.predict(x_s, s, without)
    x_t = prior.add_noise(before.x0, before.eps, t)
    gradient = prior.predict_cfg(x_t, t, words, without, 3.0).eps - before.eps
    expected = torch.autograd.grad((latents * gradient).sum() / 2, images)[0]
    torch.testing.assert_close(gradient_of(guidance, images), expected, atol=1e-6, rtol=1e-4)


def test_inverted_noise_is_that_which_the_prior_would_find(tiny_folder):
    """Where one picture is known, SDI points from the rendered one to it, with the noise that leads there."""
    prior, images = one_picture(), pictures()
    settings = ScoreDistillationConfig(guidance_scale=1, form="x0", weighting="uniform")
    expected = 2 * (2 * images.detach() - 1 - prior.latents.float()) / len(images)
    torch.testing.assert_close(gradient_of(ScoreDistillationByInversion(prior, settings), images), expected,
                               atol=1e-4, rtol=1e-4)  # fmt: skip
    # Of a network the gradient is its formula.
    network = Backbone.load(tiny_folder("sd1"))
    at = TimeRange((0.5, 0.5), (0.5, 0.5))
    guidance = ScoreDistillationByInversion(
        network, ScoreDistillationConfig(guidance_scale=3, weighting="uniform", times=at), steps=4
    )
    words, without, t = network.encode_text([PROMPT]), network.encode_text([""]), torch.tensor([500, 500])
    latents = network.encode_images(images)
    x_t, _ = invert(network, latents.detach(), t, 4, lambda x, at: network.predict_cfg(x, at, words, without, -3.0))
    alpha, sigma = network.schedule.alpha_sigma(t, latents)
    gradient = network.predict_cfg(x_t, t, words, without, 3.0).eps - (x_t - alpha * latents.detach()) / sigma
    by_hand = torch.autograd.grad((latents * gradient).sum() / 2, images)[0]
    torch.testing.assert_close(gradient_of(guidance, images), by_hand, atol=1e-5, rtol=1e-4)


# -- variational score distillation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["latent", "image"])
def test_vsd_says_nothing_while_its_layers_are_the_prior(tiny_folder, space: Any):
    prior, images = Backbone.load(tiny_folder("sd1", camera=True)), pictures()
    cameras = orbit(degrees([10.0, 200.0]), degrees([20.0]), 1.7)
    settings = ScoreDistillationConfig(guidance_scale=1, form="x0", space=space)
    guidance = VariationalScoreDistillation(prior, settings)
    assert isinstance(guidance, Learning)
    assert not gradient_of(guidance, images, cameras).any()
    optimiser = torch.optim.Adam(guidance.learner.parameters(), 1e-2)
    losses = []
    for _ in range(30):  # the same noise again and again
        loss = guidance.learner_loss(images.detach(), PROMPT, cameras, 0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert gradient_of(guidance, images, cameras).abs().max() > 1e-6
    assert all(not p.requires_grad for p in prior.denoiser.parameters())


def test_vsd_is_its_formula(tiny_folder):
    prior, images = Backbone.load(tiny_folder("sd1")), pictures()
    guidance = VariationalScoreDistillation(prior, ScoreDistillationConfig(guidance_scale=7.5, weighting="uniform"))
    for up in (p for name, p in guidance.learner.named_parameters() if ".up." in f".{name}"):
        up.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    words, without = prior.encode_text([PROMPT]), prior.encode_text([""])
    latents = prior.encode_images(images)
    t, noise = guidance.draw(latents.detach(), 3)
    x_t = prior.add_noise(latents.detach(), noise, t)
    own = guidance.learned.predict(x_t, t, words).eps
    gradient = prior.predict_cfg(x_t, t, words, without, 7.5).eps - own
    assert (own - prior.predict(x_t, t, words).eps).abs().max() > 1e-4
    expected = torch.autograd.grad((latents * gradient).sum() / 2, images)[0]
    torch.testing.assert_close(gradient_of(guidance, images), expected, atol=1e-6, rtol=1e-4)


# -- all of them -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("space", ["latent", "image"])
def test_a_step_depends_on_seed_and_step_alone_and_clips_no_gradient(tiny_folder, kind: Any, space: Any):
    prior = Backbone.load(tiny_folder("sd1", camera=True))
    settings = ScoreDistillationConfig(guidance_scale=2, form="x0", space=space)
    cameras, images = orbit(degrees([10.0, 200.0]), degrees([20.0]), 1.7), pictures(size=20)
    guidance = kind(prior, settings, 4)
    if isinstance(guidance, VariationalScoreDistillation):
        for p in guidance.learner.parameters():
            p.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    first = gradient_of(guidance, images, cameras)
    assert torch.equal(first, gradient_of(guidance, images, cameras)) and first.isfinite().all() and first.any()
    assert not torch.equal(first, gradient_of(guidance, images, cameras, step=4))
    assert not torch.equal(first, gradient_of(guidance, images, orbit(degrees([90.0]), degrees([20.0]), 1.7)))


def test_what_cannot_be_used_is_refused(tiny_folder):
    prior = Backbone.load(tiny_folder("sd1"))
    with pytest.raises(InputError, match="OracleBackbone has none"):
        VariationalScoreDistillation(one_picture())
    with pytest.raises(ValueError, match="interval of 2"):
        IntervalScoreMatching(prior, interval=2)
    with pytest.raises(ValueError, match="at least one step"):
        ScoreDistillationByInversion(prior, steps=0)
    with pytest.raises(ValueError, match="at least one step"):
        invert(prior, torch.zeros(1, 4, 8, 8), torch.tensor([5]), 0, lambda x, t: prior.predict(x, t, None))  # pyright: ignore
