"""Runs as an engine would tell them: the same events every time."""

from __future__ import annotations

import math
from pathlib import Path

from engine.contract import events as ev
from engine.contract.process import Process
from engine.contract.rundir import RunDir

T0 = 1_760_000_000.0
"""2025-10-09 08:53:20 UTC, when every told run begins."""


def plan(*, epochs: int = 5, epoch_steps: int = 200) -> ev.Plan:
    return ev.Plan(
        version="x070", n_layer=12, n_embd=768, head_size=64, vocab_size=65536,
        parameters=191_084_544, trainable=589_824, method="state", documents=1200, tokens=184_320,
        cut_documents=3, cut_tokens=411, ctx_len=512, micro_bsz=1, epoch_begin=0, epoch_count=epochs,
        epoch_steps=epoch_steps, passes=epochs * epoch_steps / 1200, device="cuda:0", precision="bf16",
        op="chunked", op_reasons={"cuda": "no compiler was found"},
    )  # fmt: skip


def loss_at(step: int) -> float:
    """Falls from about 3.4 to 1.9, with waves and a spike at step 77."""
    wave = 0.22 * math.sin(step * 1.7) + 0.15 * math.sin(step * 0.31)
    return 1.9 + 1.5 * math.exp(-step / 180) + wave + (2.0 if step == 77 else 0.0)


def lr_at(step: int, steps: int) -> float:
    return (0.01 + 0.495 * (1 + math.cos(math.pi * step / steps))) * min(1.0, 0.01 + 0.99 * step / 10)


def preparing() -> list[ev.Event]:
    return [
        ev.Progress(t=T0, phase="loading the model", done=0, total=382_000_000, unit="B"),
        ev.Progress(t=T0 + 4, phase="loading the model", done=382_000_000, total=382_000_000, unit="B"),
        ev.Progress(t=T0 + 6, phase="loss before tuning", done=12, total=32, unit="documents"),
    ]


def opening(*, epochs: int = 5, epoch_steps: int = 200) -> list[ev.Event]:
    return [
        *preparing(),
        ev.Evaluated(t=T0 + 11, when="before", loss=3.2141, tokens=4096, documents=32),
        ev.Started(t=T0 + 12, name="emoji", pid=4242, plan=plan(epochs=epochs, epoch_steps=epoch_steps)),
    ]


def stepping(
    folder: Path, first: int, last: int, *, epochs: int = 5, epoch_steps: int = 200
) -> list[ev.Event]:
    """Steps first..last, 0.6 s each, with the end and the file of every epoch."""
    told: list[ev.Event] = []
    smooth = loss_at(1)
    for step in range(1, last + 1):
        smooth = 0.95 * smooth + 0.05 * loss_at(step)
        if step < first:
            continue
        t, epoch = T0 + 12 + 0.6 * step, (step - 1) // epoch_steps
        told.append(ev.Step(
            t=t, step=step, epoch=epoch, loss=round(loss_at(step), 5), loss_smooth=round(smooth, 5),
            lr=lr_at(step, epochs * epoch_steps), kt_s=0.85 + 0.03 * math.sin(step / 7), step_s=0.6,
            grad_norm=0.4 + 0.2 * math.exp(-step / 90), tokens=512 * step,
        ))  # fmt: skip
        if step % epoch_steps == 0:
            lr = lr_at(step, epochs * epoch_steps)
            told.append(ev.Epoch(t=t, epoch=epoch, loss=round(smooth, 4), lr=lr, seconds=0.6 * epoch_steps))
            told.append(ev.Checkpoint(t=t, path=str(folder / f"rwkv-{epoch}.pth"), epoch=epoch, step=step))
    return told


def ending(folder: Path, *, steps: int = 1000, files: int = 5) -> list[ev.Event]:
    """What follows the last step of a run that ends as planned."""
    t = T0 + 12 + 0.6 * steps
    return [
        ev.Progress(t=t + 3, phase="loss after tuning", done=32, total=32, unit="documents"),
        ev.Evaluated(t=t + 4, when="after", loss=1.8764, tokens=4096, documents=32),
        ev.Sample(
            t=t + 9, step=steps, prompt="User: What should I pack for the beach?\n\nAssistant:",
            base="You should bring a towel, sunscreen and some water. It is also useful to have a hat.",
            tuned="Sun, sand and a plan! 🏖️ Pack sunscreen 🧴, a towel, water 💧 and 帽子 for the noon heat.",
        ),
        ev.Finished(
            t=t + 9, status="finished", step=steps, seconds=0.6 * steps + 21, loss_before=3.2141,
            loss_after=1.8764, files=tuple(str(folder / f"rwkv-{n}.pth") for n in range(files)),
        ),
    ]  # fmt: skip


def lively(folder: Path, last: int) -> list[ev.Event]:
    """Steps 1..last with the norms of the state at every fifth and two prompts answered after every save. One
    head is dead, one is larger than all others."""
    told: list[ev.Event] = []
    for event in stepping(folder, 1, last):
        told.append(event)
        if isinstance(event, ev.Step) and event.step % 5 == 0:
            norms = [
                0.0 if n == 40 else (1 + n % 7 / 3 + n // 12 / 4) * event.step**0.5 * (3 if n == 77 else 1)
                for n in range(144)
            ]
            told.append(ev.StateHealth(t=event.t, step=event.step, heads=12, norms=tuple(norms)))
        if isinstance(event, ev.Checkpoint):
            for prompt, base in (("What colour is the sky?", "The sky is blue."), ("你好吗？", "我很好。")):
                told.append(ev.Sample(
                    t=event.t, step=event.step, prompt=prompt, base=base, tuned=f"{base} 💙 Ask me another!"
                ))  # fmt: skip
    return told


def tell(run: RunDir, told: list[ev.Event]) -> None:
    """Appends events to the run's file."""
    with run.events.open("a", encoding="utf-8") as file:
        file.writelines(ev.dump_event(event) for event in told)


def new_run(folder: Path, name: str, owner: Process | None) -> RunDir:
    """A folder claimed by `owner`."""
    run = RunDir(folder)
    run.claim(name)
    if owner is not None:
        run.record_process(name, owner)
    return run


GONE = Process(pid=2**22 - 7, started=1, boot="another boot")
"""A process that cannot exist here."""
