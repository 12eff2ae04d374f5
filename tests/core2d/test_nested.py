"""The prior of 128 pixels: latents nested in those of the first one, and what begins with its weights."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from core2d.app.errors import InputError
from core2d.app.registry import assets_folder
from core2d.bundled import nested, prior, scores
from core2d.bundled.autoencoder_layouts import Layout, even_out
from core2d.bundled.training import TrainingSetup
from core2d.prior.backbone import Backbone
from core2d.toybox.judge import as_seen
from core2d.training.autoencoder import AutoencoderTask


def posterior_of(model: Any, pictures: Tensor) -> Any:
    with torch.no_grad():
        return model.encode(pictures).latent_dist


def test_evened_channels_decode_to_the_same_and_have_the_wanted_spread() -> None:
    torch.manual_seed(0)
    model: Any = Layout((8, 8), 6, 16).build().eval()
    with torch.no_grad():
        model.quant_conv.weight.mul_(3)
    pictures = torch.rand(8, 3, 16, 16) * 2 - 1
    before = posterior_of(model, pictures)
    decoded = model.decode(before.mean).sample
    even_out(model, before.mean, before.std, known=2, scaling_factor=0.5)
    after = posterior_of(model, pictures)
    torch.testing.assert_close(model.decode(after.mean).sample, decoded, atol=1e-5, rtol=1e-4)
    assert torch.equal(after.mean[:, :2], before.mean[:, :2]) and torch.equal(after.std[:, :2], before.std[:, :2])
    new = after.mean[:, 2:]
    spread = (new.var((0, 2, 3)) + after.std[:, 2:].square().mean((0, 2, 3))).sqrt()
    torch.testing.assert_close(spread, torch.full((4,), 2.0), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(new.mean((0, 2, 3)), torch.zeros(4), atol=1e-3, rtol=0)


def test_the_first_channels_are_held_to_those_of_another_autoencoder() -> None:
    """The loss grows by the distance, and its gradient pulls at the first channels alone."""
    torch.manual_seed(0)
    model: Any = Layout((8, 8), 6, 16).build().eval()
    rgb = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8)
    plain = AutoencoderTask(model, lambda rows: (rgb[rows], torch.zeros(len(rows), 16, 16)), 4)
    known = torch.randn(4, 2, 8, 8)
    held = replace(plain, coarse=lambda _: known, coarse_weight=3.0)
    batch = plain.batch(0, torch.arange(4), 4)
    mean = posterior_of(model, batch["pictures"].float() / 127.5 - 1).mean
    loss, logged = held.loss(model, batch)
    expected = F.mse_loss(mean[:, :2], known)
    torch.testing.assert_close(loss - plain.loss(model, batch)[0], 3 * expected)
    assert logged["coarse"] == pytest.approx(expected.item(), rel=1e-5)
    model.zero_grad()
    (loss - plain.loss(model, batch)[0]).backward()
    rows = model.quant_conv.weight.grad.abs().sum((1, 2, 3))  # means, then log-variances
    assert (rows[:2] > 1e-3).all() and (rows[2:] < 1e-4).all()


def test_a_widened_prior_says_of_the_channels_it_knows_what_it_said() -> None:
    first = prior.load(assets_folder() / "toybox-sd")
    wide = prior.widened(first, 16)
    x_t, context = torch.randn(2, 16, 8, 8), torch.randn(2, 7, 128)
    with torch.no_grad():
        expected = first.unet(x_t[:, :4], 500, encoder_hidden_states=context).sample
        output = wide.unet(x_t, 500, encoder_hidden_states=context).sample
    torch.testing.assert_close(output[:, :4], expected)
    assert not output[:, 4:].any()
    assert torch.equal(first.unet.conv_in.weight, wide.unet.conv_in.weight[:, :4])  # and the first one is as it was
    gradient = torch.autograd.grad(wide.unet(x_t, 500, encoder_hidden_states=context).sample.sum(),
                                   wide.unet.conv_out.weight)[0]  # fmt: skip
    assert (gradient.abs().amax((1, 2, 3)) > 0).all()  # the new channels learn


def test_judges_see_pictures_of_128_pixels_averaged_over_areas() -> None:
    pictures = torch.rand(2, 3, 128, 128)
    torch.testing.assert_close(as_seen(pictures), F.avg_pool2d(pictures, 2))
    assert as_seen(torch.rand(1, 3, 100, 70)).shape == (1, 3, 64, 64)
    same = torch.rand(1, 3, 64, 64)
    assert as_seen(same) is same


def test_without_the_first_prior_one_line_says_what_to_do(tmp_path: Path) -> None:
    setup = TrainingSetup(tmp_path / "assets", tmp_path / "runs")
    with pytest.raises(InputError, match="train the vae stage first"):
        nested.train_vae(setup)
    with pytest.raises(InputError, match="train the vae-128 stage first"):
        nested.train_prior(setup)


@pytest.mark.slow
def test_both_stages_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assets = tmp_path / "assets"
    assets.mkdir()
    for name in ("toybox-sd", "toybox-clip", "toybox-judge"):
        (assets / name).symlink_to(assets_folder() / name)
    monkeypatch.setattr(scores, "vae_scores", partial(scores.vae_scores, count=8))
    monkeypatch.setattr(scores, "reconstruction_scores", partial(scores.reconstruction_scores, count=8))
    monkeypatch.setattr(nested.train_networks.__globals__["scores"], "STEPS", 2)
    changes = (("steps", 2), ("batch_size", 2), ("minutes", 5))
    setup = TrainingSetup(assets, tmp_path / "runs", pictures=64, changes=changes)
    found = nested.train_vae(setup)
    assert {"psnr", "read_both"} <= found.keys()

    monkeypatch.setattr("core2d.bundled.stages.prior_and_camera_scores", lambda *_: {"both": 0.5})
    assert nested.train_prior(setup) == {"both": 0.5}
    backbone = Backbone.load(assets / nested.FOLDER)
    assert (backbone.image_size, backbone.latent_channels, backbone.latent_size) == (128, 16, 8)
    assert backbone.world == "toybox" and backbone.has_camera_token
    first = Backbone.load(assets / "toybox-sd")
    assert backbone.vae.config["scaling_factor"] == first.vae.config["scaling_factor"]
    assert (assets / nested.FOLDER / "README.md").is_file()
