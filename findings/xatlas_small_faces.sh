#!/usr/bin/env bash
# xatlas 0.0.11: faces below an area of about 1.2e-7 get no place in the unwrap.
#
# One would bet: an unwrap does not depend on the unit of the mesh, since its result has none.
# What happens: a face whose area is below float32's epsilon (1.19e-7) in the units of the file is ignored, whatever
#   the size of the whole: its corners all get (0, 0). Where that meets all faces, the coordinates are NaN. No error.
# For users: a ball of 6 cm in metres with 64512 faces loses 29 % of them, which then take one texel's colour; one of
#   6 mm has no coordinates at all. Scaled up 100 times, the same mesh is whole: scale before, the result stays valid.
# Here: `gen3d/mesh/uv.py` scales such a mesh before it is unwrapped.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq xatlas==0.0.11 trimesh==5.2.0 numpy==2.4.6
cd "$folder"
venv/bin/python -I - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import trimesh
import xatlas

print(f"xatlas {version('xatlas')}; a ball of 128 x 128 pieces")
ball = trimesh.creation.uv_sphere(radius=1, count=[128, 128])
seen = {}
for radius in (0.003, 0.03, 3.0):
    _, faces, uv = xatlas.parametrize((ball.vertices * radius).astype(np.float32), ball.faces.astype(np.uint32))
    placed = uv[faces]  # (f, 3, 2)
    flat = (placed == 0).all(axis=(1, 2))
    small = ball.area_faces * radius**2 < np.finfo(np.float32).eps
    seen[radius] = (int(flat.sum()), bool(np.isnan(placed).any()))
    lost = np.isnan(placed).any(axis=(1, 2))
    print(f"{200 * radius:g} cm across: of {len(faces)} faces {small.sum()} are small, {flat.sum()} lie at (0, 0), "
          f"{lost.sum()} nowhere (NaN)")
    assert radius == 0.003 or np.array_equal(flat, small), "it behaves otherwise now"
assert seen == {0.003: (0, True), 0.03: (18432, False), 3.0: (0, False)}, f"it behaves otherwise now: {seen}"
PYTHON
