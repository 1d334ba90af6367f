"""How fast jsonl becomes binidx, and in how much memory, beside the way RWKV-LM's make_data.py goes:
`python bench/convert.py --mb 5 50 --repeat 1 10 --beside`.

Each measurement is a process of its own, timed from the first line of work to the last, the loading of
the vocabulary included. `cpu` is its processor time with that of its workers: on a busy machine it says
more than `seconds`, of which ours takes less than that where two cores are free. `peak_mib` is the most
memory that it and its workers have at a time, pages they share counted once (PSS), measured ten times a
second in a turn that is not timed; of the other way, VmHWM.

make_data.py cannot be part of this repository. `beside` stands in for it: our words for what it does,
with the tokenizer of the `rwkv` package, whose algorithm is the one it uses. Every repeat of the lines is
shuffled and written to a file, which is then read back; each line is parsed, tokenised, decoded and
compared, and written as a numpy array. Left out are importing torch and looking at the result.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import random
import struct
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from engine.data.convert import convert

VOCABULARY = (
    "the model learns a state from many short questions and answers about weather music trains bread "
    "天气 音乐 火车 面包 你好 谢谢 请问 可以 今天 明天 🙂 🎉 🚀 ❤️ 👩‍👩‍👧‍👦 def return 3.14 2024"
)


def generate(path: Path, megabytes: float) -> None:
    """Mixed English, Chinese and emoji in documents of 20 to 400 words, the same every time."""
    rng, words = random.Random(0), VOCABULARY.split()
    left = int(megabytes * 1e6)
    with path.open("w", encoding="utf-8") as file:
        while left > 0:
            question, answer = (rng.choices(words, k=rng.randint(10, 200)) for _ in range(2))
            text = f"User: {' '.join(question)}\n\nAssistant: {' '.join(answer)}"
            line = json.dumps({"text": text}, ensure_ascii=False) + "\n"
            left -= len(line.encode())
            file.write(line)


def ours(source: Path, prefix: Path, repeat: int) -> tuple[int, int]:
    """Documents and tokens of the pair."""
    report = convert(source, prefix, repeat=repeat, force=True)
    return report.items, report.tokens


def beside(source: Path, prefix: Path, repeat: int) -> tuple[int, int]:
    """The same pair in the way of make_data.py."""
    from rwkv.rwkv_tokenizer import TRIE_TOKENIZER

    tokenizer = TRIE_TOKENIZER(str(resources.files("rwkv") / "rwkv_vocab_v20230424.txt"))
    with source.open(encoding="utf-8") as file:
        lines = [line.strip() for line in file if line.strip()]
    repeated, sizes = prefix.with_suffix(".repeated"), []
    with repeated.open("w", encoding="utf-8") as file:
        for _ in range(repeat):
            random.shuffle(lines)
            for line in lines:
                file.write(line + "\n")
    with repeated.open(encoding="utf-8") as file, prefix.with_suffix(".bin").open("wb") as target:
        for line in file:
            text = json.loads(line)["text"]
            ids = tokenizer.encode(text)
            if tokenizer.decode(ids) != text:
                raise ValueError(text)
            target.write(np.array([*ids, 0], np.uint16).tobytes())
            sizes.append(len(ids) + 1)
    with prefix.with_suffix(".idx").open("wb") as target:
        target.write(struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, 8, len(sizes), len(sizes) + 1))
        starts = list(itertools.accumulate(sizes, initial=0))
        target.write(np.array(sizes, np.int32).tobytes())
        target.write((2 * np.array(starts[:-1], np.int64)).tobytes())
        target.write(np.arange(len(sizes) + 1, dtype=np.int64).tobytes())
    return len(sizes), sum(sizes)


def measure(way: Callable[[Path, Path, int], tuple[int, int]], *arguments: Any) -> dict[str, Any]:
    """One conversion in this process: times, rates and the peak of its memory."""
    source, _, repeat = arguments
    wall, cpu = time.perf_counter(), sum(os.times()[:4])
    documents, tokens = way(*arguments)
    wall, cpu = time.perf_counter() - wall, sum(os.times()[:4]) - cpu
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    megabytes = source.stat().st_size / 1e6
    return {
        "way": way.__name__,
        "source_mb": round(megabytes, 1),
        "repeat": repeat,
        "documents": documents,
        "tokens": tokens,
        "seconds": round(wall, 2),
        "cpu": round(cpu, 2),
        "source_mb_per_s": round(megabytes / wall, 1),
        "million_tokens_per_s": round(tokens / wall / 1e6, 2),
        "peak_mib": round(peak / 1024),
    }


def memory(source: Path, prefix: Path, repeat: int) -> int:
    """The peak of ours, workers included, in MiB."""
    peak = 0

    def look(*_: object) -> None:
        nonlocal peak
        found = 0
        for pid in (os.getpid(), *(child.pid for child in multiprocessing.active_children())):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
                found += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        peak = max(peak, found)

    convert(source, prefix, repeat=repeat, force=True, progress=look)
    return round(peak / 1024)


def main() -> None:
    """Measures every combination and prints a table, or one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mb", type=float, nargs="+", default=[1, 10, 50], help="sizes of the source")
    parser.add_argument("--repeat", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--turns", type=int, default=3, help="of which the median counts, for ours")
    parser.add_argument("--beside", action="store_true", help="measure the other way, too, once each")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for megabytes in options.mb:
            generate(folder / f"{megabytes:g}.jsonl", megabytes)
        for megabytes, repeat in itertools.product(options.mb, options.repeat):
            arguments = folder / f"{megabytes:g}.jsonl", folder / f"{megabytes:g}x{repeat}", repeat
            turns = []
            for _ in range(options.turns):
                for half in folder.glob(f"{arguments[1].name}.*"):
                    half.unlink()  # as for the other way, there is none yet
                turns.append(_alone(measure, ours, *arguments))
            row = sorted(turns, key=lambda turn: turn["seconds"])[options.turns // 2]
            row["peak_mib"] = _alone(memory, *arguments)
            if options.beside:
                other = _alone(measure, beside, *arguments)
                assert (other["documents"], other["tokens"]) == (row["documents"], row["tokens"])
                results.append({**other, "times_faster": 1.0, "times_less_cpu": 1.0})
                faster = other["seconds"] / row["seconds"], other["cpu"] / row["cpu"]
                row |= {"times_faster": round(faster[0], 1), "times_less_cpu": round(faster[1], 1)}
            results.append(row)
    if options.json:
        print(json.dumps(results, indent=2))
        return
    print("  ".join(results[0]))
    for result in results:
        print("  ".join(f"{value:>{len(key)}}" for key, value in result.items()))


def _alone(function: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


if __name__ == "__main__":
    main()
