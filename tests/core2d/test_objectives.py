"""What is minimised, against closed forms and plain loops; and which rows a step of training sees."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from core2d.prior.camera_token import CameraToken
from core2d.prior.schedule import NoiseSchedule
from core2d.training.autoencoder import AutoencoderTask, kl_loss, perceptual_loss, reconstruction_loss
from core2d.training.contrastive import ContrastiveTask, contrastive_loss
from core2d.training.latent_diffusion import DenoisingTask, LatentDiffusion, PriorNetworks
from core2d.training.loop import Task

COUNT, BATCH = 40, 16


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def assert_pure_and_split(task: Task) -> None:
    """A step's rows do not depend on what was asked before, nor on how many processes share them."""
    whole = {step: task.batch(step, torch.arange(BATCH), BATCH) for step in (3, 0, 1, 2)}
    torch.manual_seed(99)
    for step in (0, 1, 2, 3):
        assert_same(task.batch(step, torch.arange(BATCH), BATCH), whole[step])
        first, second = torch.arange(BATCH).split(BATCH // 2)
        halves = [task.batch(step, positions, BATCH) for positions in (first, second)]
        assert_same({name: torch.cat([half[name] for half in halves]) for name in halves[0]}, whole[step])
    changed = [not torch.equal(value, whole[1][name]) for name, value in whole[3].items()]
    assert all(changed), "a batch repeats itself"


# -- autoencoder ---------------------------------------------------------------------------------------


def test_kl_is_that_of_two_normals() -> None:
    mean, logvar = random(2, 4, 3, 3).double(), random(2, 4, 3, 3, seed=1).double()
    expected = kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(kl_loss(mean, logvar), expected)
    assert kl_loss(torch.zeros(5), torch.zeros(5)) == 0


def test_perceptual_is_two_minus_twice_the_cosine_summed_over_layers() -> None:
    """Of unit vectors |a - b|^2 = 2 - 2 a b, so lengths of features do not count."""
    ours, true = ([random(2, 6, 5, seed=s), random(2, 3, 7, seed=s + 1)] for s in (0, 2))
    expected = sum((2 - 2 * torch.cosine_similarity(a, b, dim=-1)).mean() for a, b in zip(ours, true, strict=True))
    torch.testing.assert_close(perceptual_loss(ours, true), expected)
    torch.testing.assert_close(perceptual_loss([3 * a for a in ours], true), expected)
    assert perceptual_loss(true, [0.5 * b for b in true]) < 1e-12


def test_reconstruction_is_what_loops_say() -> None:
    output, target = random(2, 3, 4, 5).double(), random(2, 3, 4, 5, seed=1).double()
    weight = 1 + random(2, 1, 4, 5, seed=2).double().abs()
    d = [[[[float((output - target)[b, c, y, x] * weight[b, 0, y, x]) for x in range(5)] for y in range(4)]
          for c in range(3)] for b in range(2)]  # fmt: skip
    places = [(b, c, y, x) for b in range(2) for c in range(3) for y in range(4) for x in range(5)]
    absolute = sum(abs(d[b][c][y][x]) for b, c, y, x in places) / 120
    square = sum(d[b][c][y][x] ** 2 / float(weight[b, 0, y, x]) for b, c, y, x in places) / 120
    across = sum(abs(d[b][c][y][x] - d[b][c][y][x - 1]) for b, c, y, x in places if x) / 96
    down = sum(abs(d[b][c][y][x] - d[b][c][y - 1][x]) for b, c, y, x in places if y) / 90
    value = reconstruction_loss(output, target, weight)
    assert float(value) == pytest.approx(absolute + 5 * square + across + down)
    assert reconstruction_loss(target, target, weight) == 0
    torch.testing.assert_close(reconstruction_loss(output, target, 2 * weight), 2 * value)


@pytest.fixture
def autoencoder_task(tiny_models: Any) -> AutoencoderTask:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    pictures = torch.randint(256, (COUNT, 3, 16, 16), generator=generator, dtype=torch.uint8)
    masks = torch.randint(256, (COUNT, 16, 16), generator=generator, dtype=torch.uint8)
    return AutoencoderTask(tiny_models.autoencoder(), lambda rows: (pictures[rows], masks[rows]), COUNT)


def test_the_autoencoder_sees_random_rows_with_their_masks(autoencoder_task: AutoencoderTask) -> None:
    assert_pure_and_split(autoencoder_task)
    batch = autoencoder_task.batch(5, torch.arange(BATCH), BATCH)
    assert batch["noise"].shape == (BATCH, 4, 8, 8)  # as the posterior of this model, which halves the sides
    pictures, masks = autoencoder_task.rows(torch.arange(COUNT))
    for picture, mask in zip(batch["pictures"], batch["masks"], strict=True):
        row = (pictures == picture).flatten(1).all(1).nonzero().item()
        assert torch.equal(mask, masks[int(row)])


@pytest.mark.parametrize("latent_noise", [0.0, 0.5])
def test_the_autoencoders_loss_is_reconstruction_and_weighted_kl(
    autoencoder_task: AutoencoderTask, latent_noise: float
) -> None:
    task, model = replace(autoencoder_task, latent_noise=latent_noise), autoencoder_task.model
    batch = task.batch(0, torch.arange(4), BATCH)
    with torch.no_grad():
        target = batch["pictures"] / 127.5 - 1
        assert target.min() == -1 and target.max() == 1
        posterior = model.encode(target).latent_dist  # pyright: ignore
        latent = posterior.mean + (posterior.var + latent_noise**2).sqrt() * batch["noise"]
        output = model.decode(latent).sample  # pyright: ignore
        weight = 1 + task.body_weight * batch["masks"][:, None] / 255
        divergence = kl_loss(posterior.mean, posterior.logvar)
        loss, parts = task.loss(model, batch)
        torch.testing.assert_close(loss, reconstruction_loss(output, target, weight) + task.kl_weight * divergence)
        error = (output / 2 - target / 2).square().mean()  # of pictures in [0, 1]
        assert float(parts["psnr"]) == pytest.approx(-10 * math.log10(error), abs=1e-4)
        torch.testing.assert_close(parts["kl"], divergence)
        task.sample, task.kl_weight = False, 0.0  # a plain autoencoder
        plain = task.loss(model, batch)[0]
        assert torch.equal(plain, task.loss(model, batch | {"noise": 9 + batch["noise"]})[0])
        torch.testing.assert_close(
            plain,
            reconstruction_loss(model.decode(posterior.mean).sample, target, weight),  # pyright: ignore
        )


def test_features_add_what_they_see(autoencoder_task: AutoencoderTask) -> None:
    """0.3 times the perceptual loss of what was decoded, and a gradient through it."""
    seen = replace(autoencoder_task, features=lambda shown: [shown.flatten(2).mT])
    batch = seen.batch(1, torch.arange(BATCH), BATCH)
    (plain, _), (loss, logged) = (task.loss(task.model, batch) for task in (autoencoder_task, seen))
    perceptual = logged["perceptual"]
    assert isinstance(perceptual, Tensor) and perceptual > 0 and not perceptual.requires_grad
    torch.testing.assert_close(loss, plain + 0.3 * perceptual)
    weight: Any = seen.model.decoder.conv_out.weight
    with_features, without = (torch.autograd.grad(one, weight)[0] for one in (loss, plain))
    assert not torch.allclose(with_features, without)


# -- contrastive ---------------------------------------------------------------------------------------


def test_the_contrastive_loss_is_what_loops_say() -> None:
    images, texts, scale = random(5, 8).double(), random(5, 8, seed=1).double(), torch.tensor(3.0).double()

    def cosine(a: Tensor, b: Tensor) -> float:
        return float(a @ b / (a.norm() * b.norm()))

    logits = [[3 * cosine(image, text) for text in texts] for image in images]
    to_text = sum(math.log(sum(math.exp(x) for x in logits[i])) - logits[i][i] for i in range(5)) / 5
    to_image = sum(math.log(sum(math.exp(row[i]) for row in logits)) - logits[i][i] for i in range(5)) / 5
    value = contrastive_loss(images, texts, scale)
    assert float(value) == pytest.approx((to_text + to_image) / 2)
    torch.testing.assert_close(contrastive_loss(texts, images, scale), value)
    torch.testing.assert_close(contrastive_loss(7 * images, 0.1 * texts, scale), value)
    assert float(contrastive_loss(images, texts, torch.tensor(0.0))) == pytest.approx(math.log(5))
    assert contrastive_loss(torch.eye(5), torch.eye(5), torch.tensor(100.0)) < 1e-6


class TwoTowers(nn.Module):
    """Stands in for CLIP: a caption's first token is its embedding's direction, and so is a picture's first byte."""

    def __init__(self, logit_scale: float) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(logit_scale))

    def forward(self, input_ids: Tensor, pixel_values: Tensor) -> SimpleNamespace:
        rows = pixel_values[:, 0, 0, 0].round().long()
        return SimpleNamespace(text_embeds=torch.eye(COUNT)[input_ids[:, 0]], image_embeds=torch.eye(COUNT)[rows])


