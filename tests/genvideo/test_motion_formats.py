"""Published motion modules, there and back, in both key styles."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.models.unets.unet_motion_model import MotionAdapter
from safetensors.torch import load_file, save_file

from core2d.app.errors import InputError
from core2d.files.manifests import UNET_CONFIGS
from core2d.files.motion_names import config_of, to_diffusers
from core2d.prior.backbone import Backbone
from genvideo.__main__ import main
from genvideo.animatediff.formats import Facts, Norms, read_motion, to_original, write_motion
from genvideo.animatediff.motion import MotionBackbone, fresh_motion


def same(first: MotionAdapter, second: MotionAdapter) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_both_styles_come_back_whole(motion: MotionAdapter, tmp_path: Path):
    facts = Facts(Norms("frame", "clip"), "published", True, 0.25, "some-vae")
    write_motion(tmp_path / "folder", motion, facts=facts)
    write_motion(tmp_path / "file.safetensors", motion, "original", facts)
    folder, file = read_motion(tmp_path / "folder"), read_motion(tmp_path / "file.safetensors")
    assert same(folder.motion, motion) and same(file.motion, motion)
    assert folder.facts == facts == file.facts and folder.vae == "some-vae" == file.vae
    for name in ("motion_norm_num_groups", "motion_num_attention_heads"):
        assert file.motion.config[name] == motion.config[name]
    assert not any(file.report) and file.matched == sum(".pe" not in name for name in motion.state_dict())
    wanted = {"motion_num_attention_heads": 2, "motion_max_seq_length": 32, "use_motion_mid_block": True}
    assert {name: folder.motion.config[name] for name in wanted} == wanted
    assert file.motion.config["motion_num_attention_heads"] == 2  # which no tensor tells


def test_the_file_of_the_original_code_is_what_it_would_write(motion: MotionAdapter, tmp_path: Path):
    """Its own names, and the sinusoidal encoding of section A of its code, in each of the two attentions."""
    write_motion(tmp_path / "file.safetensors", motion, "original")
    state = load_file(tmp_path / "file.safetensors")
    start = "up_blocks.1.motion_modules.0.temporal_transformer."
    block = start + "transformer_blocks.0."
    found = {name.removeprefix(start) for name in state if name.startswith(start)}
    inner = {f"attention_blocks.{i}.{part}" for i in (0, 1) for part in ("to_q.weight", "to_k.weight", "to_v.weight",
             "to_out.0.weight", "to_out.0.bias", "pos_encoder.pe")}  # fmt: skip
    inner |= {f"norms.{i}.{part}" for i in (0, 1) for part in ("weight", "bias")}
    inner |= {f"{layer}.{part}" for layer in ("ff.net.0.proj", "ff.net.2", "ff_norm") for part in ("weight", "bias")}
    outer = {f"{layer}.{part}" for layer in ("norm", "proj_in", "proj_out") for part in ("weight", "bias")}
    assert found == outer | {f"transformer_blocks.0.{name}" for name in inner} and len(found) == 28
    encoding = state[block + "attention_blocks.1.pos_encoder.pe"]  # (1, 32, c)
    width = encoding.shape[2]
    angles = torch.arange(32)[:, None] * 10_000 ** (-torch.arange(0, width, 2) / width)
    torch.testing.assert_close(encoding[0, :, 0::2], angles.sin())
    torch.testing.assert_close(encoding[0, :, 1::2], angles.cos())


@pytest.mark.parametrize(("mid_block", "keys", "of_diffusers"), [(False, 560, 540), (True, 588, 567)])
def test_full_size_names(mid_block: bool, keys: int, of_diffusers: int):
    """v1 and v3 have 560 tensors in the original style, v2 has 588; the way there and back loses none."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNET_CONFIGS["stable-diffusion-1.5"])
        made = fresh_motion(unet, mid_block=mid_block)
    original = to_original(made)
    assert len(original) == keys and len(made.state_dict()) == of_diffusers
    back = to_diffusers({f"module.{name}": value for name, value in original.items()})
    assert back.keys() == {name for name in made.state_dict() if ".pos_embed." not in name}
    config = config_of(back, 32, 8)
    assert all(made.config[name] == value for name, value in config.items() if name != "motion_layers_per_block")
    assert config["motion_layers_per_block"] == 2


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_checkpoint_of_the_training_code_is_read(motion: MotionAdapter, tmp_path: Path, wrapped: bool):
    """A pickle of tensors, in a wrapper, with the prefix that parallel training leaves; it is never unpickled."""
    state = {f"module.{name}": value for name, value in to_original(motion).items()}
    torch.save({"state_dict": state, "epoch": 3} if wrapped else state, tmp_path / "mm.ckpt")
    found = read_motion(tmp_path / "mm.ckpt", heads=2)
    assert same(found.motion, motion)
    assert read_motion(tmp_path / "mm.ckpt").motion.config["motion_num_attention_heads"] == 8


