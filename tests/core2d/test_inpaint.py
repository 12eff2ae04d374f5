"""Parts of pictures drawn anew: masks, windows, seams, models of both kinds, the commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_inpaint as stock
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from core2d.__main__ import main
from core2d.adapters.lora import UNET, Lora, LowRank
from core2d.adapters.lora_files import write_lora
from core2d.adapters.lora_learning import fresh_lora
from core2d.adapters.options import with_lora
from core2d.app.errors import InputError
from core2d.media.pictures import read_image
from core2d.prior.backbone import Backbone
from core2d.prior.schedulers import make_scheduler
from core2d.systems.inpaint.canvas import LONGEST, drawn_size, widened, window_around
from core2d.systems.inpaint.formats import fresh_inpainter, load_inpainter, with_first_layer, write_borrowing
from core2d.systems.inpaint.masks import on_latents, scaled, training_masks
from core2d.systems.inpaint.pipeline import Inpaint, told
from core2d.systems.inpaint.seam import joined, membrane
from core2d.systems.text_to_image.pipeline import TextToImage

TinyFolder = Callable[..., Path]

# -- masks and windows ---------------------------------------------------------------------------------------------


def test_a_latent_is_masked_where_any_pixel_of_it_is() -> None:
    """A stroke of one pixel is not lost, as by nearest pixels; masks that end at latents are as they are there."""
    thin = torch.zeros(1, 1, 32, 32)
    thin[..., 5, :] = 1
    seen = on_latents(thin, 8)
    assert seen[0, 0].tolist() == [[1.0] * 4, [0.0] * 4, [0.0] * 4, [0.0] * 4]
    assert torch.nn.functional.interpolate(thin, size=(4, 4)).sum() == 0
    coarse = (torch.rand(1, 1, 4, 4) < 0.5).float()
    assert torch.equal(on_latents(coarse.repeat_interleave(8, 2).repeat_interleave(8, 3), 8), coarse)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(1, 40), st.data())
def test_no_masked_pixel_is_lost_when_a_mask_is_scaled(h: int, w: int, to_h: int, to_w: int, data: Any) -> None:
    row, column = data.draw(st.integers(0, h - 1)), data.draw(st.integers(0, w - 1))
    mask = np.zeros((h, w), bool)
    mask[row, column] = True
    there = scaled(mask, to_h, to_w)
    assert there[int((row + 0.5) * to_h / h), int((column + 0.5) * to_w / w)]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.floats(0, 3), st.integers(0, 2**31))
def test_a_window_holds_the_mask_and_lies_in_the_picture(h: int, w: int, context: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = np.zeros((h, w), bool)
    top, left = random.integers(h), random.integers(w)
    mask[top : top + random.integers(1, h + 1), left : left + random.integers(1, w + 1)] = True
    window = window_around(mask, context, 64)
    assert mask[window.part].sum() == mask.sum()
    assert 0 <= window.top <= h - window.height and 0 <= window.left <= w - window.width
    assert window.height >= min(64, h) and window.width >= min(64, w)
    height, width = drawn_size(window, 64, 8)
    assert height % 8 == width % 8 == 0 and max(height, width) <= 64 * LONGEST and min(height, width) >= 8


def test_a_picture_of_the_models_size_is_seen_whole_and_as_it_is() -> None:
    mask = np.zeros((64, 64), bool)
    mask[30:33, 30:33] = True
    window = window_around(mask, 0.5, 64)
    assert window == (0, 0, 64, 64) and drawn_size(window, 64, 8) == (64, 64)


def test_training_masks_are_a_function_of_the_generator_and_a_quarter_is_full() -> None:
    first, again = (training_masks(400, 32, 32, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, again) and set(first.unique().tolist()) == {0.0, 1.0}
    shares = first.mean((1, 2, 3))
    assert (shares > 0).all() and 0.19 < (shares == 1).float().mean() < 0.33
    assert 0.2 < shares[shares < 1].mean() < 0.6 and not torch.equal(first[0], first[1])


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 20),
    st.integers(1, 20),
    st.lists(st.integers(0, 30), min_size=4, max_size=4),
    st.sampled_from([3, 4]),
)
def test_a_canvas_is_wider_by_what_was_asked_and_holds_the_picture(h: int, w: int, sides: list[int], c: int) -> None:
    pixels = np.random.default_rng(h * w).integers(0, 256, (h, w, c)).astype(np.uint8)
    left, right, top, bottom = sides
    canvas, mask = widened(pixels, left, right, top, bottom)
    assert canvas.shape == (h + top + bottom, w + left + right, c)
    assert np.array_equal(canvas[top : top + h, left : left + w], pixels)
    assert mask.sum() == mask.size - h * w and not mask[top : top + h, left : left + w].any()
    assert (canvas[mask, 3:] == 255).all()


# -- seams ---------------------------------------------------------------------------------------------------------


def test_the_membrane_solves_its_equation() -> None:
    """In the mask: laplacian(c) = c / feather^2 by neighbours, no flow through the frame, the differences beside it."""
    random = np.random.default_rng(0)
    difference, mask = random.normal(size=(14, 11, 2)), np.zeros((14, 11), bool)
    mask[3:14, 2:9] = True
    mask[5, 5] = False
    feather = 4.0  # so that all is near
    found = membrane(difference, mask, feather)
    assert (found[~mask] == 0).all()
    known = np.where(mask[..., None], found, difference)
    for y, x in np.argwhere(mask):
        near = [known[y + dy, x + dx] - known[y, x] for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0))
                if 0 <= y + dy < 14 and 0 <= x + dx < 11]  # fmt: skip
        np.testing.assert_allclose(sum(near), known[y, x] / feather**2, atol=1e-3)


def test_a_difference_in_tone_is_fitted_at_the_seam_and_fades_with_the_feather() -> None:
    pixels, drawn = np.full((80, 80, 3), 120, np.uint8), np.full((80, 80, 3), 100, np.uint8)
    mask = np.zeros((80, 80), bool)
    mask[:, 40:] = True
    row = joined(pixels, drawn, mask, 8.0)[40, :, 0].astype(float)
    assert (row[:40] == 120).all() and abs(row[40] - 120) < 7 and (np.diff(row[40:]) <= 0).all() and row[-1] == 100
    np.testing.assert_allclose(row[47], 100 + 20 * np.exp(-8 / 8), atol=1)
    assert (joined(pixels, drawn, mask, 0.0)[40, 40:] == 100).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([3, 4]), st.floats(0, 20))
def test_nothing_changes_outside_of_a_mask_and_what_is_drawn_is_opaque(seed: int, c: int, feather: float) -> None:
    random = np.random.default_rng(seed)
    h, w = random.integers(1, 24, 2)
    pixels, drawn = (random.integers(0, 256, (h, w, n)).astype(np.uint8) for n in (c, 3))
    mask = random.random((h, w)) < random.random()
    result = joined(pixels, drawn, mask, feather)
    assert np.array_equal(result[~mask], pixels[~mask]) and (result[mask, 3:] == 255).all()


# -- models --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inpainting(tiny_models: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of nine channels, as stock diffusers writes it."""
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("inpainting") / "model"
    made = tiny_models.stable_diffusion_pipeline(in_channels=9, out_channels=4)
    stock.StableDiffusionInpaintPipeline(**made.components, requires_safety_checker=False).save_pretrained(folder)
    return folder


