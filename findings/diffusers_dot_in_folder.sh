#!/usr/bin/env bash
# diffusers 0.42.1: weights in parts under the old names of a variant open only where no dot is in the folder's path.
#
# One would bet: whether a folder opens does not depend on how it or its parents are called.
# What happens: to find the index `diffusion_pytorch_model.safetensors.fp16.index.json`, the whole path is split at its
#   dots, and the variant put after the second piece. `models/v15` opens; `models/v1.5` and `../v15` do not: "no file
#   named diffusion_pytorch_model.fp16.bin". `.cache` alone is allowed for.
# For users: rename the folder; or rename the index to `diffusion_pytorch_model.safetensors.index.fp16.json`, as it is
#   called now, which always opens.
# Here: `core2d/files/loading.py` (`load_model`) gives that reason in one line; it does not rename for you.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq torch==2.13.0
"$folder/venv/bin/pip" install -qq diffusers==0.42.1 accelerate==1.15.0
cd "$folder"
venv/bin/python -I - <<'PYTHON' 2>warnings.txt || { cat warnings.txt >&2; exit 1; }
from pathlib import Path

import diffusers

NEW, OLD = (f"diffusion_pytorch_model.safetensors.{end}.json" for end in ("index.fp16", "fp16.index"))
Path("elsewhere").mkdir()
print(f"diffusers {diffusers.__version__}; an autoencoder in parts, variant fp16")
seen = {}
for name in ("v15", "v1.5"):
    model = diffusers.AutoencoderKL(block_out_channels=(32,), norm_num_groups=8)
    model.save_pretrained(f"models/{name}", variant="fp16", max_shard_size="100KB")
    for index in (NEW, OLD):
        Path(f"models/{name}/{NEW}").rename(f"models/{name}/{index}")
        for path in (f"models/{name}", f"elsewhere/../models/{name}"):
            try:
                diffusers.AutoencoderKL.from_pretrained(path, variant="fp16")
                seen[path, index] = "opens"
            except OSError:
                seen[path, index] = "is not found"
            print(f"{path} with {index} {seen[path, index]}")
expected = {(path, index): "opens" if index == NEW or path == "models/v15" else "is not found" for path, index in seen}
assert seen == expected, "it behaves otherwise now"
PYTHON
