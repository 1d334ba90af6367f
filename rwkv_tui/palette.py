"""The command palette: whatever the screen underneath can do, and what works everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from textual.command import DiscoveryHit, Hit, Hits, Provider

from engine.contract.i18n import N_, _
from engine.contract.rundir import RunList
from engine.contract.settings import train_params
from rwkv_tui.app import TuneApp
from rwkv_tui.plain import one_line
from rwkv_tui.screens.help import all_keys, our_bindings, spell_keys

RUNS_LISTED = 50
THEMES = {"dark": N_("Theme: dark"), "light": N_("Theme: light"), "contrast": N_("Theme: high contrast")}


@dataclass(frozen=True)
class Command:
    """One line of the palette."""

    name: str
    help: str
    run: Callable[[], object]


class Commands(Provider):
    """Commands of the screen underneath come first; parameters and runs show once something is typed."""

    async def discover(self) -> Hits:
        for command in [*self._here(), *self._everywhere()]:
            yield DiscoveryHit(command.name, command.run, help=command.help)

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for command in [*self._here(), *self._everywhere(), *self._places()]:
            if score := matcher.match(command.name):
                yield Hit(score, matcher.highlight(command.name), command.run, help=command.help)

    @property
    def _app(self) -> TuneApp:
        assert isinstance(self.app, TuneApp)
        return self.app

    def _here(self) -> Iterator[Command]:
        for what, actives in our_bindings(self.screen.active_bindings.values()).items():
            first = actives[0]
            run = partial(self.app.run_action, first.binding.action, first.node)
            yield Command(what, spell_keys(actives), run)

    def _everywhere(self) -> Iterator[Command]:
        app = self._app
        yield Command(_("New run: the wizard"), "", app.open_wizard)
        for name, words in THEMES.items():
            now = _("as it is now; remembered") if name == app.theme else _("remembered")
            yield Command(_(words), now, partial(app.choose_look, theme=name))
        other = not app.look.ascii
        signs = _("Signs and lines: ASCII only") if other else _("Signs and lines: as they are meant")
        yield Command(signs, _("remembered"), partial(app.choose_look, ascii=other))
        yield Command(_("Keys of this screen"), all_keys(app, "app.help"), app.action_help)
        yield Command(_("Quit; runs go on"), "ctrl+q", app.exit)

    def _places(self) -> Iterator[Command]:
        app = self._app
        for param in train_params().values():
            where = {"load_model": "Model", "data_file": "Data"}.get(param.name, "Parameters")
            yield Command(
                _("Set {param}", param=param.name), _(param.help), partial(app.open_wizard, where, param.name)
            )
        for name, run in RunList(app.paths.runs).all()[:RUNS_LISTED]:
            yield Command(
                _("Open run {name}", name=one_line(name)), str(run.path), partial(app.open_run, name, run)
            )