def of_others(path: Path, motion: MotionAdapter) -> Path:
    """As the authors' code writes it: tensors, and not a word on how they are to be run."""
    save_file({name: value.contiguous() for name, value in to_original(motion).items()}, path)
    return path


def test_the_first_version_is_known_by_its_encoding(flat: Backbone, tmp_path: Path):
    made = {
        "v1": fresh_motion(flat.family.denoiser, heads=2, window=24, mid_block=False),
        "v2": fresh_motion(flat.family.denoiser, heads=2, window=32, mid_block=True),
        "v3": fresh_motion(flat.family.denoiser, heads=2, window=32, mid_block=False),
    }
    found = {name: read_motion(of_others(tmp_path / f"{name}.safetensors", modules), heads=2)
             for name, modules in made.items()}  # fmt: skip
    frame = Norms("frame", "frame")
    assert {name: one.facts.norms for name, one in found.items()} == {
        "v1": Norms("frame", "clip"), "v2": frame, "v3": frame,
    }  # fmt: skip
    assert all(one.facts.schedule == "published" for one in found.values())
    assert {name: one.motion.config["motion_max_seq_length"] for name, one in found.items()} == {
        "v1": 24, "v2": 32, "v3": 32,
    }  # fmt: skip
    assert MotionBackbone(flat, found["v1"].motion, norms=found["v1"].facts.norms).window == 24


def without_encodings(path: Path, motion: MotionAdapter) -> Path:
    """As the authors' code writes it today: its positional encodings are no part of what is saved."""
    save_file({name: value.contiguous() for name, value in to_original(motion).items() if ".pe" not in name}, path)
    return path


def test_where_no_encoding_tells_v1_from_v3_it_is_asked_for(flat: Backbone, tmp_path: Path):
    torch.manual_seed(1)
    made = fresh_motion(flat.family.denoiser, heads=2, window=24, mid_block=False)
    for parameter in made.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    known, file = (
        of_others(tmp_path / "known.safetensors", made),
        without_encodings(tmp_path / "today.safetensors", made),
    )
    with pytest.raises(InputError, match=r"no positional encodings, .*--motion-version v1 or --motion-version v3"):
        read_motion(file, heads=2)
    expected, first = read_motion(known, heads=2), read_motion(file, heads=2, motion_version="v1")
    assert first.facts == expected.facts == Facts(Norms("frame", "clip"), "published")
    assert same(first.motion, expected.motion) and first.motion.config == expected.motion.config
    clip, words = torch.randn(1, 4, 3, 8, 8), flat.encode_text(["a red mug"])
    third = read_motion(file, heads=2, motion_version="v3")
    assert third.facts == Facts(Norms("frame", "frame"), "published")
    assert third.motion.config["motion_max_seq_length"] == 32
    shown = [MotionBackbone(flat, one.motion, one.facts.norms).network(clip, 500, words)
             for one in (expected, first, third)]  # fmt: skip
    assert torch.equal(shown[0], shown[1]) and (shown[2] - shown[0]).abs().max() > 1e-2


def test_a_version_is_not_guessed_and_not_believed_against_the_file(flat: Backbone, tmp_path: Path):
    modules = {mid: fresh_motion(flat.family.denoiser, heads=2, window=32, mid_block=mid) for mid in (False, True)}
    second = without_encodings(tmp_path / "v2.safetensors", modules[True])
    found = read_motion(second, heads=2)  # the module in the middle tells
    assert found.facts.norms == Norms("frame", "frame") and found.motion.config["motion_max_seq_length"] == 32
    odd = of_others(tmp_path / "odd.safetensors", fresh_motion(flat.family.denoiser, 2, 48, mid_block=False))
    modules[False].save_pretrained(tmp_path / "theirs")
    write_motion(tmp_path / "ours", modules[True])
    write_motion(tmp_path / "ours.safetensors", modules[True], "original")
    cases: tuple[tuple[Path, Any, str], ...] = (
        (odd, None, "positional encodings of 48 frames, and may be AnimateDiff v1 or v3"),
        (second, "v1", "has a motion module in the middle block, and AnimateDiff v1 has none"),
        (tmp_path / "theirs", "v2", "has no motion module in the middle block, and AnimateDiff v2 has one"),
        (tmp_path / "ours", "v2", "says itself how its motion modules are run: leave out --motion-version"),
        (tmp_path / "ours.safetensors", "v2", "says itself how"),
    )
    for path, version, words in cases:
        with pytest.raises(InputError, match=words):
            read_motion(path, motion_version=version)
    assert read_motion(odd, heads=2, motion_version="v1").motion.config["motion_max_seq_length"] == 48
    # A converted v1 whose config says 32, as diffusers' script writes where it is told nothing.
    assert read_motion(tmp_path / "theirs", motion_version="v1").facts == Facts(Norms("frame", "clip"), "published")
    assert read_motion(tmp_path / "theirs", motion_version="v3").facts == read_motion(tmp_path / "theirs").facts