def contrastive_task(logit_scale: float) -> ContrastiveTask:
    pictures = torch.arange(COUNT, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)
    tokens = torch.arange(COUNT)[:, None].expand(-1, 6)
    model: Any = TwoTowers(logit_scale)
    return ContrastiveTask(model, pictures.__getitem__, tokens, lambda pixels: 255 * pixels)


def test_clip_sees_each_row_once_a_step_with_its_own_caption() -> None:
    task = contrastive_task(1.0)
    assert_pure_and_split(task)
    batch = task.batch(0, torch.arange(BATCH), BATCH)
    assert batch["tokens"][:, 0].unique().numel() == BATCH
    assert torch.equal(batch["pictures"][:, 0, 0, 0].long(), batch["tokens"][:, 0])


def test_clips_temperature_is_bounded_and_its_ranking_logged() -> None:
    task = contrastive_task(logit_scale=10.0)  # exp(10) is far above 100
    batch = task.batch(0, torch.arange(4), BATCH)
    loss, parts = task.loss(task.model, batch)
    torch.testing.assert_close(loss, contrastive_loss(torch.eye(4), torch.eye(4), torch.tensor(100.0)))
    assert parts["top1"] == 1
    wrong = batch | {"tokens": batch["tokens"].roll(1, 0)}
    loss, parts = task.loss(task.model, wrong)
    assert float(loss.detach()) == pytest.approx(100, abs=1e-3) and parts["top1"] == 0


