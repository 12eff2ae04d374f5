"""Run the Triton kernels of gen3d in the interpreter on all cases, and print how far they are from their twins."""

import json
import sys

import torch
from helpers.gen3d_cases import hash_grids, networks, rays

if __name__ == "__main__":
    answer = {
        "hash_grid": hash_grids("triton"),
        "fused_mlp": networks("triton"),
        "fused_mlp in half precision": networks("triton", dtype=torch.float16),
        "compositing": rays("triton"),
    }
    sys.stdout.write(json.dumps(answer) + "\n")