def test_the_command_asks_for_the_version_and_takes_it(
    tiny_folder: Callable[..., Path], flat: Backbone, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    motion = fresh_motion(flat.family.denoiser, heads=8, window=24, mid_block=False)
    file = without_encodings(tmp_path / "mm.safetensors", motion)
    words = ["text-to-video", "a red mug", "--model", tiny_folder("sd1"), "--motion", file, "--steps", 1,
             "--frames", 2, "-o", tmp_path / "new" / "mug.apng"]  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        main([*map(str, words)])
    assert stop.value.code == 2 and "--motion-version v1 or --motion-version v3" in capfd.readouterr().err
    assert not (tmp_path / "new").exists()
    main([*map(str, words), "--motion-version", "v1"])
    assert (tmp_path / "new" / "mug.apng").is_file()


NONSENSE = [{"heads": 0}, {"heads": -2}, {"heads": "2"}, {"heads": 3}, {"heads": 2.0}, {"heads": True}, {"groups": 0},
            {"groups": 3}, {"groups": None}, {"groups": [2]}, {"heads": 10**30}]  # fmt: skip


@pytest.mark.parametrize("said", NONSENSE)
def test_heads_and_groups_that_cannot_be_are_one_clear_error(motion: MotionAdapter, tmp_path: Path, said: dict):
    (name, value), names = *said.items(), {"heads": "num_attention_heads", "groups": "norm_num_groups"}
    state = {name: tensor.contiguous() for name, tensor in to_original(motion).items()}
    save_file(
        state, tmp_path / "a.safetensors", metadata={"liftkit_settings": json.dumps({"heads": 2, "groups": 4} | said)}
    )
    write_motion(tmp_path / "folder", motion)
    config = json.loads((tmp_path / "folder" / "config.json").read_text()) | {f"motion_{names[name]}": value}
    (tmp_path / "folder" / "config.json").write_text(json.dumps(config))
    for path in (tmp_path / "a.safetensors", tmp_path / "folder"):
        with pytest.raises(
            InputError, match=r"is to have .* (heads|groups) of .* channels cannot be divided"
        ) as raised:
            read_motion(path)
        assert "\n" not in str(raised.value) and repr(value) in str(raised.value)


@pytest.mark.parametrize("said", ["{", "[1]", "3"])
def test_settings_that_cannot_be_read_are_not_passed_over(motion: MotionAdapter, tmp_path: Path, said: str):
    state = {name: tensor.contiguous() for name, tensor in to_original(motion).items()}
    save_file(state, tmp_path / "a.safetensors", metadata={"liftkit_settings": said})
    with pytest.raises(InputError, match="liftkit_settings that are no JSON object"):
        read_motion(tmp_path / "a.safetensors", heads=2)


@pytest.mark.parametrize(("window", "mid_block"), [(24, False), (32, True)])
def test_what_modules_compute_survives_every_way_of_writing_them(
    flat: Backbone, tmp_path: Path, window: int, mid_block: bool
):
    """v1 and v2 of the authors, and ours of the same shapes: read, written in either style, read, and run."""
    torch.manual_seed(1)
    made = fresh_motion(flat.family.denoiser, 2, window, mid_block)
    for parameter in made.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    write_motion(tmp_path / "ours.safetensors", made, "original")
    of_others(tmp_path / "theirs.safetensors", made)
    clip, words = torch.randn(1, 4, 3, 8, 8), flat.encode_text(["a red mug"])
    shown = {}
    for name in ("ours", "theirs"):
        first = read_motion(tmp_path / f"{name}.safetensors", heads=2)
        write_motion(tmp_path / f"{name}-folder", first.motion, facts=first.facts)
        write_motion(tmp_path / f"{name}-again.safetensors", first.motion, "original", first.facts)
        files = [first, *(read_motion(tmp_path / f"{name}-{rest}") for rest in ("folder", "again.safetensors"))]
        shown[name] = [MotionBackbone(flat, one.motion, one.facts.norms).network(clip, 500, words) for one in files]
        assert all(torch.equal(one, shown[name][0]) for one in shown[name])
        assert all(one.facts == first.facts for one in files)
    assert (shown["ours"][0] - shown["theirs"][0]).abs().max() > 1e-3  # they were trained under other norms
    ours = MotionBackbone(flat, made).network(clip, 500, words)
    torch.testing.assert_close(shown["ours"][0], ours, atol=1e-6, rtol=1e-6)


def test_a_first_version_in_the_style_of_diffusers_keeps_its_norms(flat: Backbone, tmp_path: Path):
    fresh_motion(flat.family.denoiser, 2, 24, mid_block=False).save_pretrained(tmp_path / "v1")
    fresh_motion(flat.family.denoiser, 2, 32, mid_block=False).save_pretrained(tmp_path / "v3")
    assert read_motion(tmp_path / "v1").facts == Facts(Norms("frame", "clip"), "published")
    assert read_motion(tmp_path / "v3").facts == Facts(Norms("clip", "frame"), "published")


@pytest.mark.parametrize(
    "said", ['{"norms": {"motion": "both"}}', '{"norms": 3}', '{"schedule": "mine"}', '{"shared_noise": "much"}',
             '{"takes_frames": 1}', '{"window": 3}', '{"vae": 3}', '{"shared_noise": 2}'],
)  # fmt: skip
def test_nonsense_about_modules_is_one_clear_error(motion: MotionAdapter, tmp_path: Path, said: str):
    write_motion(tmp_path / "motion", motion)
    (tmp_path / "motion" / "liftkit.json").write_text(said)
    with pytest.raises(InputError, match=r"liftkit.json does not say how its motion modules are to be run"):
        read_motion(tmp_path / "motion")


def test_what_is_not_needed_is_reported(motion: MotionAdapter, tmp_path: Path):
    state = to_original(motion) | {"conv_in.weight": torch.zeros(1), "module.epoch": torch.zeros(1)}
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "a.safetensors")
    assert read_motion(tmp_path / "a.safetensors", heads=2).report.unexpected == ["conv_in.weight", "module.epoch"]


