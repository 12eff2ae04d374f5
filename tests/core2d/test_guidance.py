"""Score distillation in float64 on a toy prior whose answers are known, and on oracles."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from core2d.app.errors import InputError
from core2d.guidance import PerpNegDistillation, ScoreDistillation, ScoreDistillationConfig, TimeRange, ViewPrompts
from core2d.guidance.base import loss_of, size_for
from core2d.guidance.perp_neg import negative_weights, perpendicular
from core2d.guidance.sds import Told
from core2d.guidance.view_prompts import mix, view_weights, view_windows
from core2d.prior.backbone import Backbone
from core2d.prior.base import Generators, Prior, rescale_contrast
from core2d.prior.camera_token import camera_features
from core2d.prior.cameras import Cameras, orbit
from core2d.prior.condition import Condition
from core2d.prior.oracle import OracleBackbone
from core2d.prior.schedule import NoiseSchedule, PredictionType
from core2d.training.loop import step_seed

STEPS = 1000
PROMPT = "a red mug"


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def matched_schedule(kind: PredictionType) -> NoiseSchedule:
    """The same signal-to-noise ratio at every t for variance-preserving and flow-matching networks."""
    if kind == "flow":
        return NoiseSchedule(None, "flow", STEPS)
    sigma = torch.arange(STEPS, dtype=torch.float64) / STEPS
    return NoiseSchedule((1 - sigma) ** 2 / ((1 - sigma) ** 2 + sigma**2), kind)


class ToyPrior(Prior):
    """x0 = gain M x + B text + C view, where x is x_t scaled to a variance-preserving process; a linear encoder.

    Latents (2, 3, 3), images (3, 6, 6). It keeps what it was asked in `conditions` and `views`.
    """

    latent_channels, latent_size, vae_scale_factor = 2, 3, 2
    device, dtype = torch.device("cpu"), torch.float64

    def __init__(self, kind: PredictionType = "epsilon", camera_token: bool = False):
        self.schedule, self.has_camera_token = matched_schedule(kind), camera_token
        self.scheduler_config = {}
        self.mixing, self.encoder = random(18, 18, seed=1) / 6, random(108, 18, seed=4) / 10
        self.decoder = random(18, 108, seed=5) / 10
        self.of_text, self.of_view = random(4, 18, seed=2), random(5, 18, seed=3)
        self.conditions: list[Condition] = []

    def encode_text(self, prompts: list[str]) -> Condition:
        return Condition(torch.stack([random(1, 4, seed=step_seed(*prompt.encode())) for prompt in prompts]))

    def encode_images(self, images: Tensor, generator: Generators | None = None) -> Tensor:
        return (images.flatten(1) @ self.encoder).view(-1, 2, 3, 3)

    def decode(self, latents: Tensor) -> Tensor:
        return (latents.flatten(1) @ self.decoder).view(-1, 3, 6, 6)

    def network(self, x_t: Tensor, t: int | Tensor, condition: Condition) -> Tensor:
        self.conditions.append(condition)
        alpha, sigma = self.schedule.alpha_sigma(t, x_t)
        length = (alpha**2 + sigma**2).sqrt()  # (b, 1, 1, 1)
        x0 = (alpha / length) * ((x_t / length).flatten(1) @ self.mixing).view_as(x_t)
        x0 = x0 + (condition.tokens[:, 0] @ self.of_text).view(-1, 2, 3, 3)
        if condition.camera is not None:
            x0 = x0 + (condition.camera.double() @ self.of_view).view(-1, 2, 3, 3)
        return self.schedule.output(self.schedule.prediction(x0, x_t, t, kind="sample"))


def some_images(size: int = 6, count: int = 3) -> Tensor:
    images = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return images.requires_grad_()


def some_cameras(*azimuths: float, elevation: float = 15.0) -> Cameras:
    return orbit([math.radians(angle) for angle in azimuths], math.radians(elevation), 2.0)


def image_gradient(
    guidance: ScoreDistillation, images: Tensor, cameras: Cameras | None = None, step: int = 5
) -> Tensor:
    loss, _ = guidance(images, PROMPT, cameras, step)
    return torch.autograd.grad(loss, images)[0]


def by_hand(guidance: ScoreDistillation, images: Tensor, scale: float, step: int = 5) -> tuple[Tensor, ...]:
    """t, noise, latents, and guided eps and x0 of the prompt without a view, written out."""
    prior = guidance.prior
    latents = prior.encode_images(images.detach())
    t, noise = guidance.draw(latents, step)
    x_t = prior.schedule.add_noise(latents, noise, t)
    with_text = prior.predict(x_t, t, prior.encode_text([PROMPT]).expand(len(x_t)))
    without = prior.predict(x_t, t, prior.encode_text([""]).expand(len(x_t)))
    eps = without.eps + scale * (with_text.eps - without.eps)
    x0 = without.x0 + scale * (with_text.x0 - without.x0)
    return t, noise, latents, eps, x0


# -- score distillation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 7.5])  # s, not s + 1
@pytest.mark.parametrize("weighting", ["sds", "uniform", "fantasia3d"])
def test_the_gradient_is_that_of_the_paper(weighting, scale: float):
    prior, images = ToyPrior(), some_images()
    guidance = ScoreDistillation(prior, ScoreDistillationConfig(guidance_scale=scale, weighting=weighting))
    t, noise, latents, eps, _ = by_hand(guidance, images, scale)
    assert prior.schedule.alphas_cumprod is not None
    abar = prior.schedule.alphas_cumprod[t]
    weight = {"sds": 1 - abar, "uniform": abar**0, "fantasia3d": abar.sqrt() * (1 - abar)}[weighting]
    expected = weight.view(-1, 1, 1, 1) * (eps - noise)
    loss, info = guidance(images, PROMPT, None, 5)
    found = torch.autograd.grad(loss, images)[0]
    pulled_back = (expected.flatten(1) @ prior.encoder.T).view_as(images) / len(images)
    torch.testing.assert_close(found, pulled_back, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(loss.detach(), 0.5 * expected.square().sum() / len(latents))
    torch.testing.assert_close(info["gradient_norm"], expected.flatten(1).norm(dim=1))
    assert torch.equal(info["t"], t) and not info["gradient_norm"].requires_grad


def test_the_loss_is_the_distance_to_a_fixed_target():
    latents, gradient = random(2, 3, 4, 4).requires_grad_(), random(2, 3, 4, 4, seed=1)
    usual = 0.5 * (latents - (latents - gradient).detach()).square().sum() / 2
    torch.testing.assert_close(loss_of(latents, gradient), usual)
    found, wanted = (torch.autograd.grad(loss, latents)[0] for loss in (loss_of(latents, gradient), usual))
    torch.testing.assert_close(found, wanted)


def test_a_small_gradient_keeps_its_bits_in_float32():
    latents, gradient = 1 + torch.rand(1, 1, 2, 2), torch.full((1, 1, 2, 2), 1.2345e-7)
    latents.requires_grad_()
    assert torch.equal(torch.autograd.grad(loss_of(latents, gradient), latents)[0], gradient)


@pytest.mark.parametrize("weighting", ["sds", "fantasia3d"])
@pytest.mark.parametrize("form", ["eps", "x0"])
@pytest.mark.parametrize("kind", [ScoreDistillation, PerpNegDistillation])
def test_one_denoiser_gives_one_gradient_whatever_its_network_predicts(kind, form, weighting):
    config = ScoreDistillationConfig(guidance_scale=10, rescale=0.5, form=form, weighting=weighting)
    images, cameras = some_images(), some_cameras(20, -130, 95)
    predictions: list[PredictionType] = ["epsilon", "v_prediction", "sample", "flow"]
    wanted, *others = (image_gradient(kind(ToyPrior(one), config), images, cameras) for one in predictions)
    assert wanted.abs().max() > 1e-3
    for found in others:
        assert (found - wanted).abs().max() <= 1e-10 * wanted.abs().max()


def test_the_gradient_goes_through_resizing_and_encoder():
    """Against central differences of <g, encode(resize(images))> / b for the fixed g of the step."""
    prior, images = ToyPrior(), some_images(size=9, count=2)
    guidance = ScoreDistillation(prior, ScoreDistillationConfig(weighting="uniform"))
    small = F.interpolate(images.detach(), (6, 6), mode="bilinear", antialias=True)
    _, noise, _, eps, _ = by_hand(guidance, small, 100.0)

    def pulled(values: Tensor) -> Tensor:
        resized = F.interpolate(values, (6, 6), mode="bilinear", antialias=True)
        return ((eps - noise) * prior.encode_images(resized)).sum() / 2

    found = image_gradient(guidance, images)
    for place in [(0, 0, 0, 0), (0, 1, 4, 5), (1, 2, 8, 8), (1, 0, 3, 7)]:
        step = torch.zeros_like(images)
        step[place] = 1e-3
        slope = (pulled(images.detach() + step) - pulled(images.detach() - step)) / 2e-3
        assert float(found[place]) == pytest.approx(float(slope), rel=1e-8)


def test_the_x0_form_pulls_towards_the_guided_x0():
    """MVDream's loss is 0.5 |z - x0|^2 / b; without rescaling it is SDS with the weight sigma / alpha."""
    prior, images = ToyPrior(), some_images()
    config = ScoreDistillationConfig(guidance_scale=5, form="x0", weighting="uniform")
    guidance = ScoreDistillation(prior, config)
    t, noise, latents, eps, x0 = by_hand(guidance, images, 5)
    loss, _ = guidance(images, PROMPT, None, 5)
    torch.testing.assert_close(loss.detach(), 0.5 * (latents - x0).square().sum() / 3)
    alpha, sigma = prior.schedule.alpha_sigma(t, latents)
    expected = (sigma / alpha * (eps - noise)).flatten(1) @ prior.encoder.T / 3
    torch.testing.assert_close(torch.autograd.grad(loss, images)[0].flatten(1), expected)


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_in_images_the_gradient_points_from_the_decoded_x0(scale: float):
    """w(t) (x - D(x0)) / b, whatever the encoder's derivative is."""
    prior, images = ToyPrior(), some_images()
    guidance = ScoreDistillation(prior, ScoreDistillationConfig(guidance_scale=scale, form="x0", space="image"))
    t, _, _, _, x0 = by_hand(guidance, images, scale)
    assert prior.schedule.alphas_cumprod is not None
    weight = (1 - prior.schedule.alphas_cumprod[t]).view(-1, 1, 1, 1)
    expected = weight * (images.detach() - prior.decode(x0))
    torch.testing.assert_close(image_gradient(guidance, images), expected / 3, atol=1e-12, rtol=1e-12)


