"""What one does with a tuned state, as text that can be copied into a shell or an editor."""

from __future__ import annotations

import shlex
from pathlib import Path

DATA_TO_MEASURE = "PREFIX"


def eval_command(base: Path, state: Path, data: Path | None, ctx_len: int) -> str:
    """The command that measures base and state on a data set; PREFIX stands for one not known."""
    return shlex.join([
        "rwkv-tune", "eval", "--model", str(base), "--state", str(state),
        "--data", str(data or DATA_TO_MEASURE), "--ctx-len", str(ctx_len),
    ])  # fmt: skip


def rwkv_snippet(base: Path, state: Path, version: str = "x070") -> str:
    """A Python program for the package `rwkv` that answers with the state of a model of `version`.

    That package takes the model's path without its suffix, and the states as the file holds them for
    x070, rows and columns exchanged for x052 and x060.
    """
    stem = base.with_suffix("") if base.suffix == ".pth" else base
    new, zeros, turned = "1", "model.generate_zero_state()", ""
    if version != "x070":
        new, turned = "0", ".transpose(1, 2)"
        zeros = "[torch.zeros(model.args.n_embd) for _ in range(3 * model.args.n_layer)]"
    return f"""\
import os
os.environ["RWKV_V7_ON"] = "{new}"  # before the import of rwkv
import torch
from rwkv.model import RWKV
from rwkv.utils import PIPELINE, PIPELINE_ARGS

model = RWKV(model={str(stem)!r}, strategy="cpu fp32")
tuned = torch.load({str(state)!r}, map_location="cpu", weights_only=True)
state = {zeros}
for i in range(model.args.n_layer):
    state[i * 3 + 1] = tuned[f"blocks.{{i}}.att.time_state"].float(){turned}

pipeline = PIPELINE(model, "rwkv_vocab_v20230424")
prompt = "User: Hello!\\n\\nAssistant:"
print(pipeline.generate(prompt, token_count=100, args=PIPELINE_ARGS(token_stop=[0]), state=state))
"""


RUNNER = (
    "Copy both files where RWKV Runner keeps its models. On its Configs page choose the base as Model "
    "and the state as State Model; both stay .pth."
)
AI00 = (
    "Ai00 reads .st files: first convert base and state with the converter that comes with it. Name the "
    "base as model and the state under [[state]] in its Config.toml."
)
ONLY_THIS_BASE = "The state works only with the very model it was tuned on; keep this file with it:"