def picture_and_mask() -> tuple[np.ndarray, np.ndarray]:
    """A picture of 16 pixels, and a mask that ends at latents of two pixels."""
    random = np.random.default_rng(1)
    pixels, mask = random.integers(0, 256, (16, 16, 3)).astype(np.uint8), np.zeros((16, 16), bool)
    mask[4:12, 2:10] = True
    return pixels, mask


def as_tensors(pixels: np.ndarray, mask: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255, torch.from_numpy(mask)[None, None].float()


def stock_draws(folder: Path, scheduler: str, strength: float, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """(H, W, 3) of stock diffusers, with the mean of the posterior where it would draw a sample of it."""
    monkeypatch.setattr(stock, "retrieve_latents", lambda output, generator=None: output.latent_dist.mode())
    theirs = stock.StableDiffusionInpaintPipeline.from_pretrained(folder, local_files_only=True)
    theirs.scheduler = make_scheduler(theirs.scheduler.config | {"_class_name": "DDIMScheduler"}, scheduler)
    theirs.set_progress_bar_config(disable=True)
    pixels, mask = picture_and_mask()
    drawn: Any = theirs(
        "a red mug", image=Image.fromarray(pixels), mask_image=Image.fromarray(mask).convert("L"), height=16, width=16,
        num_inference_steps=5, guidance_scale=5.0, strength=strength, negative_prompt="a dog", output_type="np",
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    return drawn.images[0]


@pytest.mark.parametrize(
    ("kind", "scheduler", "strength"),
    [("prior", "ddim", 1.0), ("prior", "euler", 0.6), ("prior", "pndm", 0.8), ("prior", "dpm++", 1.0),
     ("inpainting", "ddim", 1.0), ("inpainting", "euler", 0.6)],
)  # fmt: skip
def test_what_is_drawn_is_what_stock_pipelines_draw(
    tiny_folder: TinyFolder, inpainting: Path, monkeypatch: pytest.MonkeyPatch, kind: str, scheduler: str,
    strength: float,
) -> None:  # fmt: skip
    folder = inpainting if kind == "inpainting" else tiny_folder("sd1")
    theirs = stock_draws(folder, scheduler, strength, monkeypatch)
    pipeline = Inpaint.from_pretrained(folder)
    assert pipeline.backbone.takes_mask == (kind == "inpainting")
    ours = pipeline.redraw(
        "a red mug", *as_tensors(*picture_and_mask()), strength, num_inference_steps=5, guidance_scale=5.0,
        negative_prompt="a dog", scheduler=scheduler, seed=0,
    )  # fmt: skip
    np.testing.assert_allclose(ours[0].permute(1, 2, 0), theirs, atol=1e-5)


def test_a_sample_does_not_depend_on_its_neighbours_and_a_picture_is_joined(inpainting: Path) -> None:
    pipeline, (pixels, mask) = Inpaint.from_pretrained(inpainting), picture_and_mask()
    both = pipeline(["a red mug", "a dog"], pixels, mask, seed=3, num_inference_steps=2, output_type="pt").images
    one = pipeline("a dog", Image.fromarray(pixels), Image.fromarray(mask), seed=3, num_inference_steps=2).images[0]
    assert np.array_equal(np.array(one), (both[1] * 255).round().byte().permute(1, 2, 0))
    assert np.array_equal(np.array(one)[~mask], pixels[~mask]) and (np.array(one)[mask] != pixels[mask]).any()


def test_the_row_without_words_hears_the_mask_and_the_picture(inpainting: Path) -> None:
    prior = Backbone.load(inpainting, inpaints=True)
    channels = told(prior, *as_tensors(*picture_and_mask()))
    assert channels.shape == (1, 5, 8, 8)
    blank = torch.where(as_tensors(*picture_and_mask())[1] > 0, 0.5, as_tensors(*picture_and_mask())[0])
    assert torch.equal(channels[:, 1:], prior.encode_images(blank))
    condition = prior.encode_text(["a red mug"])
    wide = type(condition)(condition.tokens, channels=channels)
    x_t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    guided, _ = prior.network_cfg(x_t, 500, wide, prior.encode_text([""]), 0.0)
    empty = prior.encode_text([""])
    alone = prior.network(x_t, 500, type(empty)(empty.tokens, channels=channels))
    torch.testing.assert_close(guided, alone, atol=1e-6, rtol=1e-5)


def test_inpainting_models_are_loaded_only_where_asked_for(inpainting: Path, tiny_folder: TinyFolder) -> None:
    with pytest.raises(
        InputError, match="takes 9 channels and the autoencoder makes 4: it is an inpainting checkpoint"
    ):
        Backbone.load(inpainting)
    with pytest.raises(InputError, match="inpainting checkpoint"):
        TextToImage.from_pretrained(inpainting)
    prior = Backbone.load(inpainting, inpaints=True)
    with pytest.raises(InputError, match="is told no mask"):
        TextToImage(prior)("a red mug", num_inference_steps=1)
    assert not Backbone.load(tiny_folder("sd1"), inpaints=True).takes_mask
    with pytest.raises(InputError, match="inpaints already"):
        fresh_inpainter(prior)
    with pytest.raises(InputError, match="begins as a UNet"):
        fresh_inpainter(Backbone.load(tiny_folder("pixart")))


def test_a_fresh_model_says_what_its_prior_says_to_the_bit(tiny_folder: TinyFolder) -> None:
    prior = Backbone.load(tiny_folder("sd1"))
    begun = fresh_inpainter(prior)
    assert begun.takes_mask and not prior.takes_mask and prior.denoiser.config["in_channels"] == 4  # pyright: ignore[reportArgumentType, reportIndexIssue]
    x_t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    condition = prior.encode_text(["a red mug", ""])
    channels = told(begun, *as_tensors(*picture_and_mask())).expand(2, -1, -1, -1)
    heard = begun.network(x_t, 321, type(condition)(condition.tokens, channels=channels))
    assert torch.equal(heard, prior.network(x_t, 321, condition))


def test_sixteen_channels_and_other_families_are_drawn_over_too(tiny_models: ModuleType, tmp_path: Path) -> None:
    """Any number of latent channels n: an inpainting model of 2 n + 1, which stock pipelines refuse; and SDXL."""
    made = tiny_models.stable_diffusion_pipeline(in_channels=6, out_channels=6)
    config = {**made.vae.config, "latent_channels": 6}
    made.register_modules(vae=type(made.vae).from_config(config))
    made.save_pretrained(tmp_path / "six")
    tiny_models.save_tiny_model("sdxl", tmp_path / "sdxl")
    pixels, mask = picture_and_mask()
    for name, channels in (("six", 13), ("sdxl", 9)):
        prior = Backbone.load(tmp_path / name)
        for one in (prior, fresh_inpainter(prior)):
            drawn = Inpaint(one)("a red mug", pixels, mask, seed=0, num_inference_steps=2, output_type="pt").images
            assert drawn.shape == (1, 3, 16, 16) and torch.isfinite(drawn).all()
        assert one.denoiser.config["in_channels"] == channels  # pyright: ignore[reportArgumentType, reportIndexIssue]


def random_changes(prior: Backbone) -> tuple[dict[str, Tensor], Lora]:
    generator = torch.Generator().manual_seed(4)
    layers = fresh_lora(prior.denoiser, 2, "all").unet
    changes = {name: LowRank(layer.down, torch.randn(layer.up.shape, generator=generator) / 4)
               for name, layer in layers.items()}  # fmt: skip
    first = fresh_inpainter(prior).denoiser.get_submodule("conv_in").state_dict()
    first = {name: value + torch.randn(value.shape, generator=generator) / 4 for name, value in first.items()}
    return {name: value.half().float() for name, value in first.items()}, Lora({UNET: changes})


def test_a_borrowing_folder_is_small_and_saved_as_one_that_stock_diffusers_opens(
    tiny_folder: TinyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prior").symlink_to(tiny_folder("sd1"))
    prior = Backbone.load(tmp_path / "prior")
    first, lora = random_changes(prior)
    begun = with_first_layer(prior, first)
    write_borrowing(tmp_path / "own", begun.denoiser, lora, "prior", "toybox")
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == [
        "conv_in.safetensors", "liftkit.json", "lora.safetensors"]  # fmt: skip
    pipeline = Inpaint.from_pretrained(tmp_path / "own")
    known, found = with_lora(begun, lora).denoiser.state_dict(), pipeline.backbone.denoiser.state_dict()
    for name, value in found.items():
        torch.testing.assert_close(value, known[name], atol=2e-3, rtol=2e-3)
    assert torch.equal(found["conv_in.weight"], first["weight"])
    pipeline.save_pretrained(tmp_path / "whole")
    index = json.loads((tmp_path / "whole" / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionInpaintPipeline"
    theirs = stock_draws(tmp_path / "whole", "ddim", 1.0, monkeypatch)
    ours = pipeline.redraw(
        "a red mug", *as_tensors(*picture_and_mask()), num_inference_steps=5, guidance_scale=5.0,
        negative_prompt="a dog", scheduler="ddim", seed=0,
    )  # fmt: skip
    np.testing.assert_allclose(ours[0].permute(1, 2, 0), theirs, atol=1e-5)


def test_a_borrowing_folder_that_does_not_fit_is_refused(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    (tmp_path / "prior").symlink_to(tiny_folder("sd1"))
    prior = Backbone.load(tmp_path / "prior")
    first, lora = random_changes(prior)
    write_borrowing(tmp_path / "own", with_first_layer(prior, first).denoiser, lora, "prior", None)
    for said in ("nothing", "../prior", str(tmp_path / "prior"), 3):
        (tmp_path / "own" / "liftkit.json").write_text(json.dumps({"borrows": said}))
        with pytest.raises(InputError, match=r"borrows .*: name a bundled model, or a folder beside"):
            load_inpainter(tmp_path / "own")
    (tmp_path / "own" / "liftkit.json").write_text(json.dumps({"borrows": "prior"}))
    save_file({"weight": torch.zeros(8, 4, 3, 3), "bias": torch.zeros(8)}, tmp_path / "own" / "conv_in.safetensors")
    with pytest.raises(InputError, match="own: the first layer is of another model"):
        load_inpainter(tmp_path / "own")


# -- commands ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A photograph of 90 x 70 pixels with a mask, in the working folder."""
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (70, 90, 4)).astype(np.uint8)).save(tmp_path / "photo.png")
    Image.fromarray(random.integers(0, 256, (70, 90, 3)).astype(np.uint8)).save(tmp_path / "plain.png")
    mask = np.zeros((70, 90), np.uint8)
    mask[20:31, 40:67] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> int:
    try:
        main(list(words))
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


@pytest.mark.parametrize("kind", ["prior", "inpainting"])
@pytest.mark.parametrize("output", ["out.png", "out.webp"])
def test_bytes_outside_of_the_mask_are_those_of_the_file(
    folder: Path, tiny_folder: TinyFolder, inpainting: Path, capfd: pytest.CaptureFixture[str], kind: str, output: str
) -> None:
    """Transparent pixels, and the colours hidden under them, are kept too; the sides are no multiples of anything."""
    model = str(inpainting if kind == "inpainting" else tiny_folder("sd1"))
    usual = ["photo.png", "mask.png", "a red mug", "--model", model, "--steps", "2", "-o", output]
    assert run("inpaint", *usual, "--json") == 0
    report = json.loads(capfd.readouterr().out)
    assert report["outputs"] == [output]
    assert report["metrics"] == {"images": 1, "height": 70, "width": 90, "drawn": 11 * 27 / 6300}
    before, after, mask = read_image("photo.png"), np.array(Image.open(output)), read_image("mask.png")[..., 0] > 0
    assert np.array_equal(after[~mask], before[~mask])
    assert (after[mask, 3] == 255).all() and (after[mask, :3] != before[mask, :3]).any()
    if output == "out.png":
        assert run("inpaint", *usual, "--num-images", "2", "--strength", "0.5", "--feather", "0") == 0
        single = np.array(Image.open("out/001.png"))
        assert np.array_equal(single[~mask], before[~mask]) and (single != after).any()


def test_a_picture_is_drawn_on_beyond_its_edges(
    folder: Path, tiny_folder: TinyFolder, capfd: pytest.CaptureFixture[str]
) -> None:
    usual = ["plain.png", "a red mug", "--model", str(tiny_folder("sd1")), "--steps", "2", "-o", "wide.png"]
    assert run("outpaint", *usual, "--left", "32", "--bottom", "50%", "--json") == 0
    report = json.loads(capfd.readouterr().out)
    assert report["metrics"]["height"] == 105 and report["metrics"]["width"] == 122
    assert np.array_equal(np.array(Image.open("wide.png"))[:70, 32:], read_image("plain.png"))


def test_a_lora_is_heard_and_pictures_turned_by_exif_are_upright(folder: Path, tiny_folder: TinyFolder) -> None:
    prior = Backbone.load(tiny_folder("sd1"))
    write_lora(Path("style.safetensors"), random_changes(prior)[1])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open("plain.png").save("turned.png", exif=exif)
    Image.open("mask.png").transpose(Image.Transpose.ROTATE_270).save("upright.png")
    usual = [
        "turned.png",
        "upright.png",
        "a red mug",
        "--model",
        str(tiny_folder("sd1")),
        "--steps",
        "2",
        "-o",
        "o.png",
    ]
    assert run("inpaint", *usual) == 0
    without, mask = np.array(Image.open("o.png")), np.array(Image.open("upright.png")) > 0
    assert without.shape == (90, 70, 3) and np.array_equal(without[~mask], read_image("turned.png")[~mask])
    assert run("inpaint", *usual, "--lora", "style.safetensors") == 0
    assert (np.array(Image.open("o.png")) != without).any()


BAD: dict[str, tuple[list[str], str]] = {
    "another size": (
        ["inpaint", "photo.png", "small.png"],
        "the mask small.png has 4 x 4 pixels and the picture 90 x 70",
    ),
    "all black": (["inpaint", "photo.png", "black.png"], "the mask black.png has no white"),
    "no picture": (["inpaint", "nothing.png", "mask.png"], "no picture at nothing.png"),
    "no mask": (["inpaint", "photo.png", "nothing.png"], "no mask at nothing.png"),
    "not a picture": (["inpaint", "text.png", "mask.png"], "text.png cannot be read"),
    "not a mask": (["inpaint", "photo.png", "text.png"], "text.png cannot be read"),
    "jpeg": (["inpaint", "photo.png", "mask.png", "-o", "out.jpg"], "JPEG would change pixels that stay"),
    "no step left": (["inpaint", "photo.png", "mask.png", "--strength", "0.1"], "leaves no step"),
    "strength": (["inpaint", "photo.png", "mask.png", "--strength", "nan"], "--strength nan"),
    "context": (["inpaint", "photo.png", "mask.png", "--context", "-1"], "--context -1"),
    "feather": (["inpaint", "photo.png", "mask.png", "--feather", "inf"], "--feather inf"),
    "broken weights": (["inpaint", "photo.png", "mask.png", "--model", "broken"], "numbers that are not finite"),
    "no side": (["outpaint", "photo.png"], "nothing to draw: say how much wider"),
    "odd side": (["outpaint", "photo.png", "--left", "-5"], "--left"),
    "share of what": (["outpaint", "photo.png", "--top", "a lot"], "--top a lot: give pixels such as 32"),
    "too wide": (["outpaint", "photo.png", "--right", "9999999"], "is too large"),
    "empty prompt": (["outpaint", "photo.png", "--left", "8", "--negative-prompt", "x" * 2000], "has 2000 characters"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_answered_in_one_line_and_leaves_nothing(
    folder: Path, tiny_folder: TinyFolder, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    (command, *files), line = BAD[case]
    Image.new("L", (4, 4), 255).save("small.png")
    Image.new("L", (90, 70)).save("black.png")
    Path("text.png").write_text("no picture")
    if case == "broken weights":
        for part in sorted(tiny_folder("sd1").rglob("*")):
            to = folder / "broken" / part.relative_to(tiny_folder("sd1"))
            if part.is_file():
                to.parent.mkdir(parents=True, exist_ok=True)
                to.write_bytes(part.read_bytes())
        weights = folder / "broken" / "unet" / "diffusion_pytorch_model.safetensors"
        state = load_file(weights)
        save_file({**state, "conv_out.bias": state["conv_out.bias"] * torch.nan}, weights, {"format": "pt"})
    before = {path.name for path in folder.iterdir()}
    count = 2 if command == "inpaint" else 1
    usual = {"--model": str(tiny_folder("sd1")), "--steps": "2", "-o": "out.png"}
    options = [word for option, value in usual.items() if option not in files for word in (option, value)]
    assert run(command, *files[:count], "a red mug", *files[count:], *options) == 2
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ") and line in said
    assert {path.name for path in folder.iterdir()} == before


def test_a_picture_of_one_pixel_is_drawn_anew_and_drawn_on(folder: Path, tiny_folder: TinyFolder) -> None:
    Image.new("RGB", (1, 1), (10, 20, 30)).save("pixel.png")
    Image.new("L", (1, 1), 255).save("white.png")
    usual = ["a red mug", "--model", str(tiny_folder("sd1")), "--steps", "1", "-o", "out.png"]
    assert run("inpaint", "pixel.png", "white.png", *usual) == 0
    assert Image.open("out.png").size == (1, 1)
    assert run("outpaint", "pixel.png", *usual, "--left", "3") == 0
    assert np.array(Image.open("out.png"))[0, 3].tolist() == [10, 20, 30]
