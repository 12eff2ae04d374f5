"""Pictures as numbers, and the rays of their pixels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.nerf_scenes import BENT, FISHEYE, LENS, Ball, read_json, save, write_json, write_nerfstudio
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from core2d.app.errors import InputError
from gen3d.data.lenses import Lens
from gen3d.data.photographs import Photographs
from gen3d.data.pictures import read_mask, read_picture, shrink, shrink_mask
from gen3d.data.placement import Placement
from gen3d.data.scene import load_scene

PORTRAIT = Lens(30, 40, 44.0, 45.0, 15.5, 20.5)
MIXED = [LENS, BENT, FISHEYE, PORTRAIT]


@pytest.fixture
def photographs(tmp_path: Path) -> Photographs:
    write_nerfstudio(tmp_path, MIXED, alpha=True)
    return Photographs(load_scene(tmp_path).views)


# -- pictures ----------------------------------------------------------------------------------------------------


def random_bytes(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_modes(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(random_bytes(5, 7, 4 if mode in ("RGBA", "LA") else 3)).convert(mode)
    image.save(tmp_path / "a.png")
    pixels, has_alpha = read_picture(tmp_path / "a.png")
    assert pixels.dtype == np.uint8 and pixels.shape == (5, 7, 4)
    assert has_alpha == (mode in ("RGBA", "LA"))
    np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGBA")))


def test_colours_under_transparency_stay(tmp_path: Path) -> None:
    pixels = random_bytes(4, 4, 4)
    pixels[..., 3] = [0, 1, 128, 255]
    np.testing.assert_array_equal(read_picture(save(tmp_path / "a.png", pixels))[0], pixels)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 1, 128, 129, 257, 300, 32768, 65407, 65408, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    pixels, has_alpha = read_picture(tmp_path / f"a.{suffix}")
    expected = np.rint(values / 257).astype(np.uint8)
    assert not has_alpha and (pixels[..., 3] == 255).all()
    for channel in range(3):
        np.testing.assert_array_equal(pixels[..., channel], expected)


def test_a_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    image.save(tmp_path / "a.png", transparency=0)
    pixels, has_alpha = read_picture(tmp_path / "a.png")
    assert has_alpha and pixels[0, :, 3].tolist() == [0, 255] and pixels[0, 1, :3].tolist() == [40, 50, 60]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    stored = random_bytes(4, 6, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    turns = {3: 2, 6: 3, 8: 1}  # quarters counter-clockwise
    mirrored = {2: stored[:, ::-1], 4: stored[::-1], 5: stored.swapaxes(0, 1), 7: np.rot90(stored, 2).swapaxes(0, 1)}
    expected = mirrored.get(orientation, np.rot90(stored, turns.get(orientation, 0)))
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png")[0][..., :3], expected)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png", upright=False)[0][..., :3], stored)


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a\.tif has floating-point pixels"):
        read_picture(tmp_path / "a.tif")


@settings(deadline=None, max_examples=50)
@given(arrays(np.uint8, (7, 9, 4)), st.integers(1, 4))
def test_shrinking_averages_light(pixels: np.ndarray, factor: int) -> None:
    small = shrink(pixels, factor).astype(float)
    height, width = 7 // factor, 9 // factor
    assert small.shape == (height, width, 4)
    for y in range(height):
        for x in range(width):
            block = pixels[y * factor : (y + 1) * factor, x * factor : (x + 1) * factor].reshape(-1, 4).astype(float)
            assert small[y, x, 3] == pytest.approx(block[:, 3].mean(), abs=0.51)
            weights = block[:, 3] if block[:, 3].any() else np.ones(len(block))
            expected = np.average(block[:, :3], axis=0, weights=weights)
            np.testing.assert_allclose(small[y, x, :3], expected, atol=0.51)


def test_masks(tmp_path: Path) -> None:
    mask = np.full((4, 6), 255, np.uint8)
    mask[1, 1], mask[3, 5] = 0, 1
    found = read_mask(save(tmp_path / "m.png", mask))
    assert found.shape == (4, 6) and (~found).sum() == 1 and not found[1, 1]
    assert shrink_mask(found, 2).tolist() == [[False, True, True], [True, True, True]]


# -- photographs -------------------------------------------------------------------------------------------------


def test_pixels_of_mixed_sizes_stand_in_order(photographs: Photographs) -> None:
    assert len(photographs) == 4 and photographs.has_alpha and photographs.kept is None
    assert photographs.offsets.tolist() == [0, 1200, 1200 + 1728, 1200 + 2 * 1728, 2400 + 2 * 1728]
    for index, (view, lens) in enumerate(zip(photographs.views, MIXED, strict=True)):
        assert photographs.size_of(index) == (lens.height, lens.width)
        rows = photographs.rows_of(index)
        assert (photographs.views_of(rows) == index).all()
        expected = Ball().picture(torch.from_numpy(view.camera_to_world), lens)
        assert torch.equal(photographs.pixels[rows], torch.from_numpy(expected).view(-1, 4))
        rgb, alpha = photographs.colors(rows)
        assert rgb.dtype == alpha.dtype == torch.float32
        assert torch.equal(torch.cat([rgb, alpha[:, None]], 1), photographs.pixels[rows].float() / 255)


def test_rays_go_through_the_middles_of_pixels(photographs: Photographs) -> None:
    rows = torch.randperm(len(photographs.pixels), generator=torch.Generator().manual_seed(0))[:2000]
    origins, directions = photographs.rays(rows)
    assert origins.dtype == directions.dtype == torch.float32
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(2000))
    for index, view in enumerate(photographs.views):
        mine = photographs.views_of(rows) == index
        pose = torch.from_numpy(view.camera_to_world)
        torch.testing.assert_close(origins[mine].double(), pose[:3, 3].expand(int(mine.sum()), 3), rtol=0, atol=1e-6)
        inside = rows[mine] - photographs.offsets[index]
        middle = torch.stack([inside % view.lens.width, inside // view.lens.width], dim=1).double() + 0.5
        seen = view.lens.project(directions[mine].double() @ pose[:3, :3])
        torch.testing.assert_close(seen, middle, rtol=0, atol=1e-3)


def test_rays_see_the_ball_where_the_picture_has_it(photographs: Photographs) -> None:
    rows = torch.arange(len(photographs.pixels))
    origins, directions = photographs.rays(rows)
    along = (origins * directions).sum(1)
    nearest = (origins - along[:, None] * directions).norm(dim=1)
    opaque = photographs.colors(rows)[1] == 1
    sure = (nearest - 0.5).abs() > 1e-4
    assert torch.equal((nearest < 0.5)[sure], opaque[sure]) and 500 < int(opaque.sum()) < 3000


def test_gradients_reach_the_poses(photographs: Photographs) -> None:
    poses = photographs.camera_to_world.double().requires_grad_()
    rows = torch.tensor([5, 1300, 1301, 5000])
    origins, directions = photographs.rays(rows, poses)
    (origins.sum() + (directions * torch.arange(12.0).view(4, 3)).sum()).backward()
    assert poses.grad is not None
    assert (poses.grad[:, :3, 3] == torch.tensor([1.0, 2, 0, 1])[:, None]).all()
    assert poses.grad[0, :3, :3].abs().sum() > 0 and (poses.grad[2] == 0).all()
    with pytest.raises(ValueError, match=r"needs \(4, 4, 4\) poses, got \(1, 4, 4\)"):
        photographs.rays(rows, poses[:1])


def test_moving_shares_pixels_and_keeps_directions(photographs: Photographs) -> None:
    placement = Placement((1.0, 2.0, -3.0), 0.25, False)
    moved, rows = photographs.moved(placement), torch.arange(0, 5000, 7)
    assert moved.pixels is photographs.pixels
    (origins, directions), (before, same) = moved.rays(rows), photographs.rays(rows)
    assert torch.equal(directions, same)
    torch.testing.assert_close(origins, placement.to_model(before))
    assert torch.equal(photographs.rays(rows)[0], before)
    twice = moved.moved(Placement((0.0, 0.0, 0.0), 4.0, False))
    torch.testing.assert_close(twice.rays(rows)[0], before - torch.tensor([1.0, 2, -3]))


def test_a_scene_far_from_its_origin_stays_exact(tmp_path: Path) -> None:
    far = Ball(center=(4e6, -5e5, 2e4))
    write_nerfstudio(tmp_path, [LENS] * 4, far)
    moved = Photographs(load_scene(tmp_path).views).moved(Placement(far.center, 1.0, False))
    torch.testing.assert_close(moved.camera_to_world[:, :3, 3].norm(dim=1), torch.full((4,), 3.0), rtol=0, atol=1e-5)


def test_masked_pixels_are_not_kept(tmp_path: Path) -> None:
    write_nerfstudio(tmp_path, [LENS] * 3)
    mask = np.full((30, 40), 255, np.uint8)
    mask[9, 4] = 0
    save(tmp_path / "mask.png", mask)
    data = read_json(tmp_path / "transforms.json")
    data["frames"][1]["mask_path"] = "mask.png"
    write_json(tmp_path / "transforms.json", data)
    views = load_scene(tmp_path).views
    kept = Photographs(views).kept
    assert kept is not None and torch.nonzero(~kept).tolist() == [[1200 + 9 * 40 + 4]]
    kept = Photographs(views, downscale=2).kept
    assert kept is not None and torch.nonzero(~kept).tolist() == [[300 + 4 * 20 + 2]]


def test_downscale_of_photographs(tmp_path: Path) -> None:
    write_nerfstudio(tmp_path, [LENS] * 3, alpha=True)
    whole, half = Photographs(load_scene(tmp_path).views), Photographs(load_scene(tmp_path, downscale=2).views)
    again = Photographs(load_scene(tmp_path).views, downscale=2)
    assert torch.equal(half.pixels, again.pixels) and half.lenses == again.lenses
    assert len(half.pixels) * 4 == len(whole.pixels)
    quarter, both = Photographs(load_scene(tmp_path, downscale=2).views, 3), Photographs(load_scene(tmp_path).views, 6)
    assert torch.equal(quarter.pixels, both.pixels)
    with pytest.raises(ValueError, match="downscale by 31"):
        Photographs(load_scene(tmp_path).views, 31)
    with pytest.raises(ValueError, match="0 views"):
        Photographs([])
    assert half.to("cpu").rays(torch.tensor([3]))[1].equal(half.rays(torch.tensor([3]))[1])
