"""Random diffusers folders of every family, small enough to build and run in a test.

The classes, files and configs are the real ones; only the sizes are tiny. Nothing is downloaded.
"""

# The libraries annotate what their configs write, not what their constructors take.
# pyright: reportArgumentType=false

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import PixArtAlphaPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from tokenizers import Tokenizer, decoders, models, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from core2d.prior.camera_token import CameraToken

MAX_TOKENS = 24
LATENT_SIZE = 8
WORDS = "a red blue green mug chair car dog seen from the front back side on plain ground of".split()


@cache
def clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a BPE trained on a few words, with CLIP's own pre-processing."""
    template = CLIPTokenizer()._tokenizer
    tokenizer = Tokenizer(
        models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token="<|endoftext|>")
    )
    tokenizer.normalizer = template.normalizer
    tokenizer.pre_tokenizer = template.pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted({chr(code) for code in range(33, 127)})
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS), *WORDS, *alphabet] * 4, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def clip_tokenizer() -> CLIPTokenizer:
    vocabulary, merges = clip_vocabulary()
    return CLIPTokenizer(vocab=dict(vocabulary), merges=list(merges), model_max_length=MAX_TOKENS)


def clip_text_config(width: int, layers: int, projection: int | None = None) -> CLIPTextConfig:
    tokenizer = clip_tokenizer()
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=projection or width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=2 * LATENT_SIZE,
        scaling_factor=0.5,
    )


def unet(context: int, **options) -> UNet2DConditionModel:
    settings: dict[str, Any] = dict(
        sample_size=LATENT_SIZE,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2,
        norm_num_groups=4,
        cross_attention_dim=context,
    )
    return UNet2DConditionModel(**(settings | options))


def sd_schedule(**options) -> dict[str, Any]:
    settings: dict[str, Any] = dict(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        steps_offset=1,
    )
    return settings | options


def stable_diffusion_pipeline(prediction_type: str = "epsilon", **unet_options) -> StableDiffusionPipeline:
    text_encoder = CLIPTextModel(clip_text_config(width=16, layers=2))
    parts: dict[str, Any] = dict(
        vae=autoencoder(),
        text_encoder=text_encoder,
        tokenizer=clip_tokenizer(),
        unet=unet(16, **unet_options),
        scheduler=DDIMScheduler(
            **sd_schedule(prediction_type=prediction_type), clip_sample=False, set_alpha_to_one=False
        ),
        safety_checker=None,
        feature_extractor=None,
    )
    return StableDiffusionPipeline(**parts, requires_safety_checker=False)


def sd1() -> StableDiffusionPipeline:
    return stable_diffusion_pipeline()


def sd2() -> StableDiffusionPipeline:
    """SD 2.x: v-prediction, linear projections, one head width instead of one head count."""
    return stable_diffusion_pipeline("v_prediction", use_linear_projection=True, attention_head_dim=(2, 4))


def sdxl() -> StableDiffusionXLPipeline:
    pooled, time_ids = 12, 6 * 8
    parts: dict[str, Any] = dict(
        vae=autoencoder(),
        text_encoder=CLIPTextModel(clip_text_config(width=16, layers=3)),
        text_encoder_2=CLIPTextModelWithProjection(clip_text_config(width=20, layers=3, projection=pooled)),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet(
            16 + 20,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=pooled + time_ids,
        ),
        scheduler=EulerDiscreteScheduler(**sd_schedule()),
    )
    return StableDiffusionXLPipeline(**parts, force_zeros_for_empty_prompt=True, add_watermarker=False)


def pixart(sample_size: int = LATENT_SIZE) -> PixArtAlphaPipeline:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"▁{word}", -3.0) for word in WORDS] + [(chr(code), -6.0) for code in range(97, 123)]
    tokenizer = T5Tokenizer(vocab=[*pieces, ("▁", -6.0)], extra_ids=0)
    text_encoder = T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=16,
            d_kv=8,
            d_ff=32,
            num_layers=2,
            num_heads=2,
            dropout_rate=0.0,
        )
    )
    transformer = PixArtTransformer2DModel(
        sample_size=sample_size,
        num_layers=2,
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=8,
        cross_attention_dim=24,
        caption_channels=16,
        norm_num_groups=4,
    )
    # A fresh PixArt starts with zero gates and a zero last layer; a test needs one that does something.
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    scheduler = DPMSolverMultistepScheduler(beta_schedule="linear", beta_start=0.0001, beta_end=0.02)
    return PixArtAlphaPipeline(tokenizer, text_encoder, autoencoder(), transformer, scheduler)


def pixart_1024() -> PixArtAlphaPipeline:
    """The latent size at which PixArt is told the size of the image."""
    return pixart(sample_size=128)


BUILDERS = {"sd1": sd1, "sd2": sd2, "sdxl": sdxl, "pixart": pixart, "pixart-1024": pixart_1024}


def save_tiny_model(family: str, folder: Path, seed: int = 0, camera: bool = False) -> Path:
    """Write a random model of a family (a key of `BUILDERS`) as a diffusers folder; float32.

    With a camera token it says that it is of Toybox, as the bundled one does.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        BUILDERS[family]().save_pretrained(folder)
        if camera:
            CameraToken(context_dim=16, subject_dim=8, hidden_dim=8).save_pretrained(folder / "camera_token")
            (folder / "liftkit.json").write_text('{"world": "toybox"}')
    return folder