# -- latent diffusion ----------------------------------------------------------------------------------


def written_out(kind: str, floor: float, x0: Tensor, seen: Tensor, noise: Tensor, t: Tensor) -> dict[str, Tensor]:
    """Row after row in float64: x_t = sqrt(abar) x0 + sqrt(1 - abar) eps; v = alpha eps - sigma x0 (2202.00512)."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    rows = []
    for latents, over, eps, step in zip(x0.double(), seen.double(), noise.double(), t.tolist(), strict=True):
        abar = math.prod((1 - betas[: step + 1]).tolist())
        alpha, sigma = abar**0.5, (1 - abar) ** 0.5
        x_t = alpha * over + sigma * eps
        leads = (x_t - alpha * latents) / sigma  # the noise that there would be over the latents
        on_x0 = min(max(abar / (1 - abar), floor), 5.0)  # 2303.09556 section 3.4, with a floor
        target, weight = {
            "epsilon": (leads, on_x0 * (1 - abar) / abar),  # errors of epsilon are alpha / sigma times those of x0
            "sample": (latents, on_x0),
            "v_prediction": (alpha * leads - sigma * latents, on_x0 * (1 - abar)),  # and of v 1 / sigma times
        }[kind]
        rows.append((x_t, target, torch.tensor(weight, dtype=torch.float64)))
    noisy, target, weight = (torch.stack(column) for column in zip(*rows, strict=True))
    return {"noisy": noisy, "target": target, "weight": weight}


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 5, 3, 4)])
def test_latent_diffusion_is_its_formula(kind: str, shape: tuple[int, ...]) -> None:
    """For pictures and clips, with noise over the latents themselves and over something else."""
    objective = LatentDiffusion(schedule(kind), snr_floor=0.2)
    t = torch.tensor([0, 3, 120, 500, 998, 999])
    x0, noise, shown, predicted = (random(6, *shape, seed=seed).double() for seed in range(4))
    for seen in (None, shown):
        rows = objective.noisy(x0, noise, t, seen)
        expected = written_out(kind, 0.2, x0, x0 if seen is None else seen, noise, t)
        assert rows.keys() == {"noisy", "target", "weight", "timesteps"} and torch.equal(rows["timesteps"], t)
        for name, value in expected.items():
            torch.testing.assert_close(rows[name].double(), value, rtol=1e-5, atol=1e-9)
        loss, logged = objective.loss(predicted.float(), rows)
        errors = [(predicted[i].float() - expected["target"][i]).square().mean() for i in range(6)]
        weighted = [error * weight for error, weight in zip(errors, expected["weight"], strict=True)]
        torch.testing.assert_close(loss, torch.stack(weighted).mean(), rtol=1e-5, atol=0)
        torch.testing.assert_close(logged["mse"], torch.stack(errors).mean(), rtol=1e-5, atol=0)


def test_only_frames_that_are_asked_for_have_an_error() -> None:
    objective = LatentDiffusion(schedule())
    x0, noise, predicted = (random(3, 2, 4, 3, 3, seed=seed) for seed in range(3))
    predicted.requires_grad_(True)
    rows = objective.noisy(x0, noise, torch.tensor([10, 400, 900]))
    asked = torch.tensor([[True, False, True, False], [False] * 4, [True] * 4])
    loss, _ = objective.loss(predicted, rows, asked)
    error = [[(predicted - rows["target"])[i, :, f].square().mean() for f in range(4) if asked[i, f]] for i in range(3)]
    expected = [rows["weight"][i] * torch.stack(each).mean() for i, each in enumerate(error) if each]
    torch.testing.assert_close(loss, torch.stack(expected).sum() / 3)
    (gradient,) = torch.autograd.grad(loss, predicted)
    assert torch.equal(gradient.abs().amax((1, 3, 4)) > 0, asked)
    everything = objective.loss(predicted, rows, torch.ones_like(asked))[0]
    torch.testing.assert_close(everything, objective.loss(predicted, rows)[0])


def test_times_are_drawn_alike_and_by_their_generator() -> None:
    objective = LatentDiffusion(schedule())
    times, again = (objective.timesteps(50_000, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(times, again) and (times.min(), times.max()) == (0, 999)
    assert torch.bincount(times // 100, minlength=10).sub(5000).abs().max() < 5 * math.sqrt(50_000 * 0.09)


# -- denoising -----------------------------------------------------------------------------------------


class Echo(nn.Module):
    """Stands in for a UNet: its answer is the noisy input times a number, and it remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.context = torch.empty(0)

    def forward(self, noisy: Tensor, timesteps: Tensor, encoder_hidden_states: Tensor) -> SimpleNamespace:
        self.context = encoder_hidden_states
        shift = encoder_hidden_states.mean((1, 2))[:, None, None, None]
        return SimpleNamespace(sample=self.scale * noisy + shift + timesteps[:, None, None, None] / 1000)


