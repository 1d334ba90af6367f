"""What a run has made, and how to use it: paths and flags, no widgets."""

from __future__ import annotations

from pathlib import Path

from engine.contract.errors import UserError
from engine.contract.events import Finished
from engine.contract.i18n import _
from engine.contract.rundir import RunDir
from rwkv_tui.services.run_tail import RunModel, RunTail


def saved_files(run: RunDir, model: RunModel) -> list[Path]:
    """The run's trained files that still exist, oldest first."""
    told = model.closing.files if isinstance(model.closing, Finished) else ()
    paths = (Path(p) for p in (*(c.path for c in model.checkpoints), *told))
    # By name: the folder may have been moved. An adapter may lie in a folder of its own.
    names = dict.fromkeys(
        Path(p.parent.name, p.name) if p.suffix == ".safetensors" else Path(p.name) for p in paths
    )
    return [p for p in (run.path / name for name in names) if p.is_file()]


def result(run: RunDir, model: RunModel, method: str) -> Path:
    """What the run made last: a file, or an adapter's folder, which describes itself."""
    saved = saved_files(run, model)
    last = saved[-1] if saved else run.checkpoint(0)
    folder = last.with_suffix("") if last.parent == run.path else last.parent
    return last if method in ("state", "full") else folder


def chat_flags(run: RunDir) -> list[str]:
    """The flags of `chat` for what a run has saved last. Raises UserError when there is nothing."""
    model = RunModel()
    for event in RunTail(run).poll(steps=False):
        model.apply(event)
    settings = run.read_settings(files=False)
    if not saved_files(run, model):
        raise UserError(
            _("{folder} has no trained file yet.", folder=run.path),
            _("The first comes with the first save (epoch_save, save_minutes); a stop saves, too."),
        )
    made = result(run, model, settings.method)
    packed = ["--quant", settings.quant] if settings.quant != "none" else []
    if settings.method == "full":
        return ["--model", str(made), *packed]
    if settings.load_model is None:
        raise UserError(
            _("The settings of {folder} name no base model.", folder=run.path),
            _("Name it with --model FILE.pth."),
        )
    kind = "--state" if settings.method == "state" else "--adapter"
    return ["--model", str(settings.load_model), kind, str(made), *packed]
