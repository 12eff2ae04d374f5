#!/usr/bin/env bash
# diffusers 0.42.1: its DiT and its PixArt, which is built on DiT, tell the network the time by other sinusoids.
#
# One would bet: both embed a time as ADM and DiT do, by cos and sin of t times 10000^(-k / 128) for k = 0 ... 127.
# What happens: PixArt's embedding does. DiT's divides by 127 (`downscale_freq_shift=1`), so that its lowest frequency
#   is 1e-4 itself and all others are a little lower, the higher the time the more so. At t = 999 numbers that should be
#   equal differ by more than 1.
# For users: weights trained elsewhere with the one embedding are asked with the other; nothing is raised. Weights trained
#   in diffusers are consistent.
# Here: `core2d/transformer/layouts.py` keeps the divisor as a setting, and refuses to write a model of the one kind as a
#   folder of the other.
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
from diffusers.models.embeddings import CombinedTimestepLabelEmbeddings, PixArtAlphaCombinedTimestepSizeEmbeddings

print(f"diffusers {diffusers.__version__}")
time = torch.tensor([999.0])
expected = time.double() * 10000.0 ** (-torch.arange(128).double() / 128)
expected = torch.cat([expected.cos(), expected.sin()])
found = {
    "DiT": CombinedTimestepLabelEmbeddings(10, 8).time_proj(time)[0],
    "PixArt": PixArtAlphaCombinedTimestepSizeEmbeddings(8, 2, use_additional_conditions=False).time_proj(time)[0],
}
apart = {name: (value.double() - expected).abs().max().item() for name, value in found.items()}
for name, value in apart.items():
    print(f"{name}: at t = 999 the largest difference to the sinusoids of the papers is {value:.4f}")
assert apart["PixArt"] < 1e-3, "it behaves otherwise now"
assert apart["DiT"] > 1, "it behaves otherwise now"
PYTHON
