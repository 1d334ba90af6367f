"""How fast one worker makes batches: `python bench/loader.py --ctx-len 512 --micro-bsz 8`.

The data is that of bench/convert.py, in random order. A token is one place of the batch that is no
padding. The 0.1B model takes about 0.1 M tokens a second on an H100-class card, so that a worker should
make 1 M or more for training never to wait. `cpu` counts processor time and not the clock: on a busy
machine it says more.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from convert import generate  # beside this file
from torch.utils.data import DataLoader

from engine.contract.settings import TrainSettings
from engine.data.binidx import BinIdx
from engine.data.convert import convert
from engine.data.dataset import EpochSampler, as_batch, cut


def measure(data: BinIdx, dataload: str, loss_mask: str, ctx_len: int, micro_bsz: int) -> dict[str, Any]:
    """Batches for about two seconds; the best of three turns."""
    given = {"dataload": dataload, "loss_mask": loss_mask, "ctx_len": ctx_len, "micro_bsz": micro_bsz}
    settings = TrainSettings.model_validate({**given, "mask_id": {"mask0": "0", "mask1": "33"}})
    examples = cut(data, settings)
    best: dict[str, float] = {}
    for turn in range(3):
        order = EpochSampler(len(examples), micro_bsz, 1 << 20, seed=turn)
        batches = iter(DataLoader(examples, batch_size=micro_bsz, sampler=order, collate_fn=as_batch))
        next(batches)
        tokens, wall, cpu = 0, time.perf_counter(), time.process_time()
        while time.process_time() - cpu < 0.7:
            for inputs, targets in itertools.islice(batches, 20):
                tokens += inputs.numel() if dataload == "get" else int(((targets >= 0) | (inputs > 0)).sum())
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        for name, seconds in (("million_tokens_per_s", wall), ("million_tokens_per_cpu_s", cpu)):
            best[name] = round(max(best.get(name, 0), tokens / seconds / 1e6), 2)
    return {**given, **best}


def main() -> None:
    """Measures every way of loading and prints a table, or one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mb", type=float, default=20, help="size of the source")
    parser.add_argument("--ctx-len", type=int, default=512)
    parser.add_argument("--micro-bsz", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        generate(Path(name, "data.jsonl"), options.mb)
        convert(Path(name, "data.jsonl"), Path(name, "data"), repeat=1)
        data = BinIdx(Path(name, "data"))
        results = [
            measure(
                data, dataload, loss_mask, options.ctx_len, 1 if dataload == "only" else options.micro_bsz
            )
            for dataload, loss_mask in itertools.product(("pad", "get", "only"), ("none", "pad", "qa", "se"))
        ]
    if options.json:
        print(json.dumps(results, indent=2))
        return
    print("  ".join(results[0]))
    for result in results:
        print("  ".join(f"{value:>{len(key)}}" for key, value in result.items()))


if __name__ == "__main__":
    main()
