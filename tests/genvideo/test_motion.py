"""The prior lifted into time: nothing is lost, and nothing is added before it is learned."""

from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_motion_model import MotionAdapter, UNetMotionModel

from core2d.app.errors import InputError
from core2d.files.manifests import UNET_CONFIGS
from core2d.prior.backbone import Backbone
from core2d.prior.condition import Condition
from core2d.prior.rows import as_clips, as_rows
from genvideo.animatediff.formats import Norms
from genvideo.animatediff.motion import (
    MotionBackbone,
    deflate,
    fresh_motion,
    inflate,
    temporal_parameters,
)
from genvideo.animatediff.norms import ClipNorm, FrameNorm


def frames(flat: Backbone, clips: int, count: int, seed: int = 0):
    """Noisy rows, their times and conditions."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(clips * count, 4, 8, 8, generator=generator).to(flat.dtype)
    times = torch.randint(1000, (clips,), generator=generator).repeat_interleave(count)
    words = ["a red mug", "a blue car", "a green dog"][:clips]
    return rows, times, flat.encode_text(words).repeat_interleave(count)


def over_clips(
    lifted: MotionBackbone, rows: torch.Tensor, times: torch.Tensor, words: Condition, count: int
) -> torch.Tensor:
    """The output (b f, c, h, w) for rows that are the frames of clips."""
    return as_rows(lifted.network(as_clips(rows, count), times[::count], words))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("mid_block", [True, False])
def test_a_fresh_clip_is_the_2d_model_frame_by_frame(tiny_folder, dtype, tolerance, mid_block):
    flat = Backbone.load(tiny_folder("sd1"), dtype=dtype)
    lifted = MotionBackbone(flat, fresh_motion(flat.family.denoiser, heads=2, mid_block=mid_block))
    rows, times, words = frames(flat, 2, 5)
    assert lifted.unet.dtype == dtype
    torch.testing.assert_close(
        over_clips(lifted, rows, times, words, 5), flat.network(rows, times, words), atol=tolerance, rtol=0
    )


def test_the_bundled_prior_too():
    flat = Backbone.load("toybox-sd")
    lifted = MotionBackbone(flat, fresh_motion(flat.family.denoiser, heads=4))
    rows, times, words = frames(flat, 1, 16)
    clips = over_clips(lifted, rows, times, words, 16)
    torch.testing.assert_close(clips, flat.network(rows, times, words), atol=1e-5, rtol=0)


def test_what_has_learned_sees_other_frames_of_its_own_clip_only(flat: Backbone, motion: MotionAdapter):
    lifted = MotionBackbone(flat, motion)
    rows, times, words = frames(flat, 2, 4)
    before = over_clips(lifted, rows, times, words, 4)
    rows[1] += 1  # a frame of the first clip
    change = (over_clips(lifted, rows, times, words, 4) - before).abs().amax(dim=(1, 2, 3))
    assert (change[:4] > 1e-4).all() and (change[4:] == 0).all()


def test_it_computes_what_diffusers_computes(flat: Backbone, motion: MotionAdapter):
    lifted = MotionBackbone(flat, motion)
    stock: Any = UNetMotionModel.from_unet2d(flat.family.denoiser, motion)
    rows, times, words = frames(flat, 2, 4)
    expected = stock(as_clips(rows, 4), times[::4], encoder_hidden_states=words.tokens).sample
    assert torch.equal(lifted.network(as_clips(rows, 4), times[::4], words), expected)
    assert torch.equal(lifted.network(as_clips(rows, 4), times[::4], words[[0, 4]]), expected)  # a row a clip, too


def test_rows_and_clips_are_each_others_inverse():
    rows = torch.arange(6 * 4 * 2 * 2).reshape(6, 4, 2, 2)
    clips = as_clips(rows, 3)
    assert clips.shape == (2, 4, 3, 2, 2) and torch.equal(clips[1, :, 0], rows[3])
    assert torch.equal(as_rows(clips), rows)


def test_decoding_in_parts_changes_nothing(flat: Backbone, motion: MotionAdapter):
    lifted = MotionBackbone(flat, motion)
    latents = torch.randn(2, 4, 5, 8, 8, generator=torch.Generator().manual_seed(1))
    whole = lifted.decode_clips(latents, at_once=100)
    assert whole.shape == (2, 3, 5, 16, 16)
    for at_once in (1, 3, 10):
        torch.testing.assert_close(lifted.decode_clips(latents, at_once), whole, atol=1e-6, rtol=0)


def test_the_temporal_weights_come_back_out(flat: Backbone, motion: MotionAdapter):
    unet = inflate(flat.family.denoiser, motion)
    with torch.no_grad():
        for parameter in temporal_parameters(unet).values():
            parameter += 1
    expected = {name: value + 1 if ".pe" not in name else value.clone() for name, value in motion.state_dict().items()}
    back = deflate(unet, motion).state_dict()
    assert back.keys() == expected.keys()
    assert all(torch.equal(back[name], expected[name]) for name in back)


def test_norms_see_a_frame_or_a_clip():
    clips = (
        torch.randn(2, 8, 3, 4, 4, generator=torch.Generator().manual_seed(2))
        * torch.tensor([1.0, 5.0])[:, None, None, None, None]
    )
    clips[:, :, 1] += 3
    by_frame, by_clip, plain = FrameNorm(4, 8), ClipNorm(4, 8), torch.nn.GroupNorm(4, 8)
    by_clip.frames = 3
    torch.testing.assert_close(as_rows(by_frame(clips)), plain(as_rows(clips)))
    torch.testing.assert_close(by_clip(as_rows(clips)), as_rows(plain(clips)))
    assert (as_rows(by_frame(clips)) - by_clip(as_rows(clips))).abs().max() > 0.5


def test_norms_of_the_original_code_are_honoured(flat: Backbone, motion: MotionAdapter):
    """Each choice is another function, and for clips of one frame there is nothing to choose."""
    rows, times, words = frames(flat, 1, 4)
    kinds = [Norms(), Norms("frame", "frame"), Norms("frame", "clip")]
    found = [over_clips(MotionBackbone(flat, motion, norms), rows, times, words, 4) for norms in kinds]
    assert (found[0] - found[1]).abs().max() > 1e-4 and (found[1] - found[2]).abs().max() > 1e-4
    found = [over_clips(MotionBackbone(flat, motion, norms), rows, times, words, 1) for norms in kinds]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-5, rtol=1e-5)


def test_published_sizes():
    """417.1376 and 453.20928 million parameters: v1 and v3 without, v2 with a module in the middle."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNET_CONFIGS["stable-diffusion-1.5"])
        for mid_block, size, modules in ((False, 417_137_600, 20), (True, 453_209_280, 21)):
            made = fresh_motion(unet, mid_block=mid_block)
            assert sum(parameter.numel() for parameter in made.parameters()) == size
            assert sum(name.endswith("proj_out.weight") for name in made.state_dict()) == modules


def test_what_does_not_fit_is_one_clear_error(flat: Backbone, motion: MotionAdapter, tiny_folder):
    lifted = MotionBackbone(flat, motion)
    rows, times, words = frames(flat, 1, lifted.window + 1)
    with pytest.raises(ValueError, match=rf"clips of {lifted.window + 1} frames: .* up to {lifted.window}"):
        over_clips(lifted, rows, times, words, lifted.window + 1)
    with pytest.raises(InputError, match="in words"):
        lifted.predict(as_clips(rows[:3], 3), 5, words[:1].seen_from(torch.zeros(1, 5)))
    with pytest.raises(ValueError, match="2 conditions"):
        lifted.predict(as_clips(rows[:3], 3), 5, words[:2])
    with pytest.raises(InputError, match=r"blocks of \(320, 640, 1280, 1280\) channels, not of \(8, 16\)"):
        with torch.device("meta"):
            full_size = MotionAdapter()
        inflate(flat.family.denoiser, full_size)
    with pytest.raises(InputError, match="not for StableDiffusionXLPipeline"):
        MotionBackbone(Backbone.load(tiny_folder("sdxl")), motion)
