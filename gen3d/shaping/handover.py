"""What one stage of an optimisation leaves to the next: density -> signed distance -> tetrahedra.

distance = distance_of(field.density, bounds)     # of a density field, through its mesh
fit_distance(sdf_field, distance, generator)      # an SDF field that starts from there
tetrahedra.start_from(sdf_field.distance)         # or from `distance` itself
"""

from __future__ import annotations

import torch
from torch import Tensor

from gen3d.fields.sdf_field import SDFField
from gen3d.mesh.clean import clean
from gen3d.mesh.distance import MeshDistance
from gen3d.mesh.iso import Density, extract_surface
from gen3d.mesh.tetrahedra import Distance

FITTING_STEPS = 300
POINTS = 1 << 15  # that the distance is asked for
TOGETHER = 4096  # of them a step, most of them near the surface
NEAR = 0.05  # metres in which the share of points that are drawn falls to a third
LEAST = 0.05  # of what is drawn at the surface is drawn far away


def distance_of(density: Density, bounds: Tensor, resolution: int = 96, level: float | None = None) -> MeshDistance:
    """The signed distance to the surface of a density field: what becomes opaque, cleaned as meshes are.

    Args: as of `gen3d.mesh.iso.extract_surface`.

    Raises:
        InputError: the field is empty, full, or not finite.
    """
    surface = extract_surface(density, bounds, resolution, level)
    vertices, faces, _ = clean(surface.vertices, surface.faces, face_budget=len(surface.faces))
    return MeshDistance(vertices, faces)


def fit_distance(
    field: SDFField,
    distance: Distance,
    generator: torch.Generator,
    steps: int = FITTING_STEPS,
    learning_rate: float = 0.01,
) -> float:
    """Bring the distance of a field to a given one by regression; its colours stay as they are.

    Args:
        field: changed in place.
        distance: (n, 3) metres to signed metres (n,); asked once, without gradient.
        generator: of the points.

    Returns:
        The mean, over the last tenth of the steps, of |difference| in metres.
    """
    bound, device = field.numbers.config.bound, field.log_sharpness.device
    points = bound * (2 * torch.rand(POINTS, 3, generator=generator, device=generator.device) - 1)  # (n, 3)
    with torch.no_grad():
        truth = distance(points.to(device)).to(device)  # (n,)
    share = LEAST + torch.exp(-truth.abs() / NEAR).to(generator.device)  # (n,)
    optimizer = torch.optim.Adam(field.numbers.parameters(), learning_rate, betas=(0.9, 0.99), eps=1e-15)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.03 ** (1 / max(1, steps)))
    apart = []
    for _ in range(steps):
        chosen = torch.multinomial(share, TOGETHER, replacement=True, generator=generator)
        found = field.distance(points[chosen].to(device))
        difference = (found - truth[chosen.to(device)]).abs().mean()
        optimizer.zero_grad()
        difference.backward()
        optimizer.step()
        schedule.step()
        apart.append(difference.detach())
    return float(torch.stack(apart[-max(1, steps // 10) :]).mean())
