"""What the kernels for GPUs take of one, found by compiling them where there is none.

    python -m bench.kernels [--arch 80 90 100] [--dtype bf16] [--width 64] [--json FILE]

Registers a thread, bytes that do not fit into them (spilled), shared memory a block and threads a block.
Triton's come with its own ptxas; those of CUDA C++ need nvcc.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from engine.ops import native
from engine.ops.parts import fused, kernels
from engine.ops.tiles import BUSY, along, options, scratch_dtype

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FP32 = {"state", "last", "dlast", "dstate", "log_w", "dlog_w", "parts"}
SCRATCH = {"starts", "dends", "inverse"}
SIZES = {"T", "H", "D", "S", "V"}
TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.int64: "i64"}
FLAGS = {"OUTPUTS": True, "ENDS": True, "BONUS": False}


def triton_kernel(
    recurrence: str, name: str, arch: int, dtype: torch.dtype, width: int, **constants: int
) -> dict[str, Any]:
    """A Triton kernel's resources as the operator starts it where heads alone keep a GPU busy, unless
    `constants` say otherwise. Triton makes an H of 1 a constant, too."""
    module = importlib.import_module(f"engine.ops.{recurrence}.triton")
    like = torch.empty(BUSY, 1, 1, width, dtype=dtype)
    sizes = {name: value for name, value in module._sizes(like).items() if name not in ("T", "H")}
    given = {**sizes, **options(dtype), "R": along(like)[1], **FLAGS, **constants}
    kept = dict.fromkeys(FP32, torch.float32) | dict.fromkeys(SCRATCH, scratch_dtype(dtype))
    return _compiled(getattr(module, name), arch, dtype, kept, given, module.warps_of(name, like))


def parts_kernel(name: str, arch: int, dtype: torch.dtype, width: int, **constants: Any) -> dict[str, Any]:
    """The same of an element-wise part, of a model whose rows are no smaller than what a program reads."""
    given = {
        "C": fused.MOST, "BEFORE": True, "MORE": True, "BLOCK": fused.BLOCK, "N": width,
        "HEADS": fused.BLOCK // width, "LIMIT": -0.6, "FASTEST": 20.0, "EPS": 1e-5, "SEVEN": True,
        "WRAP": 1e-4, **constants,
    }  # fmt: skip
    warps = fused.WARPS
    if name == "cross_entropy":
        given["BLOCK"], warps = fused.VOCABULARY, fused.VOCABULARY_WARPS
    kept = {"log_w": torch.float32, "dlog_w": torch.float32, "losses": torch.float32, "targets": torch.int64}
    return _compiled(getattr(kernels, name), arch, dtype, kept, given, warps)


def _compiled(
    kernel: Any,
    arch: int,
    dtype: torch.dtype,
    kept: dict[str, torch.dtype],
    given: dict[str, Any],
    warps: int,
) -> dict[str, Any]:
    """`kept`: the types of the tensors that are not in `dtype`; `given`: constants."""
    signature, fixed = {}, {}
    for argument in kernel.arg_names:
        if argument in given:
            signature[argument], fixed[argument] = "constexpr", given[argument]
        elif argument in SIZES:
            signature[argument] = "i32"
        else:
            signature[argument] = "*" + TYPES[kept.get(argument, dtype)]
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, a in enumerate(kernel.arg_names) if signature[a][0] == "*"
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=fixed, attrs=aligned)
    made = triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": warps})
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(made.asm["ptx"])
        file.flush()
        exact = f"sm_{arch}a" if arch >= 90 else f"sm_{arch}"
        tool = knobs.nvidia.ptxas_blackwell if arch >= 100 else knobs.nvidia.ptxas
        said = _run([tool.path, "-v", f"-arch={exact}", "-o", "/dev/null", file.name])
    return {**_resources(said), "shared": made.metadata.shared, "threads": 32 * warps}


def cuda_kernels(recurrence: str, arch: int, dtype: torch.dtype, width: int) -> dict[str, dict[str, Any]]:
    """The CUDA C++ kernels' resources by name; none where there is no nvcc."""
    nvcc = native.compiler()
    if nvcc is None:
        return {}
    said = _run(
        [nvcc, "-O3", f"-arch=sm_{arch}", *native.definitions(dtype, width), "-Xptxas", "-v", "--cubin",
         "-o", "/dev/null", str(native.SOURCES / f"{recurrence}.cu")]
    )  # fmt: skip
    found = {}
    for part in said.split("Compiling entry function")[1:]:
        name = re.search(r"(forward|reverse|columns)", part)
        assert name is not None
        shared = re.search(r"(\d+) bytes smem", part)
        found[name[1]] = {**_resources(part), "shared": int(shared[1]) if shared else 0, "threads": width}
    return found


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def _resources(said: str) -> dict[str, int]:
    registers, spilled = (
        re.search(r"Used (\d+) registers", said),
        re.search(r"(\d+) bytes spill stores", said),
    )
    assert registers is not None and spilled is not None, said
    return {"registers": int(registers[1]), "spilled": int(spilled[1])}


def main() -> None:
    """Compiles every kernel, prints a table and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--arch", type=int, nargs="+", default=[80, 90, 100])
    parser.add_argument("--dtype", nargs="+", choices=list(DTYPES), default=["bf16"])
    parser.add_argument("--width", type=int, nargs="+", default=[64])
    parser.add_argument("--json", type=Path, help="file to write")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []

    def tell(recurrence: str, operator: str, kernel: str, arch: int, **used: Any) -> None:
        rows.append({"recurrence": recurrence, "operator": operator, "kernel": kernel, "arch": arch} | used)
        print("  ".join(f"{value!s:>10}" for value in rows[-1].values()), flush=True)

    for dtype, width, arch in itertools.product(args.dtype, args.width, args.arch):
        for name in fused.KERNELS:
            used = parts_kernel(name, arch, DTYPES[dtype], width)
            tell("both", "fused", name, arch, dtype=dtype, width=width, **used)
    for recurrence in ("wkv7", "wkv6"):
        names = importlib.import_module(f"engine.ops.{recurrence}.triton").KERNELS
        for dtype in args.dtype:
            for width in args.width:
                for arch in args.arch:
                    found = {
                        ("triton", name): triton_kernel(recurrence, name, arch, DTYPES[dtype], width)
                        for name in names
                    }
                    cuda = cuda_kernels(recurrence, arch, DTYPES[dtype], width)
                    found |= {("cuda", name): cuda[name] for name in cuda}
                    for (operator, name), used in found.items():
                        tell(recurrence, operator, name, arch, dtype=dtype, width=width, **used)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