def test_images_of_another_size_are_compared_at_the_size_of_the_prior():
    prior, images = ToyPrior(), some_images(size=9, count=2)
    config = ScoreDistillationConfig(form="x0", space="image", weighting="uniform", guidance_scale=1)
    small = F.interpolate(images, (6, 6), mode="bilinear", antialias=True)
    _, _, _, _, x0 = by_hand(ScoreDistillation(prior, config), small, 1)
    loss, _ = ScoreDistillation(prior, config)(images, PROMPT, None, 5)
    usual = 0.5 * (small - prior.decode(x0)).square().sum() / 2
    torch.testing.assert_close(loss, usual)
    torch.testing.assert_close(*(torch.autograd.grad(one, images)[0] for one in (loss, usual)))


def test_without_guidance_the_network_is_asked_once_for_each_image():
    prior = ToyPrior()
    ScoreDistillation(prior, ScoreDistillationConfig(guidance_scale=1))(some_images(), PROMPT, None, 5)
    (condition,) = prior.conditions
    assert torch.equal(condition.tokens, prior.encode_text([PROMPT]).tokens)


def test_pictures_have_no_noise_to_compare():
    with pytest.raises(InputError, match='the form "x0" only'):
        ScoreDistillationConfig(space="image")


def test_rescaling_is_of_x0_for_each_image():
    prior, images = ToyPrior(), some_images()
    config = ScoreDistillationConfig(guidance_scale=9, rescale=0.7, form="x0", weighting="uniform")
    guidance = ScoreDistillation(prior, config)
    _, _, latents, _, plain = by_hand(guidance, images, 1)
    _, _, _, _, guided = by_hand(guidance, images, 9)
    target = rescale_contrast(guided, plain, 0.7)
    loss, _ = guidance(images, PROMPT, None, 5)
    torch.testing.assert_close(loss.detach(), 0.5 * (latents - target).square().sum() / 3)


