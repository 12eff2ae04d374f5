"""How much memory an optimisation will need, said before it starts."""

from __future__ import annotations

from dataclasses import dataclass

from core2d.prior.backbone import Backbone
from core2d.toybox import world
from gen3d.dreamfusion.recipe import DreamFusionConfig
from gen3d.dreamfusion.task import manner_of

PROGRAM = 600_000_000  # bytes of Python, its libraries and the mesh stage, which share the memory on a CPU
SAMPLES_A_RAY = 13  # of the ball that a run starts from, over all rays of a picture
BYTES_A_SAMPLE = 1250  # that a lit sample keeps for the backward pass; in even light it is a third of that
FINEST_PICTURE = 128  # pixels of a side, at most
KEPT_IN_RESNET = 6  # feature maps: what each norm, activation and convolution was given, twice
KEPT_IN_MIDDLE = 27  # feature maps of two such blocks and the attention between them
AT_WORK = 16  # feature maps that a denoiser holds besides its skip connections: the wide layer of a transformer block
RENDERED_BACKWARD = 2  # the renderer's gradients lie beside what it kept; the encoder's take the place of what it kept


@dataclass(frozen=True)
class Memory:
    """Bytes on the device of the prior.

    Attributes:
        weights: of the prior.
        step: what one optimisation step adds at its peak.
        program: Python and its libraries, where they share the memory.
    """

    weights: int
    step: int
    program: int

    @property
    def total(self) -> int:
        return self.weights + self.step + self.program

    def __str__(self) -> str:
        parts = {"for the weights": self.weights, "for a step": self.step, "for the program": self.program}
        told = ", ".join(f"{gigabytes(size)} {what}" for what, size in parts.items() if size)
        return f"about {gigabytes(self.total)} GB of memory ({told})"


def memory_needed(prior: Backbone, config: DreamFusionConfig) -> Memory:
    """Estimated from the shapes of the prior, within a factor of about two.

    Args:
        prior: loaded already.
        config: of the optimisation.
    """
    modules = prior.named_models().values()
    weights = sum(tensor.nbytes for module in modules for tensor in module.state_dict().values())
    pictures = RENDERED_BACKWARD * kept_by_renderer(prior.image_size, config)
    rows = rows_a_view(prior)
    encoder = kept_by_encoder(prior, config.views) if manner_of(prior).space == "latent" else 0
    step = pictures + encoder + held_by_denoiser(prior, rows * config.views)
    return Memory(weights, step, PROGRAM if prior.device.type == "cpu" else 0)


def rows_a_view(prior: Backbone) -> int:
    """Rows of the denoiser: Toybox's is asked without guidance; Perp-Neg, for views in words, asks for three more."""
    if prior.world == world.NAME:
        return 1
    return 2 if prior.has_camera_token else 4


def kept_by_renderer(image_size: int, config: DreamFusionConfig) -> int:
    """Bytes that the pictures of a step keep for the backward pass."""
    side = max(64, min(image_size, FINEST_PICTURE)) if config.refine_at < 1 else config.coarse_size
    return config.views * side**2 * SAMPLES_A_RAY * BYTES_A_SAMPLE


def kept_by_encoder(prior: Backbone, views: int) -> int:
    """Bytes that the image encoder keeps: it is differentiated, at the size that the prior was trained on."""
    maps = feature_maps(prior.vae.config, prior.image_size)
    layers = getattr(prior.vae.config, "layers_per_block", 1)
    numbers = sum(size * (KEPT_IN_RESNET * layers + 1) for size in maps) + KEPT_IN_MIDDLE * maps[-1]
    return views * numbers * prior.vae.dtype.itemsize


def held_by_denoiser(prior: Backbone, rows: int) -> int:
    """Bytes at the peak of the denoiser, which is asked without gradient."""
    config = prior.family.denoiser.config
    if hasattr(config, "block_out_channels"):
        maps = feature_maps(config, prior.latent_size)
        layers = config.layers_per_block
        deepest = layers if isinstance(layers, int) else max(layers)
        numbers = sum(size * (deepest + 1) for size in maps) + AT_WORK * max(maps)
    else:
        tokens = (prior.latent_size // config.patch_size) ** 2
        numbers = AT_WORK * tokens * config.num_attention_heads * config.attention_head_dim
    return rows * numbers * prior.dtype.itemsize


def gigabytes(size: int) -> str:
    """Two digits of it: an estimate has no more."""
    return f"{float(f'{size / 1e9:.2g}'):g}"


def feature_maps(config: object, side: int) -> list[int]:
    """Numbers in the feature map of each level, the resolution halved from one to the next."""
    channels: tuple[int, ...] = getattr(config, "block_out_channels", ())
    return [(side >> level) ** 2 * count for level, count in enumerate(channels)]
