"""The shapes of fields, as torch-free dataclasses for recipes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class HashGridConfig:
    """A multiresolution hash grid (see `gen3d.kernels.hash_grid`)."""

    levels: int = 8
    """Grids of growing resolution."""
    coarsest: int = 8
    """Vertices along a side of the first grid."""
    finest: int = 96
    """Vertices along a side of the last grid."""
    log2_table: int = 15
    """A grid has at most 2^log2_table entries."""
    features: int = 2
    """Numbers per entry."""


@dataclass(frozen=True)
class FieldConfig:
    """A hash grid with one small network for density and one for colour, in a cube around the origin."""

    grid: HashGridConfig = field(default_factory=HashGridConfig)
    """What points are looked up in."""
    bound: float = 1.0
    """Half the side of the cube in metres."""
    width: int = 32
    """Units of a hidden layer."""
    density_layers: int = 1
    """Hidden layers of the density network."""
    color_layers: int = 1
    """Hidden layers of the colour network."""
    view_dependent: bool = False
    """Colour that depends on the direction of view (photographs) or not (albedo)."""
    density: Literal["softplus", "exp"] = "softplus"
    """From the network's number to density per metre; "exp" is exp(number - 1)."""
    gain: float = 1.0
    """What the network's number is multiplied by: surfaces get sharp faster at the same learning rate."""
    blob: float = 10.0
    """What is added to the network's number at the origin, so that training starts from a ball; 0 for none."""
    blob_radius: float = 0.5
    """Metres from the origin at which the addition reaches 0; it goes on falling outside."""


@dataclass(frozen=True)
class BackgroundConfig:
    """Colour by direction, for rays that leave the cube."""

    width: int = 16
    """Units of a hidden layer."""
    layers: int = 2
    """Hidden layers."""
    degree: int = 3
    """Bands of spherical harmonics that encode the direction: 1 to 4."""
