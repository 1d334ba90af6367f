"""How fast one worker makes batches: `python bench/loader.py --ctx-len 512 --micro-bsz 8`.

The data are those of bench/convert.py, thousands of short conversations (15 tokens each), four long ones
(120,000 each) and four books without any turn, in random order. A token is one place of the batch that is no
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
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from convert import generate  # beside this file
from torch.utils.data import DataLoader

from engine.contract.settings import TrainSettings
from engine.data.binidx import BinIdx
from engine.data.convert import convert
from engine.data.dataset import EpochSampler, as_batch, cut
from engine.data.documents import Documents, TokenArray
from engine.data.tokenizer import END_OF_DOCUMENT, Tokenizer

TURN = "User: What is this, and why?\n\nAssistant: It is what it was, and nobody knows why it was so.\n\n"


def encoded(texts: Iterable[str]) -> TokenArray:
    """These documents."""
    items = [[*Tokenizer().encode(text), END_OF_DOCUMENT] for text in texts]
    stream = np.array(list(itertools.chain(*items)), np.uint16)
    return TokenArray(Path(), stream, np.cumsum([0, *map(len, items)]))


def measure(data: Documents, dataload: str, loss_mask: str, ctx_len: int, micro_bsz: int) -> dict[str, Any]:
    """Batches for about a second and a half; the best of two turns."""
    given = {"dataload": dataload, "loss_mask": loss_mask, "ctx_len": ctx_len, "micro_bsz": micro_bsz}
    settings = TrainSettings.model_validate({**given, "mask_id": {"mask0": "0", "mask1": "33"}})
    examples = cut(data, settings)
    best: dict[str, float] = {}
    for turn in range(2):
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
        kinds: dict[str, Documents] = {
            "mixed": data,
            "short": encoded(f"User: what is {i}?\n\nAssistant: It is {i + 1}." for i in range(20_000)),
            "long": encoded([TURN * 4000] * 4),
            "books": encoded(["Nothing of a conversation in here: only words, words.\n" * 20_000] * 4),
        }
        results = []
        for kind, dataload, loss_mask in itertools.product(
            kinds, ("pad", "get", "only"), ("none", "pad", "qa", "se")
        ):
            micro_bsz = 1 if dataload == "only" else options.micro_bsz
            found = measure(kinds[kind], dataload, loss_mask, options.ctx_len, micro_bsz)
            results.append({"documents": kind, **found})
    if options.json:
        print(json.dumps(results, indent=2))
        return
    print("  ".join(results[0]))
    for result in results:
        print("  ".join(f"{value:>{len(key)}}" for key, value in result.items()))


if __name__ == "__main__":
    main()