def test_what_is_missing_is_never_filled_in(motion: MotionAdapter, tmp_path: Path):
    state = {name: value.contiguous() for name, value in to_original(motion).items()}
    gone = "up_blocks.0.motion_modules.0.temporal_transformer.proj_out.weight"
    save_file({name: value for name, value in state.items() if name != gone}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=r"no complete motion modules: 1 of \d+ tensors are missing, 0 have another"):
        read_motion(tmp_path / "a.safetensors", heads=2)
    save_file(state | {gone: torch.zeros(2, 2)}, tmp_path / "b.safetensors")
    with pytest.raises(InputError, match=r"0 of .* are missing, 1 have another shape"):
        read_motion(tmp_path / "b.safetensors", heads=2)


def test_what_holds_no_modules_is_one_clear_error(flat: Backbone, motion: MotionAdapter, tmp_path: Path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "half.safetensors").write_bytes(b"\x40\0\0\0\0\0\0\0{")
    (tmp_path / "notes.txt").write_text("no weights")
    flat.family.denoiser.save_pretrained(tmp_path / "unet")
    for name, words in {
        "other.safetensors": r"holds no motion modules",
        "half.safetensors": "damaged",
        "notes.txt": "no file of weights",
        "unet": "holds a UNet2DConditionModel, not motion modules",
        "none": "no motion modules at",
    }.items():
        with pytest.raises(InputError, match=words):
            read_motion(tmp_path / name)
    with pytest.raises(InputError, match=r"ends in \.safetensors"):
        write_motion(tmp_path / "mm.ckpt", motion, "original")
    assert not (tmp_path / "mm.ckpt").exists()


def test_a_hostile_pickle_does_nothing(tmp_path: Path):
    class Sentinel:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "fired",))

    (tmp_path / "mm.ckpt").write_bytes(pickle.dumps({"state_dict": Sentinel()}))
    with pytest.raises(InputError):
        read_motion(tmp_path / "mm.ckpt")
    assert not (tmp_path / "fired").exists()
