#!/usr/bin/env bash
# transformers 5.24.0: a tokenizer without a vocabulary opens.
#
# One would bet: `from_pretrained` of a folder that holds a tokenizer_config.json, but no vocabulary, raises.
# What happens: it gives a tokenizer that knows its special tokens only: CLIP's has 2 entries (the ids 0 and 2), T5's
#   has 104. Every letter or word is "unknown", so two texts of one shape have the same ids. Nothing is said.
# For users: a download that stopped early, or a copy that left a file out, still makes pictures. They just have
#   nothing to do with the prompt. Look at `len(tokenizer)`: CLIP's is 49408, T5's is 32100.
# Here: `core2d/files/tokenizers.py` asks for the files of the vocabulary before it opens a folder.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq transformers==5.24.0 tokenizers==0.23.3
cd "$folder"
venv/bin/python -I - <<'PYTHON'
import json
from pathlib import Path

import transformers

print(f"transformers {transformers.__version__}; the folder holds tokenizer_config.json and no vocabulary")
seen = {}
for kind in (transformers.CLIPTokenizer, transformers.T5Tokenizer):
    folder = Path(kind.__name__)
    folder.mkdir()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind.__name__}))
    tokenizer = kind.from_pretrained(folder, local_files_only=True)
    dog, cat = tokenizer("a red dog").input_ids, tokenizer("a big cat").input_ids
    seen[kind.__name__] = (len(tokenizer), dog == cat)
    print(f"{kind.__name__}: {len(tokenizer)} entries; 'a red dog' is {dog}, 'a big cat' is {cat}")
assert seen == {"CLIPTokenizer": (2, True), "T5Tokenizer": (104, True)}, f"it behaves otherwise now: {seen}"
PYTHON