def test_the_negative_prompt_stands_in_for_no_prompt():
    prior = ToyPrior()
    ScoreDistillation(prior, ScoreDistillationConfig(negative_prompt="blurry"))(some_images(), PROMPT, None, 0)
    assert torch.equal(prior.conditions[0].tokens, prior.encode_text(["blurry"] * 3 + [PROMPT] * 3).tokens)


def test_a_step_depends_on_seed_and_step_only():
    images, config = some_images(), ScoreDistillationConfig()
    first = image_gradient(ScoreDistillation(ToyPrior(), config, seed=3), images)
    guidance = ScoreDistillation(ToyPrior(), config, seed=3)
    other_step = image_gradient(guidance, images, step=6)
    torch.manual_seed(99)
    assert torch.equal(image_gradient(guidance, images), first)
    assert not torch.equal(other_step, first)
    assert not torch.equal(image_gradient(ScoreDistillation(ToyPrior(), config, seed=4), images), first)


# -- times --------------------------------------------------------------------------------------------------


def test_the_range_of_times_moves_as_it_was_told():
    mvdream = TimeRange((0.98, 0.98), (0.02, 0.5), 8000)
    assert mvdream.at(0) == (0.98, 0.98)
    assert mvdream.at(4000) == pytest.approx((0.5, 0.74))
    assert mvdream.at(8000) == mvdream.at(20_000) == (0.02, 0.5)
    hifa = TimeRange((0.98, 0.98), (0.02, 0.02), 100, "sqrt")
    assert hifa.at(25) == pytest.approx((0.5, 0.5))
    assert TimeRange().at(0) == TimeRange().at(10**6) == (0.02, 0.98)


