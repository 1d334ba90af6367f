"""How long a plain state tuning on the CPU takes to its first step, beside torch's own import.

    python -m bench.startup [--rounds 3] [--json FILE]

The model is tiny, so nearly all of it is imports and preparation. Both take turns. `cpu` is the time that
the process computed, whole run and end included, which other processes on the machine do not lengthen.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from engine.contract import events
from engine.contract.presets import render_yaml
from engine.contract.rundir import RunDir
from engine.contract.settings import TrainSettings

ROOT = Path(__file__).parents[1]


def prepare(folder: Path) -> tuple[Path, Path]:
    """A model and data of a few documents."""
    model, data = folder / "tiny.pth", folder / "data.jsonl"
    init = ["init", "--version", "x070", "--n-layer", "2", "--n-embd", "64", "--out"]
    subprocess.run([sys.executable, "-m", "engine", *init, model], cwd=ROOT, check=True, capture_output=True)
    data.write_text('{"text": "User: How are you?\\n\\nAssistant: Fine."}\n' * 8, encoding="utf-8")
    return model, data


def first_step(folder: Path, model: Path, data: Path) -> dict[str, float]:
    """Seconds from the start of the process to the end of its first step."""
    run = RunDir(folder)
    run.claim("bench")
    settings = TrainSettings.model_validate({
        "load_model": model, "data_file": data, "data_type": "jsonl", "proj_dir": folder, "ctx_len": 64,
        "epoch_steps": 1, "epoch_count": 1, "accelerator": "cpu", "eval_docs": 0, "sample_len": 0,
    })  # fmt: skip
    run.settings.write_text(render_yaml(settings, "bench"))
    began, wall, before = time.time(), time.monotonic(), os.times()
    subprocess.run([sys.executable, "-m", "engine", "train", folder], cwd=ROOT, check=True)
    after = os.times()
    told = [e for line in run.events.read_bytes().splitlines() if (e := events.parse_event(line))]
    step = next(e.t for e in told if isinstance(e, events.Step))
    loads = [e.t for e in told if isinstance(e, events.Progress) and e.phase == "loading the model"]
    return {
        "first_step": step - began, "loading": loads[-1] - loads[0], "whole": time.monotonic() - wall,
        "cpu": after.children_user + after.children_system - before.children_user - before.children_system,
    }  # fmt: skip


def torch_alone() -> dict[str, float]:
    """The same of `import torch`."""
    wall, before = time.monotonic(), os.times()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"torch": time.monotonic() - wall, "torch_cpu": cpu}


def main() -> None:
    """Measures in turns, prints medians and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file to write")
    args = parser.parse_args()
    turns = []
    with tempfile.TemporaryDirectory() as name:
        model, data = prepare(Path(name))
        for i in range(args.rounds):
            turns.append({**torch_alone(), **first_step(Path(name) / f"run{i}", model, data)})
    medians = {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}
    medians["beyond_torch"] = statistics.median(t["first_step"] - t["loading"] - t["torch"] for t in turns)
    medians["cpu_beyond_torch"] = statistics.median(t["cpu"] - t["torch_cpu"] for t in turns)
    for key, value in medians.items():
        print(f"{key:18} {value:6.2f} s")
    if args.json:
        args.json.write_text(
            json.dumps({"date": time.strftime("%Y-%m-%d"), "turns": turns, **medians}, indent=1)
        )


if __name__ == "__main__":
    main()