def schedule(prediction_type: str = "epsilon") -> NoiseSchedule:
    config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    return NoiseSchedule.from_config(config | {"prediction_type": prediction_type})


def denoising_task(with_camera: bool = True, prediction_type: str = "epsilon", **changes: Any) -> DenoisingTask:
    """Row i has the latent i everywhere, the tokens i, the camera i; even rows are stills."""
    torch.manual_seed(0)
    unet: Any = Echo()
    rows = torch.arange(COUNT)
    settings: dict[str, Any] = dict(
        model=PriorNetworks(unet, CameraToken(context_dim=8, subject_dim=8, hidden_dim=8) if with_camera else None),
        mean=rows[:, None, None, None].expand(-1, 2, 3, 3).half(),
        deviation=torch.zeros(COUNT, 2, 3, 3).half(),
        tokens=1 + rows[:, None].expand(-1, 6),
        empty=torch.zeros(6, dtype=torch.long),
        encode_text=nn.Embedding(COUNT + 1, 8),
        camera=rows[:, None].expand(-1, 5).float(),
        stills=rows[::2],
        schedule=schedule(prediction_type),
    )
    return DenoisingTask(**(settings | changes))


def latents_of(task: DenoisingTask, batch: dict[str, Tensor]) -> Tensor:
    """(n, c, h, w) underneath the noise."""
    alpha, sigma = task.schedule.alpha_sigma(batch["timesteps"], batch["noisy"])
    return (batch["noisy"] - sigma * batch["target"]) / alpha


def rows_of(task: DenoisingTask, batch: dict[str, Tensor]) -> Tensor:
    """(n,) which rows were noised: their latents are their number."""
    return latents_of(task, batch).mean((1, 2, 3)).round().long()


@pytest.mark.parametrize("with_camera", [True, False])
def test_a_denoising_step_is_pure_and_can_be_shared(with_camera: bool) -> None:
    assert_pure_and_split(denoising_task(with_camera))


def test_odd_steps_see_stills_with_their_camera_and_even_steps_everything_without() -> None:
    task, seen = denoising_task(), set()
    for step in range(40):
        batch = task.batch(step, torch.arange(BATCH), BATCH)
        assert ("camera" in batch) == (step % 2 == 1)
        rows = rows_of(task, batch)
        if step % 2:
            assert torch.equal(batch["camera"][:, 0].long(), rows) and (rows % 2 == 0).all()
        else:
            seen |= set(rows.tolist())
    assert seen == set(range(COUNT))
    assert all("camera" not in denoising_task(False).batch(step, torch.arange(2), 2) for step in range(4))


