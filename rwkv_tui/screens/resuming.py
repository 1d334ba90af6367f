"""Going on with a run from a screen, which asks first where it would have to begin anew."""

from __future__ import annotations

from collections.abc import Callable

from engine.contract.errors import UserError
from engine.contract.i18n import _
from engine.contract.rundir import RunDir, RunList
from rwkv_tui.app import TuneApp
from rwkv_tui.plain import one_line
from rwkv_tui.screens.ask import AskScreen


def go_on(app: TuneApp, name: str, run: RunDir, then: Callable[[], object]) -> None:
    """Starts a process that goes on with a run, then calls `then`; says why where it cannot be resumed."""
    if run.resume_steps() or not run.settings.is_file():  # without which it says that it cannot
        _resume(app, name, run, then)
        return
    question = _(
        "Nothing of {name} was saved to go on from.\n"
        "It begins anew, at its first step, with the same settings.",
        name=one_line(name),
    )
    app.push_screen(
        AskScreen(question, _("Begin anew")), lambda yes: _resume(app, name, run, then) if yes else None
    )


def _resume(app: TuneApp, name: str, run: RunDir, then: Callable[[], object]) -> None:
    from rwkv_tui.services.launch import resume

    try:
        resume(name, run, RunList(app.paths.runs))
    except UserError as error:
        app.notify(str(error), severity="error", markup=False)
    else:
        then()
