"""Another autoencoder for the same latents: how clips get it, and how the bundled one is trained."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_motion_model import MotionAdapter

from core2d.app.errors import InputError
from core2d.bundled.training import TrainingSetup
from core2d.files.loading import load_model, save_model
from core2d.prior.backbone import Backbone
from genvideo.animatediff.formats import Facts, read_motion, write_motion
from genvideo.animatediff.motion import read_vae
from genvideo.animatediff.pipeline import AnimateDiff
from genvideo.toybox import video_vae
from genvideo.toybox.video_vae import train_video_vae


@pytest.fixture
def other(flat: Backbone, tmp_path: Path) -> Path:
    """The autoencoder of the prior with another last layer."""
    vae = load_model(AutoencoderKL, save(flat.vae, tmp_path / "as-it-was"), torch.float32)
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(-1)
    return save(vae, tmp_path / "other-vae")


def save(vae: AutoencoderKL, folder: Path) -> Path:
    save_model(vae, folder)
    return folder


def test_latents_are_the_same_and_the_other_decoder_shows_them(
    tiny_folder: Callable[..., Path], motion_folder: Path, other: Path
):
    plain, changed = (AnimateDiff.from_pretrained(tiny_folder("sd1"), motion_folder, vae=vae) for vae in (None, other))
    latents = [
        one("a red mug", num_frames=3, num_inference_steps=2, seed=1, output_type="latent").frames
        for one in (plain, changed)
    ]
    assert torch.equal(*latents)
    rows = latents[0][0].transpose(0, 1)
    encoded = rows / plain.prior.vae.config["scaling_factor"]
    shown = load_model(AutoencoderKL, other, torch.float32).decode(encoded).sample  # pyright: ignore
    torch.testing.assert_close(changed.prior.decode(rows), (shown / 2 + 0.5).clamp(0, 1))
    assert (plain.prior.decode(rows) - changed.prior.decode(rows)).abs().max() > 0.01


def test_modules_name_it(tiny_folder: Callable[..., Path], motion: MotionAdapter, other: Path, tmp_path: Path):
    write_motion(tmp_path / "motion", motion, facts=Facts(vae=other.name))
    assert read_motion(tmp_path / "motion").vae == other
    prior = AnimateDiff.from_pretrained(tiny_folder("sd1"), tmp_path / "motion").prior
    wanted = load_model(AutoencoderKL, other, torch.float32)
    assert torch.equal(prior.vae.decoder.conv_out.weight, wanted.decoder.conv_out.weight)
    prior = AnimateDiff.from_pretrained(tiny_folder("sd1"), tmp_path / "motion", vae=tiny_folder("sd1")).prior
    assert torch.equal(prior.vae.decoder.conv_out.weight, -wanted.decoder.conv_out.weight)  # what is asked for counts


def test_another_that_does_not_fit_is_refused(
    tiny_folder: Callable[..., Path], motion_folder: Path, motion: MotionAdapter, other: Path, tmp_path: Path
):
    vae = read_vae(other)
    vae.register_to_config(scaling_factor=0.123)
    with pytest.raises(InputError, match="other latents"):
        AnimateDiff.from_pretrained(tiny_folder("sd1"), motion_folder, vae=save(vae, tmp_path / "scaled"))
    with pytest.raises(InputError, match="holds MotionAdapter, not an AutoencoderKL"):
        read_vae(motion_folder)
    write_motion(tmp_path / "lost", motion, facts=Facts(vae="no-such-vae"))
    with pytest.raises(InputError, match="no model 'no-such-vae'"):
        AnimateDiff.from_pretrained(tiny_folder("sd1"), tmp_path / "lost")


def test_the_decoder_learns_and_the_encoder_stays(flat: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """From the prior's at first, later from its own; without a judge there is no score, and the last is kept."""
    monkeypatch.setattr(video_vae, "SCORED", 8)
    setup = TrainingSetup(tmp_path / "assets", tmp_path / "runs", 16, 8, resume=False, changes=(("steps", 2),))
    with pytest.raises(InputError, match="train the vae stage first"):
        train_video_vae(setup)
    save(flat.vae, setup.assets / "toybox-sd" / "vae")
    found = [flat.vae.state_dict()]
    for _ in range(2):
        assert train_video_vae(setup) == {}
        found.append(load_model(AutoencoderKL, setup.assets / video_vae.FOLDER, torch.float32).state_dict())
    for name, first in found[0].items():
        stays = name.startswith(("encoder.", "quant_conv."))
        assert not stays or all(torch.equal(later[name], first.half().float()) for later in found[1:]), name
    last = [state["decoder.conv_out.weight"] for state in found]
    assert not torch.equal(last[0].half().float(), last[1]) and not torch.equal(last[1], last[2])
