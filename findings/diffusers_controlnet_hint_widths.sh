#!/usr/bin/env bash
# diffusers 0.42.1: a ControlNet in the original layout gets a wrong last hint layer where its hints have not four widths.
#
# One would bet: converting the original layout (`convert_controlnet_checkpoint`, which `from_single_file` stands on)
#   goes by the config that it is given.
# What happens: the last convolution of the hint encoder is taken from place 14, whatever the config says. With five
#   widths, as autoencoders of factor 16 need (one halving more), `conv_out` becomes a copy of an inner layer, and the true
#   last one is dropped. Nothing is raised by the conversion.
# For users: convert such files by the number of places, or write the layout of diffusers.
# Here: `core2d/adapters/controlnet_files.py` counts the places, both ways.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq torch==2.13.0
"$folder/venv/bin/pip" install -qq diffusers==0.42.1 transformers accelerate==1.15.0
cd "$folder"
venv/bin/python -I - <<'PYTHON' 2>warnings.txt || { cat warnings.txt >&2; exit 1; }
import diffusers
import torch
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint


def hint_encoder(widths):
    """As the original code numbers it: convolutions at even places, each here filled with its number."""
    sizes = [(3, widths[0])]
    for inside, outside in zip(widths, widths[1:]):
        sizes += [(inside, inside), (inside, outside)]
    tensors = {}
    for number, (inside, outside) in enumerate([*sizes, (widths[-1], 32)]):
        name = f"control_model.input_hint_block.{2 * number}"
        tensors[f"{name}.weight"] = torch.full((outside, inside, 3, 3), float(number))
        tensors[f"{name}.bias"] = torch.full((outside,), float(number))
    return tensors


print(f"diffusers {diffusers.__version__}")
for widths, expected in (((16, 32, 96, 256), 7), ((16, 16, 32, 96, 256), 7)):
    model = diffusers.ControlNetModel(
        block_out_channels=(32,), down_block_types=("DownBlock2D",), layers_per_block=1, norm_num_groups=8,
        cross_attention_dim=8, conditioning_embedding_out_channels=widths,
    )
    given = hint_encoder(widths)
    last = len(given) // 2 - 1
    made = convert_controlnet_checkpoint(given, config=dict(model.config))
    taken = made["controlnet_cond_embedding.conv_out.weight"]
    wanted = model.controlnet_cond_embedding.conv_out.weight
    print(f"widths {widths}: conv_out {tuple(wanted.shape)} should be number {last}; "
          f"it is number {taken.flatten()[0].item():.0f}, {tuple(taken.shape)}")
    assert taken.flatten()[0].item() == expected, "it behaves otherwise now"
    assert (taken.shape == wanted.shape) == (len(widths) == 4), "it behaves otherwise now"
PYTHON
