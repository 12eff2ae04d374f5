"""Models as the libraries of Hugging Face leave them in their cache, opened by their hub id, without the network."""

import json
import os
import shutil
import subprocess
import sys
from hashlib import sha1
from pathlib import Path

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from core2d.app.errors import InputError
from core2d.app.registry import bundled, resolve
from core2d.prior.backbone import Backbone
from core2d.systems.text_to_image.recipe import TextToImageRecipe

HUB_ID = "owner/tiny-sd"
FIRST, SECOND = "1" * 40, "2" * 40
NEVER_FETCHED = (
    "v1-5-pruned.ckpt",
    "v1-5-pruned-emaonly.safetensors",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "safety_checker/config.json",
    "safety_checker/model.safetensors",
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, which the libraries take for theirs."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put(cache: Path, model: Path, commit: str = FIRST, ref: str | None = "main", hub_id: str = HUB_ID) -> Path:
    """A snapshot of a model, its files links to blobs; its tree lists more files, which no pipeline wanted."""
    home = cache / f"models--{hub_id.replace('/', '--')}"
    snapshot, listed = home / "snapshots" / commit, {}
    for path in sorted(path for path in model.rglob("*") if path.is_file()):
        inside = path.relative_to(model)
        blob = home / "blobs" / sha1(path.read_bytes()).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(path.read_bytes())
        (snapshot / inside).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / inside).unlink(missing_ok=True)
        (snapshot / inside).symlink_to(os.path.relpath(blob, (snapshot / inside).parent))
        listed[str(inside)] = {"size": path.stat().st_size, "blob_id": blob.name}
    (home / "trees").mkdir(exist_ok=True)
    listed |= {name: {"size": 9, "blob_id": "0" * 40} for name in NEVER_FETCHED}
    (home / "trees" / f"{commit}.json").write_text(json.dumps({"format_version": 1, "files": listed}))
    if ref is not None:
        (home / "refs").mkdir(exist_ok=True)
        (home / "refs" / ref).write_text(commit)
    return snapshot


def weight(model: Path) -> torch.Tensor:
    return Backbone.load(model).family.denoiser.conv_in.weight


def test_a_snapshot_that_lacks_what_the_pipeline_was_not_to_have(cache: Path, tiny_folder, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_folder("sd1"), tmp_path / "model"))
    index = json.loads((model / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]  # as published
    (model / "model_index.json").write_text(json.dumps(index))
    snapshot = put(cache, model)
    with pytest.raises(LocalEntryNotFoundError):  # not whole, says the library
        snapshot_download(HUB_ID, local_files_only=True, cache_dir=cache)
    stock = StableDiffusionPipeline.from_pretrained(HUB_ID, local_files_only=True, cache_dir=cache, safety_checker=None)
    assert resolve(HUB_ID) == snapshot
    ours = Backbone.load(HUB_ID)
    for name, module in ours.named_models().items():
        theirs = getattr(stock, name).state_dict()
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in module.state_dict().items())


def test_main_decides_among_snapshots(cache: Path, tiny_folder, tiny_models, tmp_path: Path) -> None:
    other = tiny_models.save_tiny_model("sd1", tmp_path / "other", seed=1)
    put(cache, tiny_folder("sd1"), FIRST, "main")
    assert torch.equal(weight(resolve(HUB_ID)), weight(tiny_folder("sd1")))
    put(cache, other, SECOND, "fp16")
    assert resolve(HUB_ID).name == FIRST
    put(cache, other, SECOND, "main")
    assert torch.equal(weight(resolve(HUB_ID)), weight(other))
    (cache / "models--owner--tiny-sd" / "refs" / "main").write_text(f"{FIRST}\n")
    assert resolve(HUB_ID).name == FIRST


@pytest.mark.parametrize("ref", [None, "fp16"])
def test_other_revisions_are_not_taken_for_main(cache: Path, tiny_folder, ref: str | None) -> None:
    snapshot = put(cache, tiny_folder("sd1"), ref=ref)
    with pytest.raises(InputError) as caught:
        resolve(HUB_ID)
    assert "other revisions than main" in str(caught.value) and str(snapshot) in str(caught.value)
    assert torch.equal(weight(snapshot), weight(tiny_folder("sd1")))  # as the message proposes


def test_main_of_which_nothing_is_left(cache: Path, tiny_folder) -> None:
    put(cache, tiny_folder("sd1"))
    (cache / "models--owner--tiny-sd" / "refs" / "main").write_text(SECOND)
    with pytest.raises(InputError, match="other revisions than main"):
        resolve(HUB_ID)


def test_what_was_not_fetched_is_told(cache: Path, tiny_folder) -> None:
    snapshot = put(cache, tiny_folder("sd1"))
    (snapshot / "unet" / "diffusion_pytorch_model.safetensors").resolve().unlink()  # the link stays, into nothing
    with pytest.raises(InputError, match=r"unet holds no \.safetensors weights"):
        Backbone.load(HUB_ID)


@pytest.mark.parametrize("hub_id", ["owner/nothing", "some.owner/name-v1.5", "a_b/c"])
def test_nothing_cached_is_one_line_that_says_how_to_fetch(cache: Path, tmp_path: Path, hub_id: str) -> None:
    with pytest.raises(InputError) as caught:
        TextToImageRecipe(prompts=("a mug",), output=tmp_path / "x.png", model=hub_id).check()
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"no model {hub_id!r}")
    assert str(cache) in message and f"hf download {hub_id}" in message and all(name in message for name in bundled())
    assert not list(tmp_path.iterdir())


def test_a_folder_comes_before_the_cache(cache: Path, tiny_folder, tmp_path: Path, monkeypatch) -> None:
    put(cache, tiny_folder("sd1"))
    (tmp_path / "owner" / "tiny-sd").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve(HUB_ID) == Path("owner/tiny-sd")


@pytest.mark.parametrize(
    ("variable", "inside"), [("HF_HOME", "hub"), ("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HOME", None)]
)
def test_the_cache_is_where_the_environment_says(
    tiny_folder, tmp_path: Path, variable: str, inside: str | None
) -> None:
    place = ".cache/huggingface/hub" if inside is None else inside
    snapshot = put(tmp_path / "home with space" / place, tiny_folder("sd1"))
    others = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in others}
    environment |= {"HOME": str(tmp_path / "nobody"), variable: str(tmp_path / "home with space")}
    code = f"from core2d.app.registry import resolve; print(resolve({HUB_ID!r}))"
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(snapshot)
