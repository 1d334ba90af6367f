"""What one does with a tuned state, as text that can be copied into a shell or an editor."""

from __future__ import annotations

import shlex
from pathlib import Path

from engine.contract.i18n import N_, _

DATA_TO_MEASURE = "PREFIX"


def eval_command(base: Path, result: tuple[str, ...], data: Path | None, ctx_len: int) -> str:
    """The command that measures a result, given as eval's own flags; PREFIX stands for data not known."""
    return shlex.join([
        "rwkv-tune", "eval", "--model", str(base), *result,
        "--data", str(data or DATA_TO_MEASURE), "--ctx-len", str(ctx_len),
    ])  # fmt: skip


def _export(file: Path) -> str:
    return shlex.join(["rwkv-tune", "export", str(file)])


Steps = list[tuple[str, str]]
"""What to do with a result: headings, and text that can be copied."""


def steps(method: str, base: Path, result: Path, version: str, data: Path | None, ctx_len: int) -> Steps:
    """What to do with the `result` of a method, ending with how to measure it."""
    flags: tuple[str, ...]
    if method == "state":
        found, asked, flags = _of_state(base, result, version), base, ("--state", str(result))
    elif method == "full":
        found, asked, flags = _of_model(base, result), result, ()
    else:
        found, asked, flags = _of_adapter(base, result), base, ("--adapter", str(result))
    measure = _("Measure it, on these data or on others")
    return [*found, (measure, eval_command(asked, flags, data, ctx_len))]


def _of_state(base: Path, result: Path, version: str) -> Steps:
    program = rwkv_snippet(base, result, version).rstrip()
    return [
        (_("What to do next"), f"{_(ONLY_THIS_BASE)}\n{base}"),
        (_("In RWKV Runner"), _(RUNNER)),
        (_("In Ai00"), f"{_(AI00)}\n{_export(base)}\n{_export(result)}"),
        (_("In Python, with the package rwkv (pip install rwkv)"), program),
    ]


def _of_model(base: Path, result: Path) -> Steps:
    used = _("{result} is a model of its own: use it wherever you used\n{base}", result=result, base=base)
    copied = _("Copy the file where RWKV Runner keeps its models and choose it as Model.")
    made = _("Ai00 reads .st files, which this makes:")
    return [
        (_("What to do next"), used),
        (_("In RWKV Runner"), copied),
        (_("In Ai00"), f"{made}\n{_export(result)}"),
    ]


def _of_adapter(base: Path, result: Path) -> Steps:
    kept = _("The adapter works only with the very model it was tuned on; keep this file with it:")
    merge = ["rwkv-tune", "merge", "--base", str(base), "--adapter", str(result), "--out", "merged.pth"]
    return [
        (_("What to do next"), f"{kept}\n{base}"),
        (_("Merge it into a model that RWKV Runner, Ai00 and the package rwkv can use"), shlex.join(merge)),
    ]


def rwkv_snippet(base: Path, state: Path, version: str = "x070") -> str:
    """A Python program for the package `rwkv` that answers with the state of a model of `version`.

    That package takes the model's path without its suffix, and the states as the file holds them for
    x070, rows and columns exchanged for x052 and x060.
    """
    stem = base.with_suffix("") if base.suffix == ".pth" else base
    new, zeros, turned = "1", "model.generate_zero_state()", ""
    if version != "x070":
        new, turned = "0", ".transpose(1, 2)"
        zeros = "[torch.zeros(model.args.n_embd) for _ in range(3 * model.args.n_layer)]"  # unsaid
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
"""  # unsaid


RUNNER = N_(
    "Copy both files where RWKV Runner keeps its models. On its Configs page choose the base as Model "
    "and the state as State Model; both stay .pth."
)
AI00 = N_(
    "Ai00 reads .st files, which the commands below make. Name the base as model and the state under "
    "[[state]] in its Config.toml."
)
ONLY_THIS_BASE = N_("The state works only with the very model it was tuned on; keep this file with it:")
