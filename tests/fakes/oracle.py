"""The `rwkv` package as a process of its own: what it does depends on variables read at its import.

    python -m tests.fakes.oracle VERSION FOLDER...

Each folder has model.pth, state.pth and tokens.pth {"tokens": [B, T]}; it gets logits.pth with the
logits [B, T, V] without a state ("plain") and with it ("state").
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def ask(version: str, folders: Iterable[Path]) -> None:
    """Runs the process; its failure is the test's."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.fakes.oracle", version, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def _main(version: str, folders: list[str]) -> None:
    os.environ |= {"RWKV_V7_ON": str(int(version == "x070")), "RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0"}
    import torch
    from rwkv.model import RWKV

    for folder in folders:
        model = RWKV(f"{folder}/model", "cpu fp32")
        tokens = torch.load(f"{folder}/tokens.pth")["tokens"]
        states = torch.load(f"{folder}/state.pth")
        started: dict[str, Any] = {"plain": None, "state": states}
        torch.save({
            name: torch.stack([_logits(model, version, row.tolist(), start) for row in tokens])
            for name, start in started.items()
        }, f"{folder}/logits.pth")  # fmt: skip


def _logits(model: Any, version: str, ids: list[int], states: Any) -> Any:
    import torch

    running = None
    if states is not None:
        running = []
        for state in states.values():
            shift = torch.zeros(model.args.n_embd)
            wkv = state.clone() if version == "x070" else state.transpose(1, 2).contiguous()
            running += [shift, wkv, shift.clone()]
    logits, _ = model.forward(ids, running, full_output=True)
    return logits.view(len(ids), -1)


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2:])
