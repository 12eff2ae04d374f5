"""Run Triton apart from the test process: in the interpreter, or ahead of time for GPUs that are not there.

Triton reads TRITON_INTERPRET once, when kernels are decorated, so both need processes of their own. A
script talks back with one JSON object on its last line.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TRITON_MISSING = importlib.util.find_spec("triton") is None
WHY_MISSING = "Triton is not installed (it has wheels for Linux only)"


def run_interpreted(script: Path, *arguments: str, seconds: int = 240) -> dict[str, Any]:
    """Run a script with Triton's interpreter on the CPU; its last line on stdout is a JSON object."""
    return run_script(script, *arguments, interpret=True, seconds=seconds)


def compile_ahead(
    module: str,
    kernel: str,
    signature: dict[str, str],
    constants: dict[str, Any],
    *,
    seconds: int = 240,
    **options: Any,
) -> dict[str, dict[str, int]]:
    """Compile a kernel for sm_80 and sm_90 without a GPU.

    Args:
        module: import path of the kernel's module.
        kernel: name of the `triton.jit` function.
        signature: type of each argument that is not constant, such as "*fp32" or "i32".
        constants: value of each constexpr argument.
        options: num_warps, num_stages, enable_fp_fusion, ...

    Returns:
        {"80": {"ptx": bytes, "cubin": bytes}, "90": ...}
    """
    job = {
        "module": module,
        "kernel": kernel,
        "signature": signature,
        "constants": constants,
        "options": options,
    }
    return run_script(Path(__file__), json.dumps(job), interpret=False, seconds=seconds)


def run_script(script: Path, *arguments: str, interpret: bool, seconds: int) -> dict[str, Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": str(int(interpret))}
    folders = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, folders))
    result = subprocess.run(
        [sys.executable, str(script), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert result.returncode == 0, f"{script.name} failed:\n{result.stdout}\n{result.stderr}"
    return json.loads(result.stdout.splitlines()[-1])


def compile_job(job: dict[str, Any]) -> dict[str, dict[str, int]]:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(importlib.import_module(job["module"]), job["kernel"])
    constants = job["constants"]
    signature = {name: job["signature"].get(name, "constexpr") for name in kernel.arg_names}
    sizes = {}
    for architecture in (80, 90):
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
        compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=job["options"])
        sizes[str(architecture)] = {kind: len(compiled.asm[kind]) for kind in ("ptx", "cubin")}
    return sizes


if __name__ == "__main__":
    sys.stdout.write(json.dumps(compile_job(json.loads(sys.argv[1]))) + "\n")
