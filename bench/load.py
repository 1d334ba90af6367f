"""How long a model's file takes until the model is ready to train, against reading the file alone.

    python -m bench.load [--size 0.4B] [--version x070] [--quant none int8 nf4] [--dtype bf16] [--rounds 2]
                         [--folder DIR] [--json FILE]

The file is bf16 with random weights, written into the folder (the system's for temporary files) and deleted
afterwards. `cold` is with nothing of the file in the page cache, `warm` with all of it. Ready means that each
weight is where it is computed with, so what is memory-mapped on a CPU is touched as well. Each measurement is
a process of its own, which has imported everything and opened the GPU before; no operator is tried. `cpu` is
what it computed, in all its threads.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.step import DTYPES, random_model
from engine.checkpoints.stream import write_stream
from engine.contract.sizes import SIZES
from engine.models import load_model
from engine.models.build import MODELS
from engine.ops.choice import SAFE
from engine.processors import share_processors
from engine.quant import QuantLinear

BLOCK = 16 << 20


def write(path: Path, version: str, name: str) -> int:
    """A file of a published shape; its bytes."""
    size = next(s for s in SIZES if s.name == name)
    model = random_model(version, min(3, size.n_layer), size.n_embd, "none", torch.bfloat16, "cpu", None)
    few = {n: p.detach() for n, p in model.named_parameters()}

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for n, t in few.items():
            if not n.startswith("blocks.2."):
                yield n, t
                continue
            for layer in range(2, size.n_layer):
                yield n.replace("blocks.2.", f"blocks.{layer}."), t

    write_stream(tensors(), path)
    return path.stat().st_size


def forget(path: Path) -> None:
    """Nothing of the file stays in the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(path: Path) -> None:
    """All of the file, into one block of memory over and over."""
    block = bytearray(BLOCK)
    with path.open("rb", buffering=0) as file:
        while file.readinto(block):
            pass


def load(path: Path, quant: str, dtype: torch.dtype, device: str) -> None:
    """Until every weight is there."""
    model = load_model(path, quant=quant, dtype=dtype, device=device, op=SAFE)
    for x in (*model.parameters(), *model.buffers()):
        if x.device.type == "cpu":
            x.detach().view(-1).view(torch.uint8)[::4096].sum()
    if device == "cuda":
        torch.cuda.synchronize()


def measure(path: Path, what: str, dtype: str, device: str, cold: bool) -> tuple[float, float]:
    """Seconds on the clock, and computed."""
    weight = torch.randn(64, 64, device=device)
    if what not in ("read", "none"):  # what bitsandbytes does once
        QuantLinear(weight.shape, what, DTYPES[dtype], weight.device).pack(weight)
    if cold:
        forget(path)
    else:
        read(path)
    begin, computed = time.perf_counter(), time.process_time()
    if what == "read":
        read(path)
    else:
        load(path, what, DTYPES[dtype], device)
    return time.perf_counter() - begin, time.process_time() - computed


def main() -> None:
    """Measures every combination, prints a table and writes JSON."""
    share_processors()  # as a run does
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", default="0.4B", choices=[s.name for s in SIZES])
    parser.add_argument("--version", default="x070", choices=list(MODELS))
    parser.add_argument(
        "--quant", nargs="+", default=["none", "int8", "nf4"], choices=["none", "int8", "nf4"]
    )
    parser.add_argument("--dtype", default="bf16", choices=list(DTYPES))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--json", type=Path, help="file to write")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder, "model.pth")
        size = write(path, args.version, args.size)
        print(
            f"{args.size} {args.version}, {size / 1e9:.2f} GB, {args.dtype} on {args.device}, "
            f"the best of {args.rounds}"
        )
        print(f"{'':6} {'cold s':>8} {'/ read':>8} {'warm s':>8} {'/ read':>8} {'cpu s':>8}")
        for what in ("read", *args.quant):
            best: dict[str, Any] = {"what": what}
            for cold in (True, False):
                turns = []
                for _ in range(args.rounds):
                    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                        given = path, what, args.dtype, args.device, cold
                        turns.append(pool.submit(measure, *given).result())
                best["cold" if cold else "warm"], best["cpu"] = min(turns)
            rows.append(best)
            ratio = {turn: best[turn] / rows[0][turn] for turn in ("cold", "warm")}
            cells = (best["cold"], ratio["cold"], best["warm"], ratio["warm"], best["cpu"])
            print(f"{what:6} " + " ".join(f"{value:8.2f}" for value in cells), flush=True)
    if args.json:
        facts = {"date": time.strftime("%Y-%m-%d"), "torch": torch.__version__, "bytes": size}
        args.json.write_text(json.dumps({**facts, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
