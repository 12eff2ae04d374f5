"""The hash encoding by tiny-cuda-nn, where a user has it. Run against a stand-in only: untested on a device."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from gen3d.kernels.hash_grid.layout import HashGridLayout


def encode(x: Tensor, table: Tensor, layout: HashGridLayout) -> Tensor:
    """See `gen3d.kernels.hash_grid.encode`: their kernel on our parameters, in float32.

    Raises:
        ImportError: tinycudann is not installed.
        ValueError: the tensors are not on CUDA.
    """
    encoding = _encoding(layout)
    if not x.is_cuda or not table.is_cuda:
        raise ValueError(f"tinycudann needs CUDA tensors; x is on {x.device}, the table on {table.device}")
    return functional_call(encoding, {"params": table.float().flatten()}, (x,))


@functools.cache
def _encoding(layout: HashGridLayout) -> Any:
    try:
        import tinycudann  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("tinycudann is not installed: its page on GitHub says how to build it") from error
    config = {
        "otype": "HashGrid",
        "n_levels": layout.levels,
        "n_features_per_level": layout.features,
        "log2_hashmap_size": layout.log2_table,
        "base_resolution": layout.coarsest,
        "per_level_scale": layout.growth,
        "interpolation": "Linear",
    }
    return tinycudann.Encoding(3, config, dtype=torch.float32)
