"""Autoencoders that begin with the weights of smaller ones."""

import pytest
import torch

from core2d.bundled import vae
from core2d.bundled.autoencoder_layouts import LAYOUTS, begin_with


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_what_its_name_says(name: str):
    layout = LAYOUTS[name]
    model = layout.build()
    factor, channels = (int(part) for part in name.split("-")[0][1:].split("c"))
    images = torch.zeros(1, 3, layout.size, layout.size)
    latents = model.encode(images).latent_dist.mean  # pyright: ignore[reportAttributeAccessIssue]
    assert latents.shape == (1, channels, layout.size // factor, layout.size // factor)
    assert model.decode(latents).sample.shape == images.shape  # pyright: ignore[reportAttributeAccessIssue]


def test_levels_are_added_at_the_pixels_and_channels_after_the_known_ones():
    torch.manual_seed(0)
    small = vae.build(64)
    for parameter in small.parameters():
        torch.nn.init.normal_(parameter)
    large, old = LAYOUTS["f16c16"].build(), small.state_dict()
    taken = begin_with(large, small)
    new = large.state_dict()
    assert torch.equal(
        new["encoder.down_blocks.4.resnets.0.conv1.weight"], old["encoder.down_blocks.3.resnets.0.conv1.weight"]
    )
    assert torch.equal(
        new["decoder.up_blocks.1.resnets.0.conv1.weight"], old["decoder.up_blocks.1.resnets.0.conv1.weight"]
    )
    assert torch.equal(new["decoder.conv_in.weight"][:, :4], old["decoder.conv_in.weight"])
    for half in range(2):  # mean and log-variance
        rows = slice(16 * half, 16 * half + 4)
        assert torch.equal(
            new["encoder.conv_out.weight"][rows], old["encoder.conv_out.weight"][4 * half : 4 * half + 4]
        )
        assert torch.equal(new["quant_conv.bias"][rows], old["quant_conv.bias"][4 * half : 4 * half + 4])
        for other in range(2):
            corner = new["quant_conv.weight"][rows, 16 * other : 16 * other + 4]
            assert torch.equal(corner, old["quant_conv.weight"][4 * half : 4 * half + 4, 4 * other : 4 * other + 4])
    assert taken > 100


def test_the_same_layout_takes_everything():
    torch.manual_seed(0)
    first, second = LAYOUTS["f8c4"].build(), LAYOUTS["f8c4"].build()
    assert begin_with(second, first) == len(first.state_dict())
    assert all(torch.equal(value, first.state_dict()[name]) for name, value in second.state_dict().items())
