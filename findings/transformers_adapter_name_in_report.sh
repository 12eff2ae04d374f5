#!/usr/bin/env bash
# transformers 5.24.0 with peft 0.21.2: the name of a LoRA decides which weights are reported missing.
#
# One would bet: the report of `load_adapter` depends on the file and the layers, not on the name that one gives to it.
# What happens: every parameter whose name contains the LoRA's name counts as one of its own. Called "mlp", it makes the
#   base model's `mlp.fc1`, `mlp.fc2` "missing: newly initialized"; called "a" or "layer", all layers. Nothing is wrong:
#   the LoRA is loaded in full, and the base weights stay as they are.
# For users: do not fetch the model anew; choose a name that no parameter contains (`default`, `style_a`), and the
#   report is empty. Programs that refuse to go on with missing keys refuse by the name.
# Here: `core2d/adapters/lora.py` fills the layers by itself and compares names with the places of the network.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq torch==2.13.0
"$folder/venv/bin/pip" install -qq transformers==5.24.0 peft==0.21.2 accelerate==1.15.0
cd "$folder"
venv/bin/python -I - <<'PYTHON' 2>warnings.txt || { cat warnings.txt >&2; exit 1; }
import peft, torch, transformers

print(f"transformers {transformers.__version__}, peft {peft.__version__}; the same LoRA under several names")
seen = {}
for name in ("default", "style_a", "mlp", "layer"):
    text = transformers.CLIPTextModel(transformers.CLIPTextConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, vocab_size=100,
        bos_token_id=0, eos_token_id=1, pad_token_id=1))
    before = {key: value.clone() for key, value in text.state_dict().items()}
    layer = "encoder.layers.0.self_attn.q_proj"
    factors = {f"{layer}.lora_A.weight": torch.randn(4, 32), f"{layer}.lora_B.weight": torch.randn(32, 4)}
    config = peft.LoraConfig(r=4, target_modules=["q_proj"])
    report = text.load_adapter(adapter_state_dict=dict(factors), peft_config=config, adapter_name=name)
    after = {key.replace(".base_layer", ""): value for key, value in text.state_dict().items()}
    assert all(after[key].equal(value) for key, value in before.items()), "it behaves otherwise now: weights changed"
    assert all(after[key.replace(".weight", f".{name}.weight")].equal(value) for key, value in factors.items())
    missing = sorted(report.missing_keys)
    seen[name] = len(missing)
    print(f"{name}: base weights untouched, LoRA loaded; {len(missing)} keys reported missing {missing[:2]}")
assert seen == {"default": 0, "style_a": 0, "mlp": 4, "layer": 18}, f"it behaves otherwise now: {seen}"
PYTHON
