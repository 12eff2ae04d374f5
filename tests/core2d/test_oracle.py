"""The exact denoiser of a finite set, against brute force and against the density it belongs to."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from core2d.app.errors import InputError
from core2d.prior.oracle import STABLE_DIFFUSION_SCHEDULE, OracleBackbone
from core2d.systems.text_to_image.pipeline import TextToImage

CAPTIONS = ["a red mug, seen from the front", "a red mug, seen from the back", "a blue chair", "a red chair"]


def some_latents(count: int = 4) -> Tensor:
    return torch.randn(count, 4, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def some_noisy(rows: int = 3) -> Tensor:
    return torch.randn(rows, 4, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def brute_force_mean(x_t: Tensor, latents: Tensor, alpha: float, sigma: float) -> Tensor:
    """Weighted mean of the set for one x_t (c, h, w), by a plain loop over normalised densities."""
    exponents = [-float(((x_t - alpha * x) ** 2).sum()) / (2 * sigma**2) for x in latents]
    weights = [torch.tensor(value - max(exponents), dtype=torch.float64).exp() for value in exponents]
    mean = torch.zeros_like(x_t)
    for weight, x in zip(weights, latents, strict=True):
        mean += weight / sum(weights) * x
    return mean


@pytest.mark.parametrize("t", [1, 250, 600, 999])
def test_it_is_the_posterior_mean(t: int):
    latents, x_t = some_latents(), some_noisy()
    oracle = OracleBackbone(latents)
    prediction = oracle.predict(x_t, t, oracle.encode_text([""]))
    alpha, sigma = float(prediction.alpha_t[0]), float(prediction.sigma_t[0])
    expected = torch.stack([brute_force_mean(row, latents, alpha, sigma) for row in x_t])
    torch.testing.assert_close(prediction.x0, expected, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(alpha * prediction.x0 + sigma * prediction.eps, x_t)


def test_it_is_the_score_of_a_gaussian_mixture():
    """eps = -sigma grad log p_t, with the gradient taken numerically from the density itself."""
    latents, x_t, t = some_latents(), 0.7 * some_noisy(1), 400
    oracle = OracleBackbone(latents)
    prediction = oracle.predict(x_t, t, oracle.encode_text([""]))
    alpha, sigma = float(prediction.alpha_t[0]), float(prediction.sigma_t[0])

    def log_density(x: Tensor) -> Tensor:
        return (-((x - alpha * latents.flatten(1)) ** 2).sum(1) / (2 * sigma**2)).logsumexp(0)

    point, step = x_t.flatten(), 1e-5
    steps = step * torch.eye(len(point), dtype=torch.float64)
    gradient = torch.stack([(log_density(point + e) - log_density(point - e)) / (2 * step) for e in steps])
    torch.testing.assert_close(prediction.eps.flatten(), -sigma * gradient, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_prediction_does_not_depend_on_what_its_network_predicts(kind: str):
    latents, x_t = some_latents(), some_noisy()
    t = torch.tensor([10, 400, 900])
    plain = OracleBackbone(latents, CAPTIONS)
    other = OracleBackbone(latents, CAPTIONS, scheduler_config=STABLE_DIFFUSION_SCHEDULE | {"prediction_type": kind})
    condition, unconditional = plain.encode_text(["red"]), plain.encode_text([""])
    wanted = plain.predict_cfg(x_t, t, condition, unconditional, 7.5, rescale=0.5, rescale_on="x0")
    found = other.predict_cfg(x_t, t, condition, unconditional, 7.5, rescale=0.5, rescale_on="x0")
    torch.testing.assert_close(found.x0, wanted.x0)
    torch.testing.assert_close(found.eps, wanted.eps)


def test_flow_matching_oracle():
    latents, x_t = some_latents(), some_noisy()
    oracle = OracleBackbone(latents, scheduler_config={"_class_name": "FlowMatchEulerDiscreteScheduler"})
    t = torch.tensor([100.5, 500.0, 900.0])
    prediction = oracle.predict(x_t, t, oracle.encode_text([""]))
    for row in range(3):
        expected = brute_force_mean(x_t[row], latents, 1 - float(t[row]) / 1000, float(t[row]) / 1000)
        torch.testing.assert_close(prediction.x0[row], expected)


def test_a_prompt_restricts_the_set():
    latents, x_t = some_latents(), some_noisy()
    oracle, t = OracleBackbone(latents, CAPTIONS), 700
    red_mugs = oracle.predict(x_t, t, oracle.encode_text(["a Red mug"]))
    torch.testing.assert_close(
        red_mugs.x0,
        OracleBackbone(latents[:2]).predict(x_t, t, OracleBackbone(latents[:2]).encode_text([""])).x0,
    )
    only = oracle.predict(x_t, t, oracle.encode_text(["chair, red"]))
    torch.testing.assert_close(only.x0, latents[3:].expand(3, -1, -1, -1))


def test_guidance_extrapolates_from_the_whole_set():
    latents, x_t = some_latents(), some_noisy()
    oracle = OracleBackbone(latents, CAPTIONS)
    condition, unconditional = oracle.encode_text(["blue"]), oracle.encode_text([""])
    guided = oracle.predict_cfg(x_t, 700, condition, unconditional, 4.0)
    with_text, without = oracle.predict(x_t, 700, condition), oracle.predict(x_t, 700, unconditional)
    torch.testing.assert_close(guided.eps, without.eps + 4 * (with_text.eps - without.eps))


def test_a_camera_keeps_the_nearest_view_of_the_selection():
    latents, x_t = some_latents(), some_noisy()
    angles = torch.tensor([0.0, 3.1, 0.1, 1.5])
    cameras = SimpleNamespace(azimuth=angles, elevation=torch.zeros(4), radius=torch.full((4,), 2.0))
    oracle = OracleBackbone(latents, CAPTIONS, cameras)
    wanted = SimpleNamespace(
        azimuth=torch.tensor([0.2, 3.0, 0.2]), elevation=torch.zeros(3), radius=torch.full((3,), 2.0)
    )
    with_text = oracle.predict(x_t, 700, oracle.encode_text(["mug"]).seen_from(wanted))
    torch.testing.assert_close(with_text.x0, latents[[0, 1, 0]])
    anything = oracle.predict(x_t, 700, oracle.encode_text([""]).seen_from(wanted))
    torch.testing.assert_close(anything.x0, latents[[2, 1, 2]])
    assert oracle.has_camera_token


def test_what_it_cannot_know_is_refused():
    latents = some_latents()
    with pytest.raises(InputError, match="no captions"):
        OracleBackbone(latents).encode_text(["a mug"])
    with pytest.raises(InputError, match="nothing in the oracle's set is described by 'a dragon'"):
        OracleBackbone(latents, CAPTIONS).encode_text(["a dragon"])
    oracle = OracleBackbone(latents)
    with pytest.raises(InputError, match="no cameras"):
        oracle.predict(latents, 10, oracle.encode_text([""]).seen_from(torch.zeros(4, 5)))
    with pytest.raises(ValueError, match="1 captions for 4 latents"):
        OracleBackbone(latents, ["a mug"])


def test_images_are_its_latents_where_it_has_no_autoencoder():
    images = torch.rand(2, 3, 4, 4)
    oracle = OracleBackbone(2 * images - 1)
    torch.testing.assert_close(oracle.decode(oracle.encode_images(images)), images)
    assert (oracle.image_size, oracle.vae_scale_factor, oracle.latent_channels) == (4, 1, 3)


@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpm++"])
def test_sampling_from_it_ends_in_the_set(sampler: str):
    latents = some_latents()
    drawn = TextToImage(OracleBackbone(latents, CAPTIONS), sampler)(
        "red",
        num_images_per_prompt=8,
        num_inference_steps=50,
        guidance_scale=1,
        seed=0,
        output_type="latent",
    ).images
    distance = torch.cdist(drawn.double().flatten(1), latents.flatten(1))  # (8, 4)
    assert distance.amin(1).max() < 0.3  # DDIM ends with the noise of its last step, 0.03 x sqrt(36) long
    nearest = set(distance.argmin(1).tolist())
    assert 2 not in nearest and len(nearest) > 1  # red things only, and not always the same one
