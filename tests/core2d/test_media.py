"""Pictures, there and back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core2d.app.errors import InputError
from core2d.app.outputs import IMAGE_SUFFIXES
from core2d.media import pictures as media


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def ramp(height: int, width: int, channels: int = 3) -> np.ndarray:
    """A picture that lossy formats keep well."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 2, 255 - x][:channels], -1).astype(np.uint8)


# -- pictures ------------------------------------------------------------------------------------------


def test_floats_become_the_nearest_bytes():
    values = torch.tensor([-0.5, 0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 7.0]).reshape(1, 1, 6)
    assert media.to_uint8(values).ravel().tolist() == [0, 0, 0, 1, 255, 255]
    every = torch.arange(256).reshape(1, 16, 16) / 255
    assert media.to_uint8(every).ravel().tolist() == list(range(256))
    for wrong in (torch.full((3, 2, 2), torch.nan), torch.zeros(3, 2, 2, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="finite floats"):
            media.to_uint8(wrong)


def test_a_grid_is_filled_row_by_row():
    pictures = np.stack([np.full((2, 3, 3), value, np.uint8) for value in range(5)])
    grid = media.image_grid(pictures, columns=3)
    assert grid.shape == (4, 9, 3)
    corners = grid[::2, ::3, 0]
    assert corners.tolist() == [[0, 1, 2], [3, 4, 255]]
    floats = torch.from_numpy(pictures).movedim(-1, 1) / 255
    assert np.array_equal(media.image_grid(floats, columns=3), grid)
    assert media.image_grid(pictures[:4]).shape == (4, 6, 3)  # about square by default
    for wrong in (pictures[:0], pictures[0], pictures.astype(float)):
        with pytest.raises(ValueError, match="a grid takes"):
            media.image_grid(wrong)


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
@pytest.mark.parametrize("channels", [3, 4])
def test_pictures_there_and_back(tmp_path: Path, suffix: str, channels: int):
    path, picture = tmp_path / f"Mug{suffix.upper()}", ramp(33, 47, channels)
    if suffix in (".jpg", ".jpeg") and channels == 4:
        with pytest.raises(InputError, match="no transparency"):
            media.save_image(path, picture)
        assert not list(tmp_path.iterdir())
        return
    assert media.save_image(path, picture) == path and [*tmp_path.iterdir()] == [path]
    back = media.read_image(path).astype(int)
    assert back.shape == picture.shape
    assert np.abs(back - picture).max() <= (12 if suffix in (".jpg", ".jpeg") else 0)
    visible = picture[..., 3:] != 0 if channels == 4 else True
    assert np.abs((back - picture) * visible).mean() < 2


def test_tensors_are_saved_as_pictures_and_grids(tmp_path: Path):
    images = torch.from_numpy(noise(4, 8, 6, 3)).movedim(-1, 1) / 255
    media.save_image(tmp_path / "one.png", images[0].requires_grad_())
    media.save_image(tmp_path / "four.png", images)
    assert np.array_equal(media.read_image(tmp_path / "one.png"), media.to_uint8(images[0]))
    assert np.array_equal(media.read_image(tmp_path / "four.png"), media.image_grid(images))


def test_a_png_says_where_it_comes_from(tmp_path: Path):
    text = {"prompt": "ein roter Krug 🍵\nzwei", "seed": 3}
    media.save_image(tmp_path / "mug.png", ramp(8, 8), text=text)
    assert media.read_image_text(tmp_path / "mug.png") == {"prompt": "ein roter Krug 🍵\nzwei", "seed": "3"}


def test_pictures_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError, match=r"must end in one of \.png"):
        media.save_image(tmp_path / "mug.bmp", ramp(8, 8))
    with pytest.raises(ValueError, match=r"not \(8, 8\) of float64"):
        media.save_image(tmp_path / "mug.png", np.zeros((8, 8)))

    def full_disk(*_: object, **__: object):
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        media.save_image(tmp_path / "new" / "mug.png", ramp(8, 8))
    assert not list(tmp_path.iterdir())


def test_pictures_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    media.save_image(tmp_path / "mug.png", noise(40, 40, 3))
    whole = (tmp_path / "mug.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no picture")
    Image.fromarray(ramp(8, 8)).save(tmp_path / "mug.tiff")
    refused = {"none.png": "no picture at", "cut.png": "truncated"}
    refused |= dict.fromkeys(("text.png", "mug.tiff", "."), "cannot be read as PNG")
    for name, reason in refused.items():
        with pytest.raises(InputError, match=reason):
            media.read_image(tmp_path / name)
    monkeypatch.setattr(media, "LARGEST_PICTURE", 1599)
    with pytest.raises(InputError, match="40 x 40 pixels"):
        media.read_image(tmp_path / "mug.png")


def test_pictures_are_read_upright_and_in_colour(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees to the right
    Image.fromarray(ramp(20, 30)).save(tmp_path / "turned.jpg", exif=exif)
    assert media.read_image(tmp_path / "turned.jpg").shape == (30, 20, 3)
    Image.fromarray(noise(5, 6)).save(tmp_path / "grey.png")
    assert media.read_image(tmp_path / "grey.png").shape == (5, 6, 3)
    Image.fromarray(noise(5, 6)).convert("P").save(tmp_path / "palette.png", transparency=0)
    assert media.read_image(tmp_path / "palette.png").shape == (5, 6, 4)
