#!/usr/bin/env bash
# diffusers 0.42.1 with peft 0.21.2 and transformers 5.24.0: the alpha of a layer is lost in LoRA files of kohya's kind.
#
# One would bet: a layer that says alpha counts alpha / rank, as it does in the trainer that wrote the file.
# What happens: attention layers, and all layers of the text encoder, get the alpha that is commonest in their network;
#   their own is looked up under a name that no layer has. Other layers of the UNet (feed-forward) keep theirs. There is
#   a warning of peft about "alpha_pattern keys" that did not match, and the pictures.
# For users: files with one alpha for all are right. Those with an alpha for each layer (resized to a rank for each,
#   merged, or trained by blocks) work at another strength than they were made for.
# Here: `core2d/adapters/lora_files.py` reads every layer's alpha by itself; `tests/core2d/test_lora.py` checks each.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq torch==2.13.0
"$folder/venv/bin/pip" install -qq diffusers==0.42.1 transformers==5.24.0 peft==0.21.2 accelerate==1.15.0
cd "$folder"
venv/bin/python -I - <<'PYTHON' 2>warnings.txt || { cat warnings.txt >&2; exit 1; }
import diffusers, peft, torch, transformers
from safetensors.torch import save_file

unet = diffusers.UNet2DConditionModel(
    sample_size=8, block_out_channels=(32,), layers_per_block=1, cross_attention_dim=32, norm_num_groups=8,
    down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",))
text = transformers.CLIPTextModel(transformers.CLIPTextConfig(
    hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, vocab_size=100,
    bos_token_id=0, eos_token_id=1, pad_token_id=1))
pipeline = diffusers.StableDiffusionPipeline(
    vae=None, tokenizer=None, unet=unet, text_encoder=text, scheduler=diffusers.DDIMScheduler(),
    safety_checker=None, feature_extractor=None, requires_safety_checker=False)
print(f"diffusers {diffusers.__version__}, transformers {transformers.__version__}, peft {peft.__version__}; rank 4")
ENDS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.2", "q_proj", "k_proj", "v_proj", "out_proj", "fc1")
ALPHAS = {"to_q": 2.0, "ff.net.2": 2.0, "fc1": 2.0}  # 4 for the others
file, layers = {}, {}
for network, prefix in ((unet, "lora_unet_"), (text, "lora_te_text_model_")):
    for name, layer in network.named_modules():
        if end := next((end for end in ENDS if name.endswith(end)), None):
            start = prefix + name.replace(".", "_")
            down, up = torch.randn(4, layer.in_features), torch.randn(layer.out_features, 4)
            file |= {f"{start}.lora_down.weight": down, f"{start}.lora_up.weight": up,
                     f"{start}.alpha": torch.tensor(ALPHAS.get(end, 4.0))}
            layers[network, name] = end, up @ down, layer.weight.detach().clone()
save_file(file, "lora.safetensors")
pipeline.load_lora_weights(".", weight_name="lora.safetensors")
pipeline.fuse_lora()
pipeline.unload_lora_weights()
seen = {}
for (network, name), (end, product, before) in layers.items():
    change = network.get_submodule(name).weight.detach() - before
    seen.setdefault(end, set()).add(round(float((change * product).sum() / product.square().sum()), 3))
for end, strengths in seen.items():
    print(f"{end}: alpha / rank is {ALPHAS.get(end, 4.0) / 4}, it counts {strengths}")
assert seen == {end: {0.5 if end == "ff.net.2" else 1.0} for end in ENDS}, "it behaves otherwise now"
PYTHON
grep -m 1 -o "The following alpha_pattern keys did not match any targeted module" "$folder/warnings.txt"