def test_times_fill_their_range_and_stay_inside():
    t = TimeRange().draw(0, 20_000, STEPS, torch.Generator().manual_seed(0))
    assert (int(t.min()), int(t.max())) == (20, 980)
    assert float(t.double().mean()) == pytest.approx(500, abs=6)
    everything = TimeRange(start=(0, 1), end=(0, 1)).draw(0, 20_000, STEPS, torch.Generator().manual_seed(0))
    assert (int(everything.min()), int(everything.max())) == (1, 999)
    assert TimeRange(end=(0.3, 0.3)).draw(0, 4, STEPS, torch.Generator()).tolist() == [300] * 4


# -- views in words -----------------------------------------------------------------------------------------


def test_the_wording_is_the_grammar_of_the_toybox_and_can_be_another():
    views = ["front", "side", "back", "overhead"]
    assert ViewPrompts().prompts(PROMPT) == [f"a red mug, {view} view" for view in views]
    other = ViewPrompts("{view} view of {prompt}", ("front", "side", "backside", "overhead"))
    assert other.prompts("a {view} {prompt}")[2] == "backside view of a {view} {prompt}"
    with pytest.raises(InputError, match="needs both"):
        ViewPrompts("a view of {prompt}")


@pytest.mark.parametrize("azimuth, row", [(0, 0), (90, 1), (-90, 1), (180, 2), (-180, 2), (360, 0), (270, 1)])
def test_front_side_and_back_are_described_by_their_own_words(azimuth: float, row: int):
    angle = torch.tensor([math.radians(azimuth)], dtype=torch.float64)
    one_hot = torch.eye(4, dtype=torch.float64)[[row]]
    torch.testing.assert_close(view_weights(angle, torch.zeros(1)), one_hot, atol=1e-12, rtol=0)
    assert torch.equal(view_windows(angle, torch.zeros(1)), one_hot)
    prior, cameras = ToyPrior(), some_cameras(azimuth)
    found = ViewPrompts().condition(prior, PROMPT, cameras).tokens
    torch.testing.assert_close(found, prior.encode_text(ViewPrompts().prompts(PROMPT)).tokens[[row]], atol=1e-6, rtol=0)


