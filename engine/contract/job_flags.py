"""The flags that an engine job shares with the command a person types."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_convert_flags(job: argparse.ArgumentParser) -> None:
    """The flags of a conversion."""
    job.add_argument("source", metavar="FILE.jsonl", type=Path)
    job.add_argument(
        "--out", metavar="PREFIX", type=Path, required=True, help="writes PREFIX.bin and PREFIX.idx"
    )
    job.add_argument("--repeat", type=int, default=10, help="write every document N times, shuffled afresh")
    job.add_argument("--ctx-len", "--ctx_len", type=int, default=512, help="for the magic prime")
    job.add_argument("--seed", type=int, default=0, help="the same seed writes the same bytes")
    job.add_argument(
        "--skip-bad", "--skip_bad", action="store_true", help="leave out lines that cannot be read"
    )
    job.add_argument(
        "--force", action="store_true", help="replace an existing pair once the new one is complete"
    )


def add_init_flags(job: argparse.ArgumentParser) -> None:
    """The flags of a new model."""
    job.add_argument("--version", choices=["x052", "x060", "x070"], required=True)
    job.add_argument("--n-layer", "--n_layer", type=int, required=True)
    job.add_argument("--n-embd", "--n_embd", type=int, required=True)
    job.add_argument("--vocab-size", "--vocab_size", type=int, default=65536)
    job.add_argument(
        "--pre-ffn",
        "--pre_ffn",
        action="store_true",
        help="no attention in the first layer, but a second ffn",
    )
    job.add_argument("--head-qk", "--head_qk", type=int, default=0, help="width of a copying head; 0 is none")
    job.add_argument("--seed", type=int, default=0)
    job.add_argument("--out", metavar="FILE.pth", type=Path, required=True)
    job.add_argument("--json", action="store_true")


def add_evaluate_flags(job: argparse.ArgumentParser) -> None:
    """The flags of an evaluation."""
    job.add_argument("--model", metavar="FILE.pth", type=Path, required=True)
    job.add_argument("--state", metavar="FILE.pth", type=Path)
    add_adapter_flags(job)
    job.add_argument("--data", metavar="PREFIX", type=Path, required=True)
    job.add_argument("--ctx-len", "--ctx_len", type=int, required=True)
    job.add_argument("--json", action="store_true")


def add_adapter_flags(job: argparse.ArgumentParser) -> None:
    """An adapter, and what the incumbent's files do not say of themselves."""
    job.add_argument("--adapter", metavar="FOLDER|FILE.pth", type=Path)
    job.add_argument(
        "--lora-alpha", "--lora_alpha", type=float, help="of a LoRA .pth, which does not say it itself"
    )
    job.add_argument(
        "--init",
        metavar="FILE.pth",
        type=Path,
        help="the init file of a PiSSA .pth (default: the one beside it)",
    )


def add_merge_flags(job: argparse.ArgumentParser) -> None:
    """The flags of a merge."""
    job.add_argument("--base", metavar="FILE.pth", type=Path, required=True)
    job.add_argument("--state", metavar="FILE.pth", type=Path)
    add_adapter_flags(job)
    job.add_argument("--out", metavar="FILE.pth", type=Path, required=True)
    job.add_argument("--json", action="store_true", help="one JSON document on stdout")
