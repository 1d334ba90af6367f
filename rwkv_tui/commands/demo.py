"""`rwkv-tune demo`: the whole path on bundled data, with the screens or without."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from engine.contract.check import require_settings
from engine.contract.errors import UserError, why
from engine.contract.events import Sample
from engine.contract.i18n import _
from engine.contract.paths import UserPaths
from engine.contract.plain import say
from engine.contract.rundir import RunDir
from engine.demo import BASE_SETTINGS, BASE_SHAPE, STATE_SETTINGS, base_id, base_text, data_file
from rwkv_tui.commands.app import in_tmux, require_terminal
from rwkv_tui.commands.follow import follow, renderer
from rwkv_tui.services.engine import engine_command, engine_environment
from rwkv_tui.services.launch import launch
from rwkv_tui.services.run_tail import RunTail


def demo(args: argparse.Namespace) -> int:
    """Makes the base when it is not there yet, then tunes its state."""
    if not args.headless:
        require_terminal()
    paths, folder = UserPaths.of_user(), args.dir.absolute()
    try:
        base = _base(paths)
        source = _place_data(folder)
    except OSError as error:
        raise UserError(
            _("The demo cannot write its files ({error}).", error=why(error)), _("Choose another --dir.")
        ) from error
    values = {**STATE_SETTINGS, "load_model": base, "proj_dir": _fresh(folder / "emoji-state")}
    if args.headless:
        return _headless(paths, folder, source, values)
    from rwkv_tui.app import TuneApp

    TuneApp(paths, draft=values, source=source, theme=args.theme, ascii=args.ascii, tmux=in_tmux()).run()
    return 0


def _headless(paths: UserPaths, folder: Path, source: Path, values: dict[str, Any]) -> int:
    data, heldout = _convert(source, folder / "emoji"), _convert(data_file("heldout"), folder / "heldout")
    name, run = launch(require_settings({**values, "data_file": data}), paths)
    status = follow(name, run, renderer(json=False))
    if status:
        return status
    state = max(run.path.glob("rwkv-*.pth"), key=lambda p: int(p.stem.partition("-")[2]))
    base_loss, tuned_loss = _loss(values["load_model"], heldout), _loss(values["load_model"], heldout, state)
    say(
        "\n"
        + _(
            "held-out loss: base {base:.4f}, tuned {tuned:.4f} ({change:+.0%})",
            base=base_loss,
            tuned=tuned_loss,
            change=tuned_loss / base_loss - 1,
        )
    )
    say(_("state: {state}", state=state) + "\n")
    sample = next(e for e in RunTail(run).poll() if isinstance(e, Sample))
    say(
        _(
            "User:  {prompt}\nbase:  {base}\ntuned: {tuned}",
            prompt=sample.prompt,
            base=sample.base,
            tuned=sample.tuned,
        )
    )
    return 0


def _place_data(folder: Path) -> Path:
    """A copy of the bundled pairs that a person can look at and change; an existing one stays."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "emoji.jsonl"
    if not target.exists():
        shutil.copyfile(data_file("emoji"), target)
    return target


def _fresh(path: Path) -> Path:
    number = 1
    while (candidate := path.with_name(f"{path.name}-{number}")).exists():
        number += 1
    return candidate


def _convert(source: Path, prefix: Path) -> Path:
    """The demo's own pair; one that a demo made before is made anew."""
    from engine.data.convert import convert

    report = convert(source, prefix, repeat=1, ctx_len=64, force=True)
    say(
        _(
            "{prefix}.bin: {documents} documents, {tokens:,} tokens",
            prefix=prefix,
            documents=report.documents,
            tokens=report.tokens,
        )
    )
    return prefix


def _loss(model: Path, data: Path, state: Path | None = None) -> float:
    words = [
        "--model",
        str(model),
        "--data",
        str(data),
        "--ctx-len",
        str(STATE_SETTINGS["ctx_len"]),
        "--json",
    ]
    if state is not None:
        words += ["--state", str(state)]
    return float(json.loads(_job("evaluate", *words))["loss"])


def _job(name: str, *words: str) -> str:
    done = subprocess.run(
        engine_command(name, *words), env=engine_environment(), capture_output=True, text=True, check=False
    )  # fmt: skip
    if done.returncode:
        raise UserError(
            _("The demo's {name} failed: {reason}", name=name, reason=done.stderr.strip()),
            _("`rwkv-tune doctor` tells more."),
        )
    return done.stdout


def _base(paths: UserPaths) -> Path:
    """The demo's base model, trained here once and kept in the cache."""
    folder = paths.cache / "demo"
    base = folder / f"base-{base_id()}.pth"
    if base.is_file():
        return base
    say(_("Making the demo's base model: a small x070 trained here, once (about a minute)."))
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="base-") as scratch:
        base_run = _train_base(Path(scratch))
        base_run.checkpoint(0).replace(base)
    return base


def _train_base(scratch: Path) -> RunDir:
    source, model = scratch / "base.jsonl", scratch / "init.pth"
    source.write_text(base_text(), encoding="utf-8")
    shape = [w for key, value in BASE_SHAPE.items() for w in (f"--{key}", str(value))]
    _job("init", *shape, "--out", str(model))
    values = {**BASE_SETTINGS, "load_model": model, "data_file": _convert(source, scratch / "base"),
              "proj_dir": scratch / "run"}  # fmt: skip
    # A list of runs of its own: this run is no run of the person's.
    name, run = launch(require_settings(values), UserPaths.under(scratch))
    status = follow(name, run, renderer(json=False))
    if status == 130:
        raise KeyboardInterrupt
    if status:
        raise UserError(_("The base model could not be trained."), _("`rwkv-tune doctor` tells more."))
    return run