def test_between_two_views_their_embeddings_are_mixed():
    prior = ToyPrior()
    front, side, back, overhead = prior.encode_text(ViewPrompts().prompts(PROMPT)).tokens
    found = ViewPrompts().condition(prior, PROMPT, some_cameras(30, -120)).tokens
    expected = torch.stack([2 / 3 * front + 1 / 3 * side, 2 / 3 * side + 1 / 3 * back])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    windows = ViewPrompts(interpolate=False).condition(prior, PROMPT, some_cameras(44, 46, -136)).tokens
    assert torch.equal(windows, torch.stack([front, side, back]))
    from_above = ViewPrompts().condition(prior, PROMPT, some_cameras(30, elevation=61)).tokens
    assert torch.equal(from_above[0], overhead)


angles = st.floats(-10, 10, allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(angles, st.floats(0, 0.5))
def test_the_description_is_continuous_around_the_object(azimuth: float, turn: float):
    both = torch.tensor([azimuth, azimuth + turn], dtype=torch.float64)
    weights = view_weights(both, torch.zeros(2))
    torch.testing.assert_close(weights.sum(1), torch.ones(2, dtype=torch.float64))
    assert bool((weights >= -1e-12).all())
    assert float((weights[1] - weights[0]).abs().max()) <= turn * 2 / math.pi + 1e-9
    torch.testing.assert_close(view_weights(-both, torch.zeros(2)), weights)  # left is as right
    negatives = negative_weights(both, torch.zeros(2))
    assert float((negatives[1] - negatives[0]).abs().max()) <= 2 * turn * 2 / math.pi + 2e-3


def test_mixed_prompts_keep_every_token_that_takes_part():
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    both = Condition(random(2, 3, 4), random(2, 5), mask)
    mixed = mix(both, torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    assert mixed.mask is not None and mixed.mask.tolist() == [[1, 1, 0], [1, 1, 1]] and mixed.mask.dtype == mask.dtype
    assert mixed.pooled is not None and both.pooled is not None
    torch.testing.assert_close(mixed.pooled[1], both.pooled.mean(0))
    assert torch.equal(mixed.tokens[0], both.tokens[0])


def test_the_camera_token_replaces_the_words_unless_words_are_asked_for():
    cameras, images = some_cameras(10, 100, 190), some_images()
    prior = ToyPrior(camera_token=True)
    plain = prior.encode_text([""] * 3 + [PROMPT] * 3).tokens
    ScoreDistillation(prior)(images, PROMPT, cameras, 0)
    assert torch.equal(prior.conditions[-1].tokens, plain)
    view = prior.conditions[-1].camera
    assert view is not None and torch.equal(view, camera_features(cameras).repeat(2, 1))
    ScoreDistillation(prior, ScoreDistillationConfig(views="words"))(images, PROMPT, cameras, 0)
    assert prior.conditions[-1].camera is None and not torch.equal(prior.conditions[-1].tokens, plain)
    ScoreDistillation(prior)(images, PROMPT, None, 0)  # a picture: neither
    assert prior.conditions[-1].camera is None and torch.equal(prior.conditions[-1].tokens, plain)


# -- Perp-Neg -----------------------------------------------------------------------------------------------


def test_the_perpendicular_part_is_perpendicular():
    vectors, onto = random(3, 2, 3, 3), random(3, 2, 3, 3, seed=1)
    parts = perpendicular(vectors, onto)
    assert (parts * onto).sum((1, 2, 3)).abs().max() < 1e-12
    torch.testing.assert_close(perpendicular(parts, onto), parts)  # a projection
    along = (vectors - parts) / onto
    torch.testing.assert_close(along, along[:, :1, :1, :1].expand_as(along))  # what is gone was parallel
    assert torch.equal(perpendicular(vectors, torch.zeros_like(onto)), vectors)


@pytest.mark.parametrize(
    "azimuth, front, side",
    [
        (0, 0.000123, 1.574),  # 4 exp(-0.5) - 2.426, 4 - 2.426
        (45, 4 * math.exp(-0.25) - 2.426, 4 * math.exp(-0.25) - 2.426),
        (-89.999999, 1.574, 0.000123),
        (90.000001, math.exp(-0.5) + 0.967, math.exp(-0.5) - 0.606),
        (-135, math.exp(-0.25) + 0.967, math.exp(-0.25) - 0.606),
        (180, 1.967, 0.394),
    ],
)
def test_the_published_weights(azimuth: float, front: float, side: float):
    angle = torch.tensor([math.radians(azimuth)], dtype=torch.float64)
    found = negative_weights(angle, torch.zeros(1))[0].tolist()
    assert found == pytest.approx([front, side], abs=1e-6)
    assert negative_weights(angle, torch.full((1,), 1.2))[0].tolist() == [0, 0]  # overhead


def test_without_negatives_it_is_plain_guidance():
    config, images = ScoreDistillationConfig(guidance_scale=8, rescale=0.3), some_images()
    around, above = some_cameras(10, 100, 190), some_cameras(10, 100, 190, elevation=70)
    for cameras, strength in [(around, 0.0), (above, 1.0)]:
        plain = image_gradient(ScoreDistillation(ToyPrior(), config), images, cameras)
        found = image_gradient(PerpNegDistillation(ToyPrior(), config, strength=strength), images, cameras)
        torch.testing.assert_close(found, plain, atol=1e-12, rtol=1e-10)
    plain = image_gradient(ScoreDistillation(ToyPrior(), config), images, around)
    assert not torch.allclose(image_gradient(PerpNegDistillation(ToyPrior(), config), images, around), plain)


def test_perp_neg_is_its_formula():
    """One view, at 30 degrees: r = 2/3 of the front and 1/3 of the side."""
    prior, x_t, t = ToyPrior(), random(1, 2, 3, 3), torch.tensor([600])
    cameras = some_cameras(30)
    guidance = PerpNegDistillation(prior, ScoreDistillationConfig(guidance_scale=6))
    found = guidance.predict(x_t, t, Told(PROMPT, torch.zeros(1, 3, 6, 6), cameras)).eps

    def ask(condition: Condition) -> Tensor:
        return prior.predict(x_t, t, condition).eps.flatten()

    eps_0, wanted = ask(prior.encode_text([""])), ask(ViewPrompts().condition(prior, PROMPT, cameras))
    front, side = (ask(prior.encode_text([f"{PROMPT}, {view} view"])) for view in ("front", "side"))
    towards, total = wanted - eps_0, wanted - eps_0
    for negative, r in ((front, 2 / 3), (side, 1 / 3)):
        e = negative - eps_0
        away = e - (e @ towards) / (towards @ towards) * towards
        total = total - (4 * math.exp(-0.5 * r) - 2.426) * away
    torch.testing.assert_close(found.flatten(), eps_0 + 6 * total, atol=1e-5, rtol=1e-5)  # angles are float32


# -- with a perfect prior -----------------------------------------------------------------------------------


@pytest.mark.parametrize("views", ["words", "camera"])
@pytest.mark.parametrize("form", ["eps", "x0"])
def test_with_an_oracle_every_view_becomes_what_the_prompt_says(form, views):
    """What goes wrong here is the fault of guidance, not of a prior."""
    known = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    things, sides = ("a red mug", "a blue chair"), ("front", "side", "back")
    captions = [f"{thing}, {side} view" for thing in things for side in sides]
    around = some_cameras(0, 90, 180)
    everywhere = some_cameras(0, 90, 180, 0, 90, 180)
    oracle = OracleBackbone(2 * known - 1, captions, everywhere)
    config = ScoreDistillationConfig(
        guidance_scale=4, form=form, views=views, times=TimeRange((0.9, 0.95), (0.05, 0.3), 100)
    )
    guidance = ScoreDistillation(oracle, config)
    for prompt, wanted in [("a red mug", known[:3]), ("a blue chair", known[3:])]:
        images = torch.full((3, 3, 4, 4), 0.5, dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.SGD([images], lr=0.5 if form == "eps" else 0.25)
        before = (images.detach() - wanted).flatten(1).norm(dim=1)
        for step in range(200):
            loss, _ = guidance(images, prompt, around, step)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        after = (images.detach() - wanted).flatten(1).norm(dim=1)
        assert before.min() > 1 and after.max() < 0.05


# -- with real models, and with what cannot be used ---------------------------------------------------------


@pytest.mark.parametrize("family, camera", [("sd1", True), ("pixart", False)])
def test_it_drives_a_real_backbone(tiny_folder, family: str, camera: bool):
    prior = Backbone.load(tiny_folder(family, camera=camera))
    images = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(0), requires_grad=True)
    cameras = some_cameras(30, 210)
    for kind in (ScoreDistillation, PerpNegDistillation):
        loss, _ = kind(prior, ScoreDistillationConfig(rescale=0.5))(images, "a mug", cameras, 0)
        gradient = torch.autograd.grad(loss, images)[0]
        assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0


def test_pictures_that_are_not_square_keep_their_aspect(tiny_folder):
    prior = Backbone.load(tiny_folder("sd1"))  # 16 pixels, 2 to a latent
    assert [size_for(prior, *size) for size in ((16, 16), (64, 64), (32, 64), (8, 2), (1, 900))] == [
        (16, 16), (16, 16), (12, 22), (32, 8), (2, 480)
    ]  # fmt: skip
    images = torch.rand(2, 3, 30, 20).requires_grad_()
    loss, info = ScoreDistillation(prior, ScoreDistillationConfig(guidance_scale=3))(images, "a mug", None, 0)
    gradient = torch.autograd.grad(loss, images)[0]
    assert gradient.shape == images.shape and len(info["t"]) == 2
    assert (gradient.abs().sum(dim=(1, 2, 3)) > 0).all()


def test_what_cannot_be_used_is_refused():
    prior, images, cameras = ToyPrior(), some_images(), some_cameras(0, 90)
    guidance = ScoreDistillation(prior)
    for shape in [(3, 6, 6), (1, 4, 6, 6), (1, 3, 6, 0), (0, 3, 6, 6)]:
        with pytest.raises(ValueError, match=r"images \(b, 3, h, w\)"):
            guidance(torch.zeros(shape, dtype=torch.float64), PROMPT, None, 0)
    with pytest.raises(InputError, match="images of step 12 hold NaN"):
        guidance(images.detach().log() * torch.nan, PROMPT, None, 12)
    with pytest.raises(ValueError, match="2 cameras for 3 images"):
        guidance(images, PROMPT, cameras, 0)
    with pytest.raises(InputError, match="no camera token"):
        ScoreDistillation(prior, ScoreDistillationConfig(views="camera"))
    with pytest.raises(InputError, match="Perp-Neg works with view words"):
        PerpNegDistillation(ToyPrior(camera_token=True), ScoreDistillationConfig(views="camera"))
    with pytest.raises(ValueError, match="needs cameras"):
        PerpNegDistillation(prior)(images, PROMPT, None, 0)
    with pytest.raises(ValueError, match='views="words" needs cameras'):
        ScoreDistillation(prior, ScoreDistillationConfig(views="words"))(images, PROMPT, None, 0)
    prior.mixing = prior.mixing * torch.inf
    with pytest.raises(InputError, match="prediction at step 0 holds NaN"):
        guidance(images, PROMPT, None, 0)


@pytest.mark.parametrize("values", [{"rescale": 1.5}, {"weighting": "dreamy"}, {"form": "v"}, {"views": "all"}])
def test_a_config_that_makes_no_sense_is_refused(values):
    with pytest.raises(InputError):
        ScoreDistillationConfig(**values)


@pytest.mark.parametrize("values", [{"start": (0.5, 0.2)}, {"end": (0.5, 1.2)}, {"steps": -1}, {"shape": "cosine"}])
def test_times_that_make_no_sense_are_refused(values):
    with pytest.raises(InputError):
        TimeRange(**values)
