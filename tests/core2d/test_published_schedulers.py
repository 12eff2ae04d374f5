"""Scheduler configs as they were published over the years: sampled as the stock pipelines sample them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import PixArtAlphaPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

from core2d.app.errors import InputError
from core2d.prior.backbone import Backbone
from core2d.prior.schedulers import make_scheduler, read_scheduler_config
from core2d.systems.text_to_image.pipeline import TextToImage

pytestmark = pytest.mark.filterwarnings("ignore:The configuration file")  # the stock pipelines say so

STEPS = 5
NOISE = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LEADING = {**NOISE, "timestep_spacing": "leading"}
STOCK: dict[str, Any] = {
    "sd1": StableDiffusionPipeline,
    "sd2": StableDiffusionPipeline,
    "sdxl": StableDiffusionXLPipeline,
    "pixart": PixArtAlphaPipeline,
}

# Name of the class, and a config that says less, or says other things, than those of today.
OUTDATED: list[tuple[str, dict[str, Any]]] = [
    ("PNDMScheduler", {**NOISE, "skip_prk_steps": True}),  # as SD 1.1 to 1.4 were first published
    ("PNDMScheduler", NOISE),
    ("PNDMScheduler", {**NOISE, "skip_prk_steps": True, "steps_offset": 0, "set_alpha_to_one": True}),
    ("DDIMScheduler", NOISE),
    ("DDIMScheduler", {**NOISE, "clip_sample": True, "steps_offset": 0}),
    ("DDIMScheduler", {**NOISE, "clip_sample": False, "set_alpha_to_one": False}),
    ("DDIMScheduler", {**NOISE, "steps_offset": 7, "timestep_spacing": "trailing"}),
    ("DDPMScheduler", NOISE),
    ("LMSDiscreteScheduler", LEADING),
    ("EulerDiscreteScheduler", LEADING),
    ("EulerAncestralDiscreteScheduler", LEADING),
    ("HeunDiscreteScheduler", {**LEADING, "clip_sample": True}),
    ("KDPM2DiscreteScheduler", LEADING),
    ("DEISMultistepScheduler", LEADING),
    ("DPMSolverMultistepScheduler", LEADING),
    ("UniPCMultistepScheduler", LEADING),
]


def with_scheduler(model: Path, place: Path, class_name: str, config: dict[str, Any]) -> Path:
    """A copy of a model whose index alone names the class of its scheduler."""
    folder = Path(shutil.copytree(model, place))
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"scheduler": ["diffusers", class_name]}))
    return folder


def assert_as_stock(folder: Path, pipeline_class: Any) -> None:
    """The same latents from the same folder and noise, to 1e-5 of their size."""
    stock = pipeline_class.from_pretrained(folder, local_files_only=True)
    stock.set_progress_bar_config(disable=True)
    options: dict[str, Any] = dict(num_inference_steps=STEPS, guidance_scale=5.0, output_type="latent")
    more = {"use_resolution_binning": False, "clean_caption": False} if pipeline_class is PixArtAlphaPipeline else {}
    expected = stock("a red mug", generator=torch.Generator().manual_seed(0), **options, **more).images
    ours = TextToImage.from_pretrained(folder)("a red mug", seed=0, **options).images
    torch.testing.assert_close(ours / expected.std(), expected / expected.std(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("class_name", "config"), OUTDATED)
def test_outdated_configs_are_mended_as_by_the_stock_pipeline(
    tiny_folder, tmp_path: Path, class_name: str, config: dict[str, Any]
) -> None:
    assert_as_stock(with_scheduler(tiny_folder("sd1"), tmp_path / "model", class_name, config), STOCK["sd1"])


@pytest.mark.parametrize("family", ["sd2", "sdxl", "pixart"])
@pytest.mark.parametrize("class_name", ["DDIMScheduler", "EulerDiscreteScheduler"])
def test_what_is_mended_is_the_matter_of_each_pipeline(
    tiny_folder, tmp_path: Path, family: str, class_name: str
) -> None:
    config = {**LEADING, "prediction_type": "v_prediction" if family == "sd2" else "epsilon"}
    assert_as_stock(with_scheduler(tiny_folder(family), tmp_path / "model", class_name, config), STOCK[family])


def test_the_class_in_the_index_comes_before_that_in_the_config(tiny_folder, tmp_path: Path) -> None:
    config = {**NOISE, "_class_name": "PNDMScheduler", "skip_prk_steps": True, "steps_offset": 1}
    folder = with_scheduler(tiny_folder("sd1"), tmp_path / "model", "EulerDiscreteScheduler", config)
    assert read_scheduler_config(folder)["_class_name"] == "EulerDiscreteScheduler"
    assert_as_stock(folder, StableDiffusionPipeline)
    (folder / "model_index.json").unlink()
    assert read_scheduler_config(folder)["_class_name"] == "PNDMScheduler"


def test_a_flow_model_that_only_its_index_tells(tiny_folder, tmp_path: Path) -> None:
    folder = with_scheduler(tiny_folder("sd1"), tmp_path / "model", "FlowMatchEulerDiscreteScheduler", {"shift": 3.0})
    assert Backbone.load(folder).schedule.is_flow
    assert TextToImage.from_pretrained(folder).scheduler.config["shift"] == 3.0


@pytest.mark.parametrize("class_name", ["DDIMScheduler", "HeunDiscreteScheduler", "LCMScheduler"])
def test_noise_that_a_config_does_not_tell_is_that_of_its_class(tiny_folder, tmp_path: Path, class_name: str) -> None:
    folder = with_scheduler(tiny_folder("sd1"), tmp_path / "model", class_name, {})
    prior = Backbone.load(folder)
    theirs = make_scheduler({"_class_name": class_name}).alphas_cumprod
    assert prior.schedule.alphas_cumprod is not None
    torch.testing.assert_close(prior.schedule.alphas_cumprod.float(), theirs, atol=2e-6, rtol=0)
    other = make_scheduler(prior.scheduler_config, "euler").alphas_cumprod  # the noise of the model, not of euler
    torch.testing.assert_close(other, theirs, atol=2e-6, rtol=0)
    assert_as_stock(folder, StableDiffusionPipeline)


def test_a_mended_model_is_saved_mended(tiny_folder, tmp_path: Path) -> None:
    pipeline = TextToImage.from_pretrained(with_scheduler(tiny_folder("sd1"), tmp_path / "old", "DDIMScheduler", NOISE))
    pipeline.save_pretrained(tmp_path / "new")
    saved = json.loads((tmp_path / "new" / "scheduler" / "scheduler_config.json").read_text())
    assert (saved["_class_name"], saved["steps_offset"], saved["clip_sample"]) == ("DDIMScheduler", 1, False)
    assert_as_stock(tmp_path / "new", StableDiffusionPipeline)


@pytest.mark.parametrize(
    ("class_name", "config", "message"),
    [
        ("BananaScheduler", NOISE, "'BananaScheduler' is none of diffusers': name one of ddim, ddpm"),
        ("DPMSolverMultistepScheduler", {**NOISE, "algorithm_type": "banana"}, "does not fit a DPMSolverMultistep"),
        ("DDIMScheduler", {**NOISE, "num_train_timesteps": "many"}, "num_train_timesteps 'many': write a number"),
        ("DDIMScheduler", {**NOISE, "beta_end": "high"}, "no betas that can be read"),
        ("DDIMScheduler", {**NOISE, "beta_end": 3.0}, r"betas outside of \[0, 1\]"),
        ("DDIMScheduler", {**NOISE, "trained_betas": []}, r"betas outside of \[0, 1\], or none"),
    ],
)
def test_a_scheduler_that_cannot_be_used_is_one_line(
    tiny_folder, tmp_path: Path, class_name: str, config: dict[str, Any], message: str
) -> None:
    folder = with_scheduler(tiny_folder("sd1"), tmp_path / "model", class_name, config)
    with pytest.raises(InputError, match=message) as caught:
        TextToImage.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_a_config_whose_class_is_no_name(tiny_folder, tmp_path: Path) -> None:
    folder = with_scheduler(tiny_folder("sd1"), tmp_path / "model", "DDIMScheduler", {**NOISE, "_class_name": None})
    assert type(TextToImage.from_pretrained(folder).scheduler).__name__ == "DDIMScheduler"  # by the index
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"scheduler": [None, None]}))
    with pytest.raises(InputError, match="_class_name None: write a name"):
        Backbone.load(folder)
