"""The demo: bundled data, and how its small base model and its state are trained. No torch in here."""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from pathlib import Path

# A model small enough to be trained from scratch in about a minute on two cores. It speaks only of
# what plain.jsonl and base_emoji.jsonl say; it shows the way, not what RWKV can do.
BASE_SHAPE = {"version": "x070", "n_layer": 3, "n_embd": 128, "vocab_size": 65536, "seed": 0}
_HERE: dict[str, object] = {"ctx_len": 64, "grad_cp": 0, "precision": "fp32", "accelerator": "cpu"}
BASE_SETTINGS: dict[str, object] = {
    **_HERE, "train_type": "none", "micro_bsz": 16, "epoch_count": 1, "epoch_steps": 260,
    "lr_init": 4e-3, "lr_final": 2e-4, "eval_docs": 0, "sample_len": 0,
}  # fmt: skip
STATE_SETTINGS: dict[str, object] = {
    **_HERE, "micro_bsz": 8, "epoch_count": 4, "epoch_steps": 40,
    "sample_prompt": "What colour is the sky?", "sample_len": 24,  # unsaid
}  # fmt: skip


def data_file(name: str) -> Path:
    """A bundled file: plain, base_emoji, emoji or heldout (.jsonl)."""
    return Path(str(resources.files("engine.demo"))) / "data" / f"{name}.jsonl"


def base_text() -> str:
    """What the base learns."""
    return "".join(data_file(name).read_text(encoding="utf-8") for name in ("plain", "base_emoji"))


def base_id() -> str:
    """Changes whenever the base would be another one."""
    recipe = json.dumps([BASE_SHAPE, BASE_SETTINGS], sort_keys=True) + base_text()
    return hashlib.sha256(recipe.encode()).hexdigest()[:12]
