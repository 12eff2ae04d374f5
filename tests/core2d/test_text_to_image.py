"""Text-to-image against the stock pipelines, and the command."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import PixArtAlphaPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from PIL import Image
from safetensors import safe_open

from core2d.app.errors import InputError
from core2d.app.registry import bundled
from core2d.prior.oracle import OracleBackbone
from core2d.prior.schedulers import SCHEDULERS, make_scheduler
from core2d.systems.text_to_image.command import follow
from core2d.systems.text_to_image.pipeline import TextToImage
from core2d.systems.text_to_image.recipe import TextToImageRecipe

STEPS = 4


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def load_stock(pipeline_class: Any, folder: Path) -> Any:
    stock = pipeline_class.from_pretrained(folder, local_files_only=True)
    stock.set_progress_bar_config(disable=True)
    return stock


@pytest.fixture(scope="module")
def pipeline(tiny_folder) -> TextToImage:
    return TextToImage.from_pretrained(tiny_folder("sd1"))


@pytest.fixture(scope="module")
def stock(tiny_folder) -> StableDiffusionPipeline:
    return load_stock(StableDiffusionPipeline, tiny_folder("sd1"))


def draw(pipeline: TextToImage, prompt: str | list[str] = "a red mug", **options) -> Any:
    settings = {"num_inference_steps": STEPS, "output_type": "pt"} | options
    return pipeline(prompt, **settings).images  # pyright: ignore[reportAttributeAccessIssue]


# -- equal to the stock pipelines --------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", [None, *SCHEDULERS])
def test_it_is_the_stock_pipeline_under_every_scheduler(pipeline, stock, scheduler):
    stock.scheduler = make_scheduler(pipeline.backbone.scheduler_config, scheduler)
    expected = stock(
        "a red mug",
        negative_prompt="a dog",
        num_inference_steps=STEPS,
        guidance_scale=7.5,
        guidance_rescale=0.3,
        num_images_per_prompt=2,
        generator=seeded(5, 6),
        output_type="pt",
    ).images
    ours = draw(
        pipeline,
        negative_prompt="a dog",
        guidance_scale=7.5,
        guidance_rescale=0.3,
        num_images_per_prompt=2,
        seed=5,
        scheduler=scheduler,
    )
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    assert not torch.allclose(ours[0], ours[1], atol=1e-3)


@pytest.mark.parametrize(
    ("family", "pipeline_class", "options"),
    [
        ("sd2", StableDiffusionPipeline, {}),
        ("sdxl", StableDiffusionXLPipeline, {}),
        ("pixart", PixArtAlphaPipeline, {"use_resolution_binning": False, "clean_caption": False}),
    ],
)
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_it_is_the_stock_pipeline_of_every_family(tiny_folder, family, pipeline_class, options, guidance):
    expected = load_stock(pipeline_class, tiny_folder(family))(
        ["a red mug", "a blue dog on plain ground"],
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        generator=seeded(0, 0),
        output_type="pt",
        **options,
    ).images
    ours = draw(
        TextToImage.from_pretrained(tiny_folder(family)),
        ["a red mug", "a blue dog on plain ground"],
        guidance_scale=guidance,
        seed=0,
    )
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_other_sizes_and_given_noise(pipeline, stock):
    stock.scheduler = make_scheduler(pipeline.backbone.scheduler_config)
    noise = torch.randn(1, 4, 8, 12)
    arguments = {"num_inference_steps": STEPS, "height": 16, "width": 24, "output_type": "pt"}
    expected = stock("a car", guidance_scale=5.0, latents=noise, **arguments).images
    ours = pipeline("a car", latents=noise, **arguments).images
    assert ours.shape == (1, 3, 16, 24)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


@pytest.mark.skipif("toybox-sd" not in bundled(), reason="the bundled prior is not here")
def test_the_bundled_prior_opens_in_the_stock_pipeline_and_equals_ours():
    expected = load_stock(StableDiffusionPipeline, bundled()["toybox-sd"])(
        "a red mug", num_inference_steps=25, guidance_scale=5.0, generator=seeded(0), output_type="pt"
    ).images
    ours = draw(TextToImage.from_pretrained("toybox-sd"), num_inference_steps=25, seed=0)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


# -- one generator for each sample -------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", ["ddim", "euler-a", "ddpm"])
def test_the_batch_size_does_not_matter(pipeline, scheduler):
    options = {"num_images_per_prompt": 3, "seed": 7, "scheduler": scheduler}
    together = draw(pipeline, ["a red mug", "a dog"], **options)
    one_by_one = draw(pipeline, ["a red mug", "a dog"], batch_size=1, **options)
    in_twos_and_fours = draw(pipeline, ["a red mug", "a dog"], batch_size=4, **options)
    torch.testing.assert_close(one_by_one, together, atol=1e-4, rtol=0)
    torch.testing.assert_close(in_twos_and_fours, together, atol=1e-4, rtol=0)
    alone = draw(pipeline, "a dog", seed=8, scheduler=scheduler)
    torch.testing.assert_close(alone[0], together[4], atol=1e-4, rtol=0)


def test_two_runs_are_equal_to_the_last_bit(pipeline, tiny_folder):
    first = draw(pipeline, num_images_per_prompt=3, seed=1, scheduler="euler-a")
    again = draw(pipeline, num_images_per_prompt=3, seed=1, scheduler="euler-a")
    fresh = draw(TextToImage.from_pretrained(tiny_folder("sd1")), num_images_per_prompt=3, seed=1, scheduler="euler-a")
    assert torch.equal(first, again) and torch.equal(first, fresh)


def test_generators_and_the_global_seed(pipeline):
    by_seed = draw(pipeline, num_images_per_prompt=2, seed=3)
    assert torch.equal(by_seed, draw(pipeline, num_images_per_prompt=2, generator=seeded(3, 4)))
    single = draw(pipeline, generator=seeded(3)[0])
    torch.testing.assert_close(by_seed[:1], single, atol=1e-4, rtol=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = draw(pipeline)
        other = draw(pipeline)
        torch.manual_seed(0)
        assert torch.equal(draw(pipeline), first) and not torch.equal(first, other)


# -- views, outputs, callbacks -----------------------------------------------------------------------------


def test_views_are_one_for_all_or_one_for_each(tiny_folder):
    pipeline = TextToImage.from_pretrained(tiny_folder("sd1", camera=True))
    angles = torch.tensor([0.0, 1.5, 3.0])
    cameras = SimpleNamespace(azimuth=angles, elevation=torch.zeros(3), radius=torch.ones(3))
    each = draw(pipeline, num_images_per_prompt=3, generator=seeded(0, 0, 0), camera=cameras)
    small = draw(pipeline, num_images_per_prompt=3, generator=seeded(0, 0, 0), camera=cameras, batch_size=2)
    torch.testing.assert_close(small, each, atol=1e-4, rtol=0)
    assert (each[0] - each[2]).abs().max() > 1e-5
    second = SimpleNamespace(azimuth=angles[1:2], elevation=torch.zeros(1), radius=torch.ones(1))
    torch.testing.assert_close(draw(pipeline, seed=0, camera=second)[0], each[1], atol=1e-4, rtol=0)
    with pytest.raises(InputError, match="3 cameras for 2 images"):
        draw(pipeline, num_images_per_prompt=2, camera=cameras)


def test_output_types(pipeline):
    latents = draw(pipeline, seed=0, output_type="latent")
    images = draw(pipeline, seed=0)
    torch.testing.assert_close(pipeline.backbone.decode(latents), images)
    arrays = draw(pipeline, seed=0, output_type="np")
    np.testing.assert_array_equal(arrays, images.permute(0, 2, 3, 1).numpy())
    picture = draw(pipeline, seed=0, output_type="pil")[0]
    np.testing.assert_array_equal(np.asarray(picture), (arrays[0] * 255).round().astype(np.uint8))
    (same,) = pipeline("a red mug", num_inference_steps=STEPS, seed=0, output_type="pt", return_dict=False)
    assert torch.equal(same, images)


def test_a_callback_sees_and_may_change_the_latents(pipeline):
    seen = []

    def watch(caller, step, t, tensors):
        assert caller is pipeline
        seen.append((step, int(t), tuple(tensors["latents"].shape)))
        return {"latents": torch.zeros_like(tensors["latents"])} if step == STEPS - 1 else None

    latents = draw(pipeline, num_images_per_prompt=3, batch_size=2, callback_on_step_end=watch, output_type="latent")
    assert [step for step, _, _ in seen] == [*range(STEPS), *range(STEPS)]
    assert [shape[0] for _, _, shape in seen] == [2] * STEPS + [1] * STEPS
    assert seen[0][1] > seen[STEPS - 1][1]
    assert not latents.any()


def test_many_images_are_drawn_in_batches_that_fit(pipeline, monkeypatch):
    sizes = []

    def watch(_caller, _step, _t, tensors):
        sizes.append(len(tensors["latents"]))

    draw(pipeline, num_images_per_prompt=70, num_inference_steps=1, callback_on_step_end=watch)
    assert sizes == [64, 6]
    sizes.clear()
    monkeypatch.setattr("core2d.systems.text_to_image.pipeline.POSITIONS_AT_ONCE", 2 * 8 * 12)
    draw(pipeline, num_images_per_prompt=3, num_inference_steps=1, width=24, callback_on_step_end=watch)
    assert sizes == [2, 1]


def test_a_scheduler_can_be_given(pipeline):
    by_name = draw(pipeline, seed=0, scheduler="euler")
    assert torch.equal(by_name, draw(TextToImage(pipeline.backbone, "euler"), seed=0))
    given = make_scheduler(pipeline.backbone.scheduler_config, "euler")
    assert torch.equal(by_name, draw(pipeline, seed=0, scheduler=given))
    assert given.num_inference_steps is None  # it was copied, not used up


# -- arguments that are refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": ""}, "a prompt is empty"),
        ({"prompt": ["a dog", "  "]}, "a prompt is empty"),
        ({"prompt": []}, "a prompt is empty"),
        ({"prompt": "red " * 750}, r"has \d+ tokens and the model reads 24"),
        ({"negative_prompt": "red " * 750}, r"has \d+ tokens and the model reads 24"),
        ({"negative_prompt": ["a", "b"]}, "2 negative prompts for 1 prompts"),
        ({"negative_prompt": "a dog", "guidance_scale": 1.0}, "switches guidance off"),
        ({"guidance_rescale": 0.5, "guidance_scale": 0.0}, "switches guidance off"),
        ({"guidance_rescale": 1.5}, "give 0 to 1"),
        ({"num_inference_steps": 0}, "0 denoising steps"),
        ({"num_inference_steps": 1001}, "1001 denoising steps"),
        ({"num_images_per_prompt": 0}, "0 images"),
        ({"batch_size": 0}, "batch size"),
        ({"generator": seeded(1, 2)}, "2 generators for 1 images"),
        ({"generator": seeded(1), "seed": 1}, "not both"),
        ({"height": 15}, "multiple of 2"),
        ({"width": 0}, "multiple of 2"),
        ({"latents": torch.zeros(2, 4, 8, 8)}, "latents have shape"),
        ({"scheduler": "banana"}, "unknown scheduler 'banana'.*ddim, ddpm"),
        ({"output_type": "jpeg"}, "output type 'jpeg'"),
        ({"camera": torch.zeros(1, 5)}, "no camera token"),
    ],
)
def test_what_cannot_be_honoured_is_refused(pipeline, options: dict, message: str):
    with pytest.raises(InputError, match=message):
        draw(pipeline, **{"prompt": "a dog", **options})


def test_a_named_scheduler_does_not_fit_a_flow_model():
    oracle = OracleBackbone(
        torch.randn(2, 4, 4, 4), scheduler_config={"_class_name": "FlowMatchEulerDiscreteScheduler"}
    )
    with pytest.raises(InputError, match="does not fit a flow-matching model"):
        TextToImage(oracle, "ddim")
    oracle.scheduler_config = {"_class_name": "Scheduler"}
    with pytest.raises(InputError, match="'Scheduler' is none of diffusers'"):
        TextToImage(oracle)


def test_a_flow_model_is_sampled_with_its_own_scheduler():
    latents = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    oracle = OracleBackbone(
        latents, ["a", "b", "b"], scheduler_config={"_class_name": "FlowMatchEulerDiscreteScheduler"}
    )
    drawn = draw(
        TextToImage(oracle), "b", num_images_per_prompt=4, seed=0, num_inference_steps=20, guidance_scale=1.0,
        output_type="latent",
    )  # fmt: skip
    distance = torch.cdist(drawn.flatten(1), latents.flatten(1))  # (4, 3)
    assert distance.amin(1).max() < 0.1 and 0 not in distance.argmin(1)


# -- saving ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "pixart"])
def test_a_saved_model_draws_the_same(tiny_folder, family: str, tmp_path: Path):
    pipeline = TextToImage.from_pretrained(tiny_folder(family))
    pipeline.save_pretrained(tmp_path / "copy")
    assert torch.equal(draw(pipeline, seed=0), draw(TextToImage.from_pretrained(tmp_path / "copy"), seed=0))
    before = json.loads((tiny_folder(family) / "model_index.json").read_text())
    after = json.loads((tmp_path / "copy" / "model_index.json").read_text())
    assert {name: value for name, value in after.items() if name in before} == before


def test_a_half_precision_folder_opens_in_the_stock_pipeline_and_equals_ours(tiny_folder, tmp_path: Path):
    TextToImage.from_pretrained(tiny_folder("sd1", camera=True)).save_pretrained(tmp_path / "half", torch.float16)
    files = {path.parent.name: path for path in (tmp_path / "half").glob("*/*.safetensors")}
    assert files.keys() == {"unet", "vae", "text_encoder", "camera_token"}
    for path in files.values():
        with safe_open(path, "pt") as file:
            assert {str(file.get_slice(name).get_dtype()) for name in file.keys()} == {"F16"}
    with safe_open(files["text_encoder"], "pt") as file:
        assert all(name.startswith("text_model.") for name in file.keys())
    assert "camera_token" not in json.loads((tmp_path / "half" / "model_index.json").read_text())
    stock = load_stock(StableDiffusionPipeline, tmp_path / "half")
    assert stock.unet.dtype == stock.vae.dtype == stock.text_encoder.dtype == torch.float32
    expected = stock(
        "a red mug", num_inference_steps=STEPS, guidance_scale=5.0, generator=seeded(0), output_type="pt"
    ).images
    ours = TextToImage.from_pretrained(tmp_path / "half")
    assert ours.backbone.has_camera_token
    torch.testing.assert_close(draw(ours, seed=0), expected, atol=1e-5, rtol=0)


def test_saving_replaces_models_only(pipeline, tmp_path: Path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.txt").write_text("mine")
    with pytest.raises(InputError, match="not a model"):
        pipeline.save_pretrained(tmp_path / "photos")
    pipeline.save_pretrained(tmp_path / "model")
    pipeline.save_pretrained(tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "photos"]
    with pytest.raises(InputError, match="oracle"):
        TextToImage(OracleBackbone(torch.zeros(1, 4, 2, 2))).save_pretrained(tmp_path / "oracle")


# -- the command -------------------------------------------------------------------------------------------


def recipe(folder: Path, output: Path, *prompts: str, **options) -> TextToImageRecipe:
    settings = {"steps": STEPS, "device": "cpu", "scheduler": "ddim"} | options
    return TextToImageRecipe(prompts=prompts or ("a red mug",), output=output, model=str(folder), **settings)


def test_one_image_is_the_output(tiny_folder, pipeline, tmp_path: Path):
    outputs, metrics = follow(recipe(tiny_folder("sd1"), tmp_path / "new" / "mug.png", seed=9, cfg=4.0))
    assert outputs == [tmp_path / "new" / "mug.png"]
    assert metrics == {"images": 1, "height": 16, "width": 16}
    assert [path.name for path in tmp_path.rglob("*.*")] == ["mug.png"]
    with Image.open(outputs[0]) as picture:
        expected = draw(pipeline, seed=9, guidance_scale=4.0, output_type="pil")[0]
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(expected))
        assert picture.info["prompt"] == "a red mug" and picture.info["seed"] == "9"
        told = json.loads(picture.info["recipe"])
    assert told["steps"] == STEPS and told["cfg"] == 4.0 and "output" not in told


def test_several_images_are_a_sheet_and_a_folder(tiny_folder, tmp_path: Path):
    outputs, _ = follow(recipe(tiny_folder("sd1"), tmp_path / "two.png", "a red mug", "a dog", num_images=3))
    assert outputs == [tmp_path / "two.png", *(tmp_path / "two" / f"00{index}.png" for index in range(6))]
    with Image.open(outputs[0]) as sheet, Image.open(outputs[5]) as single:
        assert sheet.size == (3 * 16, 2 * 16)  # a row for each prompt
        np.testing.assert_array_equal(np.asarray(sheet)[16:, 16:32], np.asarray(single))
        assert single.info["prompt"] == "a dog" and single.info["seed"] == "1"
    follow(recipe(tiny_folder("sd1"), tmp_path / "two.png", num_images=2))  # a rerun leaves nothing of the old one
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["000.png", "001.png"]


def test_the_same_recipe_writes_the_same_bytes(tiny_folder, tmp_path: Path):
    for name in ("first.png", "second.png"):
        follow(recipe(tiny_folder("sd1"), tmp_path / name, "a dog", seed=4))
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()


def test_a_folder_of_something_else_is_not_replaced(tiny_folder, tmp_path: Path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.png").write_bytes(b"mine")
    with pytest.raises(InputError, match="holds something else"):
        follow(recipe(tiny_folder("sd1"), tmp_path / "photos.png", num_images=2))
    assert [path.name for path in tmp_path.rglob("*.*")] == ["holiday.png"]


def test_nothing_is_left_behind_by_a_failure(tiny_folder, tmp_path: Path, monkeypatch):
    spoiled = Path(shutil.copytree(tiny_folder("sd1"), tmp_path / "model"))
    monkeypatch.setattr(TextToImage, "_finish", lambda self, *_arguments: torch.full((2, 3, 16, 16), torch.nan))
    with pytest.raises(InputError, match="not finite"):
        follow(recipe(spoiled, tmp_path / "out" / "x.png", num_images=2))
    assert not (tmp_path / "out").exists()


def test_an_image_that_was_interrupted_is_not_there(tiny_folder, tmp_path: Path, monkeypatch):
    def interrupt(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("core2d.media.sheets.image_grid", interrupt)
    with pytest.raises(KeyboardInterrupt):
        follow(recipe(tiny_folder("sd1"), tmp_path / "x.png", num_images=2))
    assert not list(tmp_path.iterdir())


def test_ddim_of_a_folder_keeps_its_settings(pipeline):
    assert isinstance(pipeline.scheduler, DDIMScheduler)
    assert make_scheduler(pipeline.backbone.scheduler_config, "pndm").config["skip_prk_steps"]
    assert make_scheduler(pipeline.backbone.scheduler_config, "ddpm").config["steps_offset"] == 1
