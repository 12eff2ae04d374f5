"""Compile the Triton kernels of gen3d ahead of time, in one process, and print the sizes of what came out."""

import json
import sys
from typing import Any

from helpers.triton_subprocess import compile_job

HASH = "gen3d.kernels.hash_grid.triton_kernel"
MLP = "gen3d.kernels.fused_mlp.triton_kernel"
RAYS = "gen3d.kernels.compositing.triton_kernel"
GRID = {"x": "*fp32", "table": "*fp32", "grad": "*fp32", "scales": "*fp32", "out": "*fp32", "count": "i32"}
GRID |= {"resolutions": "*i32", "offsets": "*i32", "hashed": "*i32"}
LEVELS = {"LEVELS": 16, "FEATURES": 2, "BLOCK": 256}
NETWORK = ("x", "grad", "activations", "first", "middle", "last", "out", "grad_hidden", "grad_x")
LAYERS = {"IN": 19, "OUT": 3, "IN_BLOCK": 32, "OUT_BLOCK": 16, "HIDDEN": 3, "PRECISION": "tf32x3", "ROWS": 64}
PACKED = ("thickness", "values", "blended", "opacity", "weights", "grad_blended", "grad_opacity", "grad_weights")
RAY = {name: "*fp32" for name in (*PACKED, "grad_thickness", "grad_values")} | {"offsets": "*i64"}
COLUMNS = {"COLUMNS": 7, "COLUMN_BLOCK": 8, "BLOCK": 32}


def network(dtype: str) -> dict[str, str]:
    return {name: f"*{dtype}" for name in NETWORK} | {"count": "i32"}


JOBS: dict[str, tuple[str, str, dict[str, str], dict[str, Any], int]] = {  # module, kernel, types, constants, warps
    "hash grid": (HASH, "_forward", GRID, LEVELS, 4),
    "hash grid to table": (HASH, "_backward_table", GRID, LEVELS, 4),
    "hash grid to points": (HASH, "_backward_points", GRID, LEVELS, 4),
    "mlp": (MLP, "_forward", network("fp32"), {**LAYERS, "WIDTH": 64, "KEEP": True}, 4),
    "mlp backward": (MLP, "_backward", network("fp32"), {**LAYERS, "WIDTH": 64, "NEEDS_X": True}, 4),
    "mlp backward, bf16": (MLP, "_backward", network("bf16"), {**LAYERS, "WIDTH": 128, "NEEDS_X": True}, 4),
    "compositing": (RAYS, "_forward", RAY, COLUMNS, 1),
    "compositing backward": (RAYS, "_backward", RAY, COLUMNS, 1),
}

if __name__ == "__main__":
    sizes = {}
    for name, (module, kernel, signature, constants, warps) in JOBS.items():
        job = {"module": module, "kernel": kernel, "signature": signature, "constants": constants}
        sizes[name] = compile_job({**job, "options": {"num_warps": warps, "enable_fp_fusion": True}})
    sys.stdout.write(json.dumps(sizes) + "\n")
