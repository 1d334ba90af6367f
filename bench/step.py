"""A training step of a published shape with random weights: time, memory, and what limits it.

    python -m bench.step [--size 0.1B 0.4B] [--version x070] [--method state] [--quant none] [--dtype bf16]
                         [--ctx 1024] [--batch 1] [--grad-cp 0 1 2] [--op auto] [--parts auto torch]
                         [--rounds 3] [--json FILE] [--profile]

`of peak` is the share of the measured speed of matrix products: 2 P FLOPs a token forward, 2 P for the
gradients of activations, 2 P more where blocks are recomputed (the head is not), and 2 P where the weights
learn; P counts the matrices without the embedding. `wkv` is the operator's share of the step, measured by
itself, in turns. `--profile` (on a CPU) prints what a step's time goes into, as torch's profiler sees it.
Each combination is a process of its own, so that its peak of memory is its own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from bench import floor as floors
from bench.shares import shares
from engine.contract.memory import host_emb
from engine.contract.settings import TrainSettings
from engine.contract.sizes import SIZES, ModelSize
from engine.models import init
from engine.models.base import RWKV, HostEmbedding
from engine.models.build import MODELS
from engine.ops.choice import choose, make_inputs
from engine.ops.parts import TORCH, Parts
from engine.ops.registry import Need, recurrence_of
from engine.processors import share_processors
from engine.quant import QuantLinear, is_linear_weight, put_linear
from engine.train.loss import training_loss
from engine.tuning import tuning_for
from engine.tuning.base import trainable

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
METHODS: dict[str, dict[str, Any]] = {
    "state": {"train_type": "state"},
    "lora": {"peft": "lora", "train_type": "none", "lr_init": 1e-4, "lr_final": 1e-5},
    "full": {"peft": "none", "train_type": "none", "lr_init": 1e-5, "lr_final": 1e-6},
}


def random_model(
    version: str, layers: int, width: int, quant: str, dtype: torch.dtype, device: str, operator: Any,
    parts: Parts = TORCH,
) -> RWKV:  # fmt: skip
    """Two layers' fresh weights; the others are copies of the second."""
    with mock.patch.object(init, "_orthogonal", _normal):  # whose factorisations take minutes
        two = {k: t.to(device, dtype) for k, t in init.init_model(version, min(2, layers), width).items()}
    tensors = dict(two)
    for layer in range(2, layers):
        for name, tensor in two.items():
            if name.startswith("blocks.1."):
                tensors[name.replace("blocks.1.", f"blocks.{layer}.")] = tensor.clone()
    linears = {}
    if quant != "none":
        for name in [n for n in tensors if is_linear_weight(n)]:
            weight = tensors[name]
            linear = QuantLinear(weight.shape, quant, dtype, torch.device(device))
            linear.pack(weight)
            linears[name.removesuffix(".weight")] = linear
            tensors[name] = torch.empty(weight.shape, dtype=dtype, device="meta")
    del two
    model = MODELS[version](tensors, operator, parts)
    for name, linear in linears.items():
        put_linear(model, name, linear)
    return model


def _normal(rows: int, columns: int, gain: float, rng: torch.Generator) -> Tensor:
    return torch.randn(rows, columns, generator=rng).mul_(gain * columns**-0.5)