def test_one_caption_in_ten_is_replaced_by_the_empty_one_and_its_camera_stays() -> None:
    task, dropped = denoising_task(), []
    for step in range(150):
        batch = task.batch(step, torch.arange(64), 64)
        rows = rows_of(task, batch)
        empty = (batch["tokens"] == 0).all(1)
        assert torch.equal(batch["tokens"][~empty], task.tokens[rows[~empty]])
        if step % 2:
            assert torch.equal(batch["camera"][empty], task.camera[rows[empty]])
        dropped.append(empty)
    share = torch.cat(dropped).double().mean()
    assert abs(share - 0.1) < 4 * math.sqrt(0.09 / (150 * 64))
    assert not (denoising_task(drop=0.0).batch(0, torch.arange(64), 64)["tokens"] == 0).any()


def test_noise_times_and_posteriors_have_their_distributions() -> None:
    deviation = torch.full((COUNT, 2, 3, 3), 0.25)
    task = denoising_task(False, mean=torch.zeros(COUNT, 2, 3, 3), deviation=deviation)
    batch = task.batch(0, torch.arange(20_000), 20_000)
    latents = latents_of(task, batch)
    late = batch["timesteps"] < 300  # where the latent can be told from its noise
    assert float(latents[late].std()) == pytest.approx(0.25, rel=0.02)
    noise = batch["target"]
    assert abs(float(noise.mean())) < 0.01 and float(noise.std()) == pytest.approx(1, abs=0.01)
    times = batch["timesteps"]
    assert times.min() == 0 and times.max() == 999
    assert float(times.double().mean()) == pytest.approx(499.5, abs=8)
    abar = task.schedule.alphas_cumprod
    assert abar is not None
    snr = (abar / (1 - abar))[times]
    torch.testing.assert_close(batch["weight"].double(), snr.clamp(task.snr_floor, 5) / snr, rtol=1e-4, atol=1e-7)


def test_the_target_is_what_the_schedule_predicts() -> None:
    noise = denoising_task(False).batch(0, torch.arange(BATCH), BATCH)["target"]
    task = denoising_task(False, "v_prediction")
    batch = task.batch(0, torch.arange(BATCH), BATCH)
    clean = task.schedule.prediction(batch["target"], batch["noisy"], batch["timesteps"])
    torch.testing.assert_close(clean.eps, noise, atol=1e-3, rtol=0)
    torch.testing.assert_close(clean.x0.mean((1, 2, 3)).round(), clean.x0.mean((1, 2, 3)), atol=1e-3, rtol=0)


@pytest.mark.parametrize("step", [0, 1])
def test_the_loss_is_the_weighted_squared_error(step: int) -> None:
    task = denoising_task()
    batch = task.batch(step, torch.arange(BATCH), BATCH)
    loss, parts = task.loss(task.model, batch)
    unet: Any = task.model.unet
    text = task.encode_text(batch["tokens"])
    assert unet.context.shape == (BATCH, 6 + step, 8)  # the camera is one more token, after the text
    assert torch.equal(unet.context[:, :6], text)
    if step:
        assert task.model.camera_token is not None
        assert torch.equal(unet.context[:, 6:], task.model.camera_token(batch["camera"], text))
    predicted = unet(batch["noisy"], batch["timesteps"], unet.context).sample.detach()
    errors = [(predicted[i] - batch["target"][i]).square().mean() for i in range(BATCH)]
    expected = sum(float(error * weight) for error, weight in zip(errors, batch["weight"], strict=True)) / BATCH
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(parts["mse"], torch.stack(errors).mean().detach())
    loss.backward()
    assert unet.scale.grad is not None
    assert all((p.grad is not None) == bool(step) for p in task.model.camera_token.parameters())  # pyright: ignore
    assert all(p.grad is not None for p in task.encode_text.parameters())  # pyright: ignore[reportFunctionMemberAccess]


def test_two_processes_together_have_the_loss_of_one() -> None:
    for step in (0, 1):
        task = denoising_task()
        batches = [task.batch(step, positions, BATCH) for positions in torch.arange(BATCH).split(BATCH // 2)]
        halves = [task.loss(task.model, batch)[0] for batch in batches]
        whole = task.loss(task.model, task.batch(step, torch.arange(BATCH), BATCH))[0]
        torch.testing.assert_close((halves[0] + halves[1]) / 2, whole, rtol=1e-5, atol=0)
