"""How fast jsonl becomes binidx, and in how much memory: `python bench/convert.py --mb 1 10 --repeat 10`.

Each measurement is a process of its own. Its peak is VmHWM (Linux), which unlike ru_maxrss does not
begin at the size of the process that started it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import random
import tempfile
from pathlib import Path
from typing import Any

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


def measure(source: Path, prefix: Path, repeat: int) -> dict[str, Any]:
    """One conversion in this process: seconds, rates and the peak of its memory in MB."""
    report = convert(source, prefix, repeat=repeat)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    megabytes = source.stat().st_size / 1e6
    return {
        "source_mb": round(megabytes, 1),
        "repeat": repeat,
        "documents": report.documents,
        "tokens": report.tokens,
        "seconds": round(report.seconds, 2),
        "source_mb_per_s": round(megabytes / report.seconds, 1),
        "million_tokens_per_s": round(report.tokens / report.seconds / 1e6, 2),
        "peak_mb": round(peak * 1024 / 1e6),
    }


def main() -> None:
    """Measures every combination and prints a table, or one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mb", type=float, nargs="+", default=[1, 10, 50], help="sizes of the source")
    parser.add_argument("--repeat", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for megabytes in options.mb:
            generate(folder / f"{megabytes:g}.jsonl", megabytes)
        for megabytes, repeat in itertools.product(options.mb, options.repeat):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                source, prefix = folder / f"{megabytes:g}.jsonl", folder / f"{megabytes:g}x{repeat}"
                results.append(pool.apply(measure, (source, prefix, repeat)))
    if options.json:
        print(json.dumps(results, indent=2))
        return
    print("  ".join(results[0]))
    for result in results:
        print("  ".join(f"{value:>{len(key)}}" for key, value in result.items()))


if __name__ == "__main__":
    main()
