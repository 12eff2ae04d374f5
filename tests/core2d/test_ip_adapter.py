"""The IP-Adapter: what stock diffusers draws, nothing where it says nothing, and the published files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.embeddings import ImageProjection, IPAdapterFullImageProjection, IPAdapterPlusImageProjection
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from core2d.adapters.controlnet import ControlNet, fresh_controlnet
from core2d.adapters.ip_adapter import (
    HEARD,
    ImagePrompt,
    IPAdapter,
    IPAdapterModel,
    cross_attentions,
    fresh_ip_adapter,
    prompted,
    put_into,
    seen_by,
)
from core2d.adapters.ip_adapter_files import read_ip_adapter, to_published, write_ip_adapter
from core2d.app.errors import InputError
from core2d.app.registry import assets_folder
from core2d.files.ldm import unet_on_meta
from core2d.files.manifests import UNET_CONFIGS
from core2d.prior.backbone import Backbone
from core2d.prior.condition import INSTEAD, Condition
from core2d.prior.image_tower import ImageTower
from core2d.systems.text_to_image.pipeline import TextToImage

STEPS = 4
PICTURES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
MASKS = torch.zeros(2, 1, 16, 16)
MASKS[0, :, :, :8], MASKS[1, :, 4:, 8:] = 1.0, 1.0
Fold = Callable[..., Path]


def tiny_tower() -> ImageTower:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        config = CLIPVisionConfig(hidden_size=24, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
                                  image_size=16, patch_size=4, projection_dim=20)  # fmt: skip
        return ImageTower(CLIPVisionModelWithProjection(config).requires_grad_(False).eval())


def adapter(prior: Backbone, kind: str = "linear", seed: int = 0) -> IPAdapterModel:
    """One that says something: random weights everywhere."""
    context: Any = prior.denoiser.config["cross_attention_dim"]  # pyright: ignore
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        projection = {
            "linear": lambda: ImageProjection(20, context, 4),
            "plus": lambda: IPAdapterPlusImageProjection(24, context, 48, 4, 64, 1, 5),
            "full": lambda: IPAdapterFullImageProjection(24, context),
        }[kind]()
        model = IPAdapterModel(projection, [place.inner_dim for place in cross_attentions(prior.denoiser)], context)
    with torch.no_grad():
        for value in model.ip_adapter.parameters():
            value.copy_(0.7 * torch.randn(value.shape, generator=generator))
    return model.requires_grad_(False).eval()


@pytest.fixture
def prior(tiny_folder: Fold) -> Backbone:
    return Backbone.load(tiny_folder("sd1"))


def ours(prior: Any, prompts: list[ImagePrompt], guidance: float = 3.0, words: str = "a red mug") -> Tensor:
    pipeline, telling = prompted(TextToImage(prior), prompts)
    return pipeline(words, seed=1, num_inference_steps=STEPS, guidance_scale=guidance, output_type="pt",
                    telling=telling).images  # fmt: skip


def stock(kind: type[Any], folder: Path, models: list[IPAdapterModel]) -> Any:
    """A pipeline of diffusers with adapters and the tiny tower, read from what we write."""
    tower = tiny_tower()
    processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    pipeline = kind.from_pretrained(folder, local_files_only=True)
    pipeline.register_modules(image_encoder=tower.encoder, feature_extractor=processor)
    states = [{group: {name.removeprefix(f"{group}."): value for name, value in to_published(model).items()
                       if name.startswith(f"{group}.")} for group in ("image_proj", "ip_adapter")}
              for model in models]  # fmt: skip
    pipeline.load_ip_adapter(states, subfolder=[""] * len(models), weight_name=[""] * len(models),
                             image_encoder_folder=None)  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def theirs(pipeline: Any, embeds: list[Tensor], guidance: float = 3.0, **more: Any) -> Tensor:
    return pipeline("a red mug", ip_adapter_image_embeds=embeds, num_inference_steps=STEPS, guidance_scale=guidance,
                    generator=torch.Generator().manual_seed(1), output_type="pt", **more).images  # fmt: skip


def embeds_of(pipeline: Any, pictures: Tensor, kind: str, guidance: float) -> Tensor:
    """As the stock pipeline computes them: the picture, and before it what no picture is."""
    pixels = tiny_tower().pixels(pictures)
    seen, nothing = pipeline.encode_image(pixels, "cpu", 1, kind != "linear")
    return torch.cat([nothing[:1][None], seen[None]]) if guidance > 1 else seen[None]


# -- what stock diffusers draws ------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", [3.0, 1.0])
@pytest.mark.parametrize("kind", ["linear", "plus"])
def test_it_draws_what_stock_diffusers_draws(prior: Backbone, tiny_folder: Fold, kind: str, guidance: float) -> None:
    model = adapter(prior, kind)
    pipeline = stock(StableDiffusionPipeline, tiny_folder("sd1"), [model])
    pipeline.set_ip_adapter_scale(0.6)
    expected = theirs(pipeline, [embeds_of(pipeline, PICTURES[:1], kind, guidance)], guidance)
    seen, nothing = seen_by(model, tiny_tower(), PICTURES[:1])
    found = ours(prior, [ImagePrompt(model, seen, 0.6, nothing=nothing)], guidance)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (found - ours(prior, [], guidance)).abs().max() > 1e-2


def test_it_draws_what_stock_sdxl_draws(tiny_folder: Fold) -> None:
    prior = Backbone.load(tiny_folder("sdxl"))
    model = adapter(prior)
    pipeline = stock(StableDiffusionXLPipeline, tiny_folder("sdxl"), [model])
    expected = theirs(pipeline, [embeds_of(pipeline, PICTURES[:1], "linear", 3.0)])
    seen, _ = seen_by(model, tiny_tower(), PICTURES[:1])
    torch.testing.assert_close(ours(prior, [ImagePrompt(model, seen)]), expected, atol=1e-5, rtol=0)


def test_several_pictures_with_masks_add_up_as_in_diffusers(prior: Backbone, tiny_folder: Fold) -> None:
    models = [adapter(prior, "linear"), adapter(prior, "plus", seed=2)]
    pipeline = stock(StableDiffusionPipeline, tiny_folder("sd1"), models)
    pipeline.set_ip_adapter_scale([0.8, 0.5])
    embeds = [embeds_of(pipeline, PICTURES[n : n + 1], kind, 3.0) for n, kind in enumerate(("linear", "plus"))]
    masks = [mask[None] for mask in MASKS]  # (1, 1, H, W) each
    masked = theirs(pipeline, embeds, cross_attention_kwargs={"ip_adapter_masks": masks})
    everywhere = theirs(pipeline, embeds)
    prompts = []
    for number, (model, scale) in enumerate(zip(models, (0.8, 0.5), strict=True)):
        seen, nothing = seen_by(model, tiny_tower(), PICTURES[number : number + 1])
        prompts.append(ImagePrompt(model, seen, scale, MASKS[number], nothing))
    torch.testing.assert_close(ours(prior, prompts), masked, atol=1e-5, rtol=0)
    free = [ImagePrompt(one.model, one.seen, one.scale, None, one.nothing) for one in prompts]
    torch.testing.assert_close(ours(prior, free), everywhere, atol=1e-5, rtol=0)
    assert (masked - everywhere).abs().max() > 1e-3


def test_two_pictures_of_one_adapter_and_one_of_each_sample(prior: Backbone) -> None:
    model, (seen, _) = adapter(prior), seen_by(adapter(prior), tiny_tower(), PICTURES)
    pipeline, telling = prompted(TextToImage(prior), [ImagePrompt(model, seen)])
    settings: dict[str, Any] = {"num_inference_steps": 2, "output_type": "pt"}
    both = pipeline(["", ""], telling=telling, generator=[torch.Generator().manual_seed(s) for s in (1, 2)], **settings)
    for number in range(2):
        alone, told = prompted(TextToImage(prior), [ImagePrompt(model, seen[number : number + 1])])
        image = alone("", telling=told, seed=1 + number, **settings).images
        torch.testing.assert_close(both.images[number : number + 1], image, atol=1e-5, rtol=0)
    half = [ImagePrompt(model, seen[:1], 0.5)] * 2
    torch.testing.assert_close(ours(prior, half), ours(prior, [ImagePrompt(model, seen[:1])]), atol=1e-5, rtol=0)


# -- nothing where it says nothing ---------------------------------------------------------------------------------


def test_at_scale_0_and_before_its_first_step_it_is_the_prior_to_the_bit(prior: Backbone) -> None:
    tower = tiny_tower()
    loud, fresh = adapter(prior), fresh_ip_adapter(prior, tower).requires_grad_(False)
    plain = ours(prior, [])
    for model, scale in ((loud, 0.0), (fresh, 1.0)):
        seen, nothing = seen_by(model, tower, PICTURES[:1])
        assert torch.equal(ours(prior, [ImagePrompt(model, seen, scale, nothing=nothing)]), plain)
    put_into(prior.denoiser)
    assert torch.equal(ours(prior, []), plain)  # who listens and hears nothing


def test_a_mask_keeps_the_rest_of_one_call_and_the_prior_stays_as_it_is(prior: Backbone) -> None:
    model, x_t = adapter(prior), torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    seen, _ = seen_by(model, tiny_tower(), PICTURES[:1])
    before = prior.network(x_t, 500, prior.encode_text(["a red mug"]))
    nowhere = ImagePrompt(model, seen, mask=torch.zeros(1, 16, 16))
    heard, telling = prompted(prior, [nowhere])
    assert torch.equal(heard.network(x_t, 500, prior.encode_text(["a red mug"]).telling(**telling)), before)
    assert torch.equal(prior.network(x_t, 500, prior.encode_text(["a red mug"])), before) and prior.adapters == ()


def test_the_row_without_words_hears_no_picture_and_other_words_hear_it(prior: Backbone) -> None:
    wanted = prior.encode_text(["a mug"]).telling(**{"image": torch.ones(1, 3), "image" + INSTEAD: torch.zeros(1, 3)})
    wanted = wanted.telling(map=torch.full((1, 2), 7.0))
    nothing = prior.encode_text([""]).told_also(wanted)
    assert nothing.extra["image"].tolist() == [[0.0] * 3] and nothing.extra["map"].tolist() == [[7.0] * 2]
    assert prior.encode_text(["front"]).told_also(wanted, has_words=True).extra["image"].tolist() == [[1.0] * 3]
    assert len(Condition.cat([nothing, wanted])) == 2
    own = prior.encode_text([""]).telling(image=torch.full((1, 3), 2.0)).told_also(wanted)
    assert own.extra["image"].tolist() == [[2.0] * 3]  # who is told something keeps it


def test_a_control_net_beside_it_hears_the_words_alone(prior: Backbone) -> None:
    model, network = adapter(prior), fresh_controlnet(prior)
    heard: list[Tensor] = []
    network.register_forward_pre_hook(lambda _module, given, _named: heard.append(given[2]), with_kwargs=True)
    seen, _ = seen_by(model, tiny_tower(), PICTURES[:1])
    told_prior, telling = prompted(prior.with_adapters(ControlNet(network, "map")), [ImagePrompt(model, seen)])
    condition = prior.encode_text(["a red mug"])
    told_prior.network(torch.zeros(1, 4, 8, 8), 9, condition.telling(map=PICTURES[:1], **telling))
    assert torch.equal(heard[0], condition.tokens)


def test_what_is_heard_goes_with_each_call(prior: Backbone) -> None:
    model = adapter(prior)
    one = IPAdapter(model, "image", 0.5)
    seen, _ = seen_by(model, tiny_tower(), PICTURES[:1])
    condition = prior.encode_text(["a mug"]).telling(image=seen)
    inputs = prior.inputs(torch.zeros(1, 4, 8, 8), torch.tensor([5]), condition, 1)
    assert len(one(one(inputs, condition), condition).attention[HEARD]) == 2 and not inputs.attention
    with pytest.raises(InputError, match="is told no picture"):
        one(inputs, prior.encode_text(["a mug"]))


# -- the image tower -----------------------------------------------------------------------------------------------


def test_the_bundled_tower_sees_what_stock_transformers_sees() -> None:
    tower = ImageTower.load("toybox-clip")
    folder = assets_folder() / "toybox-clip"
    pixels = torch.randint(0, 256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(2)).byte()
    expected = CLIPImageProcessor.from_pretrained(folder)(pixels[0], return_tensors="pt").pixel_values
    torch.testing.assert_close(tower.pixels(pixels / 255), expected, atol=1e-5, rtol=0)
    assert tower.embed(pixels / 255).shape == (1, 128) and tower.patches(pixels / 255).shape == (1, 65, 128)
    wide = torch.rand(1, 3, 64, 128)
    assert torch.equal(tower.pixels(wide), tower.pixels(wide[..., 32:96]))  # the middle


# -- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("kind", ["linear", "plus", "full"])
def test_files_come_back_and_stock_diffusers_draws_the_same_of_them(
    prior: Backbone, tiny_folder: Fold, tmp_path: Path, kind: str, suffix: str
) -> None:
    model, path = adapter(prior, kind), tmp_path / f"ip{suffix}"
    write_ip_adapter(path, model)
    found = read_ip_adapter(path)
    assert found.layout == "published" and found.unexpected == []
    assert found.matched == len(to_published(model))
    for name, value in model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], value), name
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_folder("sd1"), local_files_only=True)
    pipeline.load_ip_adapter(str(tmp_path), subfolder="", weight_name=path.name, image_encoder_folder=None)  # pyright: ignore
    pipeline.set_progress_bar_config(disable=True)  # pyright: ignore
    tokens = 257 if kind == "full" else 17
    seen = torch.randn(1, 1, *(() if kind == "linear" else (tokens,)), model.seen_width)
    expected = theirs(pipeline, [torch.cat([torch.zeros_like(seen), seen])])
    torch.testing.assert_close(ours(prior, [ImagePrompt(found.model, seen[0])]), expected, atol=1e-5, rtol=0)


def test_what_the_authors_training_leaves_is_read(prior: Backbone, tmp_path: Path) -> None:
    """IP-Adapter's own issues 164, 166, 375: its checkpoints need to be converted by hand."""
    model = adapter(prior)
    renamed = {name.replace("image_proj.", "image_proj_model.").replace("ip_adapter.", "adapter_modules."): value
               for name, value in to_published(model).items()}  # fmt: skip
    save_file({**renamed, "unet.conv_in.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    found = read_ip_adapter(tmp_path / "model.safetensors")
    assert found.layout == "training" and found.unexpected == ["unet.conv_in.weight"]
    assert all(torch.equal(found.model.state_dict()[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("name", "last", "width"), [("stable-diffusion-1.5", 31, 768),
                                                     ("stable-diffusion-xl-1.0", 139, 2048)])  # fmt: skip
def test_layers_are_numbered_as_published_at_full_size(name: str, last: int, width: int) -> None:
    unet = unet_on_meta(UNET_CONFIGS[name])
    with torch.device("meta"):
        model = IPAdapterModel(ImageProjection(1024, width, 4), [p.inner_dim for p in cross_attentions(unet)], width)
    named = to_published(model)
    assert max(int(one.split(".")[1]) for one in named if one.startswith("ip_adapter.")) == last
    processors = [one for one in unet.attn_processors if one.endswith("attn2.processor")]  # as stock readers count
    places = {id(module): place for place, module in unet.named_modules()}
    assert [f"{places[id(module)]}.processor" for module in cross_attentions(unet)] == processors
    assert named["image_proj.proj.weight"].shape == (4 * width, 1024)


def broken(state: dict[str, Tensor], case: str) -> dict[str, Tensor]:
    if case == "nan":
        state["ip_adapter.3.to_v_ip.weight"][0, 0] = torch.nan
    if case == "lacks":
        del state["image_proj.norm.weight"]
    if case == "number":
        state["ip_adapter.2.to_k_ip.weight"] = state.pop("ip_adapter.3.to_k_ip.weight")
    if case == "face":
        state = {name: value for name, value in state.items() if not name.startswith("image_proj.proj")}
    if case == "other":
        state = {"conv.weight": torch.zeros(2)}
    return state


@pytest.mark.parametrize(("case", "line"), [
    ("nan", "not finite, in ip_adapter.3.to_v_ip.weight"),
    ("lacks", "lacks image_proj.norm.weight"),
    ("number", "not numbered 1, 3, 5"),
    ("face", "identity of a face"),
    ("other", "no tensors are named image_proj. and ip_adapter."),
])  # fmt: skip
def test_what_is_no_whole_adapter_is_one_line(prior: Backbone, tmp_path: Path, case: str, line: str) -> None:
    path = tmp_path / "ip.safetensors"
    write_ip_adapter(path, adapter(prior))
    save_file(broken(load_file(path), case), path)
    with pytest.raises(InputError, match=line) as said:
        read_ip_adapter(path)
    assert "\n" not in str(said.value) and str(path) in str(said.value)


def test_pickles_folders_and_places_without_a_file(tmp_path: Path) -> None:
    (tmp_path / "evil.bin").write_bytes(b"\x80\x04cposix\nsystem\n(S'touch gone'\ntR.")
    for name, line in (("evil.bin", "evil.bin"), (".", "holds 0 .safetensors files"), ("no.bin", "no IP-Adapter at")):
        with pytest.raises(InputError, match=line):
            read_ip_adapter(tmp_path / name)
    assert not Path("gone").exists()
    with pytest.raises(InputError, match="cannot write"):
        write_ip_adapter(tmp_path / "ip.pt", adapter_of_nothing())


def adapter_of_nothing() -> IPAdapterModel:
    return IPAdapterModel(ImageProjection(2, 2, 4), [2], 2)


def test_adapters_of_other_models_and_towers_are_told(prior: Backbone, tiny_folder: Fold) -> None:
    model = adapter(prior)
    with pytest.raises(InputError, match="of another model: it has"):
        prompted(Backbone.load(tiny_folder("sdxl")), [ImagePrompt(model, torch.zeros(1, 20))])
    with pytest.raises(InputError, match="this model is a transformer"):
        prompted(Backbone.load(tiny_folder("pixart")), [ImagePrompt(model, torch.zeros(1, 20))])
    with pytest.raises(InputError, match="of another image tower: it is told 20"):
        seen_by(model, ImageTower.load("toybox-clip"), PICTURES)
    for scale in (float("nan"), 11.0):
        with pytest.raises(InputError, match="an image prompt cannot count"):
            prompted(prior, [ImagePrompt(model, torch.zeros(1, 20), scale)])
