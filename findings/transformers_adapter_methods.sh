#!/usr/bin/env bash
# transformers 5.24.0 with peft 0.21.2: a LoRA can be loaded, but neither added, listed, switched nor deleted.
#
# One would bet: the methods of one object ask for one version of peft, and diffusers' methods of the same names too.
# What happens: `load_adapter` works. `add_adapter`, `set_adapter`, `active_adapters`, `disable_adapters` and
#   `delete_adapter` raise and want peft 0.22. diffusers 0.42.1 does the same with 0.17, on its own models.
# For users: a training that calls `add_adapter` of UNet and text encoder stops at the text encoder.
#   `peft.inject_adapter_in_model` works on both.
# Here: `core2d/adapters/lora.py` (`attach`) puts layers in by peft itself, for every network in the same way.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq torch==2.13.0
"$folder/venv/bin/pip" install -qq diffusers==0.42.1 transformers==5.24.0 peft==0.21.2 accelerate==1.15.0
cd "$folder"
venv/bin/python -I - <<'PYTHON' 2>warnings.txt || { cat warnings.txt >&2; exit 1; }
import diffusers, peft, torch, transformers

def text_encoder():
    return transformers.CLIPTextModel(transformers.CLIPTextConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, vocab_size=100,
        bos_token_id=0, eos_token_id=1, pad_token_id=1))

print(f"diffusers {diffusers.__version__}, transformers {transformers.__version__}, peft {peft.__version__}")
layers = peft.LoraConfig(r=4, target_modules=["q_proj"])
text, layer = text_encoder(), "encoder.layers.0.self_attn.q_proj"
text.load_adapter(peft_config=layers, adapter_state_dict={
    f"{layer}.lora_A.weight": torch.randn(4, 32), f"{layer}.lora_B.weight": torch.randn(32, 4)})
print("transformers, load_adapter: works")
calls = {"add_adapter": (layers, "other"), "set_adapter": ("default",), "active_adapters": (), "disable_adapters": (),
         "delete_adapter": ("default",)}
for name, arguments in calls.items():
    try:
        getattr(text, name)(*arguments)
    except ValueError as error:
        print(f"transformers, {name}: {error}")
        assert "please use a version >= 0.22.0" in str(error), "it behaves otherwise now"
    else:
        raise SystemExit(f"it behaves otherwise now: {name} works")
unet = diffusers.UNet2DConditionModel(
    sample_size=8, block_out_channels=(32,), layers_per_block=1, cross_attention_dim=32, norm_num_groups=8,
    down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",))
unet.add_adapter(peft.LoraConfig(r=4, target_modules=["to_q"]))
unet.disable_adapters()
unet.delete_adapters("default")
print("diffusers, add_adapter, disable_adapters and delete_adapters: work")
peft.inject_adapter_in_model(layers, text_encoder(), "default")
print("peft, inject_adapter_in_model on the text encoder: works")
PYTHON
