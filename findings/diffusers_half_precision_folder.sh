#!/usr/bin/env bash
# diffusers 0.42.1 with transformers 5.24.0: a pipeline saved in half precision opens in two precisions, and fails.
#
# One would bet: what a pipeline saved, `from_pretrained` opens so that it runs.
# What happens: without a dtype, diffusers makes its own networks float32, whatever their files hold; transformers since
#   version 5 takes the dtype that config.json names. UNet and autoencoder are float32, the text encoder is float16, and
#   the first prompt ends in "mat1 and mat2 must have the same dtype". `pipeline.dtype` says float16.
# For users: always give `torch_dtype` to a pipeline.
# Here: `core2d/files/loading.py` gives every network the dtype that was asked for, and writes float32 into the config
#   of a text encoder saved in half precision, so that both libraries open our folders in one precision.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq torch==2.13.0
"$folder/venv/bin/pip" install -qq diffusers==0.42.1 transformers==5.24.0 accelerate==1.15.0
cd "$folder"
venv/bin/python -I - <<'PYTHON' 2>warnings.txt || { cat warnings.txt >&2; exit 1; }
import diffusers, torch, transformers

unet = diffusers.UNet2DConditionModel(
    sample_size=8, block_out_channels=(32,), layers_per_block=1, cross_attention_dim=32, norm_num_groups=8,
    down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",))
text = transformers.CLIPTextModel(transformers.CLIPTextConfig(
    hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, vocab_size=100,
    bos_token_id=0, eos_token_id=1, pad_token_id=1))
words = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2, "ball</w>": 3}
tokenizer = transformers.CLIPTokenizer(vocab=words, merges=[], model_max_length=16)
saved = diffusers.StableDiffusionPipeline(
    vae=diffusers.AutoencoderKL(block_out_channels=(32,), norm_num_groups=8), tokenizer=tokenizer, unet=unet,
    text_encoder=text, scheduler=diffusers.DDIMScheduler(), safety_checker=None, feature_extractor=None,
    requires_safety_checker=False)
saved.to(torch.float16).save_pretrained("half")
print(f"diffusers {diffusers.__version__}, transformers {transformers.__version__}; saved in float16")

def opened(**options):
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained("half", safety_checker=None, **options)
    dtypes = [part.dtype for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline)]
    print(f"opened with {options}: UNet {dtypes[0]}, autoencoder {dtypes[1]}, text encoder {dtypes[2]}")
    return pipeline, dtypes

half, single = torch.float16, torch.float32
pipeline, dtypes = opened()
assert dtypes == [single, single, half, half], f"it behaves otherwise now: {dtypes}"
try:
    pipeline("a ball", num_inference_steps=1)
except RuntimeError as error:
    print(f"it fails: {error}")
    assert "must have the same dtype" in str(error), "it behaves otherwise now"
else:
    raise SystemExit("it behaves otherwise now: it makes a picture")
pipeline, dtypes = opened(torch_dtype=half)
print(f"it makes {pipeline('a ball', num_inference_steps=1, output_type='np').images.shape}")
PYTHON
