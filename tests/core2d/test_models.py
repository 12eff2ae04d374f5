"""Where models are found, and the full-size published models by their tensors."""

import math
from pathlib import Path

import pytest

import core2d.app.registry
from core2d.app.errors import InputError
from core2d.app.registry import assets_folder, bundled, resolve
from core2d.files.manifests import UNET_CONFIGS, compare_keys, unet_manifest, vae_manifest


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an imaginary installation of core2d."""
    folder = tmp_path / "site" / "core2d"
    (folder / "models").mkdir(parents=True)
    monkeypatch.setattr(core2d.app.registry, "__file__", str(folder / "models" / "__init__.py"))
    return folder


def add_model(assets: Path, name: str) -> Path:
    (assets / name).mkdir(parents=True)
    (assets / name / "README.md").write_text("card")
    return assets / name


def test_assets_of_a_checkout_lie_beside_the_packages(package: Path):
    assert assets_folder() == package.parent / "assets"


def test_assets_of_a_wheel_lie_in_the_package(package: Path):
    (package / "_assets").mkdir()
    assert assets_folder() == package / "_assets"


def test_bundled_models_are_the_folders_with_a_card(package: Path):
    assets = package.parent / "assets"
    first, second = add_model(assets, "alpha"), add_model(assets, "beta")
    (assets / "prompts").mkdir()
    assert bundled() == {"alpha": first, "beta": second}
    assert resolve("alpha") == first


def test_a_local_folder_is_itself(package: Path, tmp_path: Path):
    assert resolve(tmp_path) == tmp_path


@pytest.mark.parametrize("name", ["nothing", "owner/nothing", "a/b/c", "../nothing", "", "we?rd/na me"])
def test_an_unknown_model_is_refused_with_the_known_ones(package: Path, name: str):
    add_model(package.parent / "assets", "alpha")
    if name == "":
        assert resolve(name) == Path()  # the working folder; the loader says that it holds no model
        return
    with pytest.raises(InputError, match=r"bundled: alpha"):
        resolve(name)


def test_a_file_is_no_model(package: Path, tmp_path: Path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="is a file"):
        resolve(tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", ["~nobody-of-that-name/model", "x" * 5000, "a/" + "x" * 300])
def test_names_that_cannot_be_looked_for_are_one_short_line(package: Path, name: str):
    with pytest.raises(InputError, match=r"cannot be looked for|no model") as caught:
        resolve(name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1500


def parameters(manifest: dict[str, tuple[int, ...]]) -> float:
    """In millions."""
    return round(sum(math.prod(shape) for shape in manifest.values()) / 1e6, 2)


@pytest.mark.parametrize(
    ("name", "keys", "millions", "context"),
    [
        ("stable-diffusion-1.5", 686, 859.52, 768),
        ("stable-diffusion-2.1", 686, 865.91, 1024),
        ("stable-diffusion-xl-1.0", 1680, 2567.46, 2048),
    ],
)
def test_full_size_unets(name: str, keys: int, millions: float, context: int):
    manifest = unet_manifest(name)
    assert len(manifest) == keys
    assert parameters(manifest) == millions
    assert manifest["conv_in.weight"] == (320, 4, 3, 3)
    assert manifest["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"] == (1280, context)


def test_projections_of_sd1_are_convolutions_and_those_of_sd2_are_linear():
    name = "down_blocks.0.attentions.0.proj_in.weight"
    assert unet_manifest("stable-diffusion-1.5")[name] == (320, 320, 1, 1)
    assert unet_manifest("stable-diffusion-2.1")[name] == (320, 320)
    assert name not in unet_manifest("stable-diffusion-xl-1.0")  # no attention at its first level
    assert unet_manifest("stable-diffusion-xl-1.0")["add_embedding.linear_1.weight"] == (1280, 2816)


def test_full_size_autoencoder():
    manifest = vae_manifest()
    assert len(manifest) == 248
    assert parameters(manifest) == 83.65


def test_compare_keys_tells_the_families_apart():
    expected = unet_manifest("stable-diffusion-1.5")
    assert compare_keys(expected, expected) == ([], [], [])
    missing, unexpected, mismatched = compare_keys(expected, unet_manifest("stable-diffusion-2.1"))
    assert not missing and not unexpected
    assert len(mismatched) == 32 + 32  # to_k and to_v of 16 cross-attentions, proj_in and proj_out of 16 blocks
    found = {name: shape for name, shape in expected.items() if name != "conv_in.bias"} | {"extra": (1,)}
    assert compare_keys(expected, found) == (["conv_in.bias"], ["extra"], [])
    assert set(UNET_CONFIGS) == {"stable-diffusion-1.5", "stable-diffusion-2.1", "stable-diffusion-xl-1.0"}