def measure(args: dict[str, Any]) -> dict[str, Any]:
    """One combination in this process."""
    device, dtype = args["device"], DTYPES[args["dtype"]]
    if args["threads"]:
        torch.set_num_threads(args["threads"])
    size = next(s for s in SIZES if s.name == args["size"])
    need = Need(
        recurrence_of(args["version"]), device, dtype, size.n_embd // 64, 64, args["batch"], args["ctx"]
    )
    selected = choose(args["op"], need)
    parts = TORCH if args["parts"] == "torch" else selected.parts
    model, optimizer = prepared(args, size, selected.function, parts)
    tokens = torch.randint(1, model.vocab_size, (args["batch"], args["ctx"] + 1), device=device)

    def step() -> None:
        training_loss(model, tokens[:, :-1], tokens[:, 1:]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(2):  # the optimizer has its moments from the second on
        step()
    peak, allocated = _peak(device)  # before the recurrence is measured by itself
    inputs = make_inputs(need)

    def recurrence() -> None:
        y, last = selected.function(*inputs)
        if args["grad_cp"]:
            y, last = selected.function(*inputs)
        torch.autograd.grad([y, last], inputs, [torch.ones_like(y), torch.ones_like(last)])

    times, cpu = in_turns({"step": step, "wkv": recurrence}, args["rounds"], device)
    seconds = statistics.median(times["step"])
    # On a CPU by the time that was computed, which other processes do not lengthen.
    clock = cpu if device == "cpu" else times
    work = products(model, args)
    floor = floors.measure(device, dtype)
    return {
        **args, "device": floor.name, "operator": selected.name, "parts": parts.name, "seconds": seconds,
        "best": min(times["step"]), "tokens_per_s": args["batch"] * args["ctx"] / seconds,
        "floor_s": work / floor.flops_per_s, "of_peak": work / seconds / floor.flops_per_s,
        "wkv": size.n_layer * min(clock["wkv"]) / min(clock["step"]), "peak_gb": peak / 1e9,
        "allocated_gb": allocated / 1e9, "cpu_s": min(cpu["step"]),
        "shares": shares(step, args["rounds"]) if args["profile"] else {},
        "trainable": sum(p.numel() for p in trainable(model)), "peak_flops_per_s": floor.flops_per_s,
    }  # fmt: skip


def prepared(
    args: dict[str, Any], size: ModelSize, operator: Any, parts: Parts
) -> tuple[RWKV, torch.optim.Optimizer]:
    """A model as a run has it, ready to learn; on a GPU the memory of its making is given back."""
    device, settings = args["device"], TrainSettings(**METHODS[args["method"]])
    model = random_model(
        args["version"], size.n_layer, size.n_embd, args["quant"], DTYPES[args["dtype"]], device, operator,
        parts,
    )  # fmt: skip
    if device == "cuda" and host_emb(settings):
        table = model.emb.weight.detach().cpu()
        model.emb = HostEmbedding(*table.shape, _weight=table)
    model.grad_cp = args["grad_cp"]
    tuning = tuning_for(settings)
    tuning.attach(model)
    if args["grad_cp"] == 2 and args["method"] != "full":
        model.send_head_away()
    model.train()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return model, torch.optim.Adam(tuning.param_groups(model, 0.0), lr=1e-4, fused=True)


def in_turns(
    works: dict[str, Callable[[], None]], rounds: int, device: str
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of each in every round: on the clock, and computed."""
    times: dict[str, list[float]] = {name: [] for name in works}
    cpu: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            floors.finish(device)
            begin, computed = time.perf_counter(), time.process_time()
            work()
            floors.finish(device)
            times[name].append(time.perf_counter() - begin)
            cpu[name].append(time.process_time() - computed)
    return times, cpu


def products(model: RWKV, args: dict[str, Any]) -> int:
    """FLOPs of a step's products of matrices, as the module's docstring counts them."""
    matrices = sum(p.numel() for n, p in model.named_parameters() if p.ndim == 2 and not n.startswith("emb"))
    matrices += sum(m.in_features * m.out_features for m in model.modules() if isinstance(m, QuantLinear))
    passes = 2 + (args["method"] == "full")
    again = bool(args["grad_cp"]) * (matrices - model.head.weight.numel())
    flops: int = 2 * (passes * matrices + again) * args["batch"] * args["ctx"]
    return flops


def _peak(device: str) -> tuple[int, int]:
    """Bytes at the most: what torch took of the GPU, and what of that tensors had; of a CPU the process's,
    twice."""
    if device == "cuda":
        return torch.cuda.max_memory_reserved(), torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    most = 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return most, most


def main() -> None:
    """Measures every combination, prints a table and writes JSON."""
    share_processors()  # as a run does
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", nargs="+", default=["0.1B"], choices=[s.name for s in SIZES])
    parser.add_argument("--version", nargs="+", default=["x070"], choices=list(MODELS))
    parser.add_argument("--method", nargs="+", default=["state"], choices=list(METHODS))
    parser.add_argument("--quant", nargs="+", default=["none"], choices=["none", "int8", "nf4"])
    parser.add_argument("--dtype", nargs="+", default=["bf16"], choices=list(DTYPES))
    parser.add_argument("--ctx", type=int, nargs="+", default=[1024])
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--grad-cp", type=int, nargs="+", default=[0, 1], choices=[0, 1, 2])
    parser.add_argument("--op", nargs="+", default=["auto"])
    parser.add_argument("--parts", nargs="+", default=["auto"], choices=["auto", "torch"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--profile", action="store_true", help="print what the time goes into; on a CPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="file to write")
    asked = vars(parser.parse_args())
    if asked["profile"] and asked["device"] != "cpu":
        parser.error("--profile is for a CPU; `nsys profile` or torch.profiler show a GPU's kernels")
    target = asked.pop("json")
    single = {k: v for k, v in asked.items() if not isinstance(v, list)}
    many = {k: v for k, v in asked.items() if isinstance(v, list)}
    rows = []
    for values in itertools.product(*many.values()):
        chosen = {**single, **dict(zip(many, values, strict=True))}
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            try:  # one that is killed is told as well
                row = pool.submit(measure, chosen).result()
            except Exception as error:  # too big for this device, say: the others are still measured
                row = {**chosen, "error": f"{type(error).__name__}: {error}".splitlines()[0]}
        rows.append(row)
        print(_line(row), flush=True)
        for part, share in row.get("shares", {}).items():
            print(f"    {share:4.0%}  {part}", flush=True)
    if target:
        facts = {"date": time.strftime("%Y-%m-%d"), "torch": torch.__version__}
        target.write_text(json.dumps({**facts, "rows": rows}, indent=1))


def _line(row: dict[str, Any]) -> str:
    what = (
        f"{row['size']:5} {row['version']} {row['method']:5} {row['quant']:4} {row['dtype']} "
        f"ctx {row['ctx']:5} bsz {row['batch']} grad_cp {row['grad_cp']}"
    )
    if "error" in row:
        return f"{what}  {row['error']}"
    return (
        f"{what}  {row['operator']:8} {row['parts']:5} {row['seconds']:8.3f} s  "
        f"floor {row['floor_s']:8.3f} s  of peak {row['of_peak']:4.0%}  wkv {row['wkv']:4.0%}  "
        f"peak {row['peak_gb']:6.2f} GB"
    )


if __name__ == "__main__":
    main()
