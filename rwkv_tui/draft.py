"""What a person has typed so far: a text per parameter, and what is wrong with each. No textual here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.contract.errors import Problem
from engine.contract.flags import spell

if TYPE_CHECKING:
    from engine.contract.check import Checked
    from engine.contract.params import Param
    from engine.contract.reports import DataSummary, ModelInfo
    from engine.contract.settings import TrainSettings

FROM_MODEL = ("my_testing", "n_layer", "n_embd")
"""What picking a model file fills in by itself."""


@dataclass(frozen=True)
class Change:
    """What undoing puts back: texts (None: nothing was typed), and the preset they were measured by."""

    texts: dict[str, str | None]
    base: dict[str, str]
    preset: str


class Draft:
    """Partly filled settings. Texts are kept exactly as typed, also when they are wrong."""

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        self._texts: dict[str, str] = {}
        self._checked: Checked | None = None
        self._suggested = ""
        self._base: dict[str, str] = {}
        self._past: list[Change] = []
        self.preset = ""
        self.data: DataSummary | None = None
        self.model: ModelInfo | None = None
        for name, value in (values or {}).items():
            self.put(name, spell(value))

    def text(self, name: str) -> str:
        """What the field shows: what was typed, else the default."""
        return self._texts.get(name, spell(_params()[name].default))

    def given(self, name: str) -> str:
        """What was typed, "" for nothing: the same as `text` for files and folders, whose default is none."""
        return self._texts.get(name, "")

    def put(self, name: str, text: str) -> None:
        """Takes a text as typed."""
        if name == "data_file" and text != self.given(name):
            self.data = None
        self._texts[name] = text
        self.recheck()

    def edit(self, name: str, text: str) -> None:
        """As `put`, by the person: it can be undone. What is typed into one field in a row is one change."""
        last = self._past[-1].texts if self._past else {}
        if list(last) != [name]:
            self._remember({name: self._texts.get(name)})
        self.put(name, text)

    def _remember(self, texts: dict[str, str | None]) -> None:
        self._past.append(Change(texts, self._base, self.preset))

    def undo(self) -> list[str]:
        """Takes the last change back and names its parameters; none when there is nothing to undo."""
        if not self._past:
            return []
        last = self._past.pop()
        self._base, self.preset = last.base, last.preset
        for name, text in last.texts.items():
            self._texts.pop(name, None)
            if text is not None:
                self.put(name, text)
        self.recheck()
        return list(last.texts)

    def revert(self, name: str) -> None:
        """Gives a parameter the value of the preset, or the default where that has none."""
        if self.is_changed(name):
            self._remember({name: self._texts.get(name)})
            self.put(name, self.usual(name))

    def usual(self, name: str) -> str:
        """The value of the preset loaded last, else the default."""
        return self._base.get(name, spell(_params()[name].default))

    def is_changed(self, name: str) -> bool:
        """Whether it says something else than the preset; files and what they fill in do not count."""
        if name not in self._base and (_params()[name].group == "files" or name in FROM_MODEL):
            return False
        return not _same(name, self.text(name), self.usual(name))

    def recheck(self) -> None:
        """Forgets what was found; files may have come or gone."""
        self._checked = None

    def _values(self) -> dict[str, str]:
        """The texts that say something: an empty field means the default."""
        return {name: text.strip() for name, text in self._texts.items() if text.strip()}

    @property
    def checked(self) -> Checked:
        if self._checked is None:
            from engine.contract.check import check_values

            self._checked = check_values(self._values())
        return self._checked

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Everything that keeps the run from starting."""
        return self.checked.problems

    @property
    def errors(self) -> dict[str, str]:
        """The first message of each field that has one."""
        return self.checked.by_field()

    @property
    def settings(self) -> TrainSettings | None:
        """The settings, when a run could start with them."""
        return None if self.problems else self.checked.settings

    def approximate(self) -> TrainSettings:
        """The settings with unreadable fields at their default: good enough for a picture."""
        from engine.contract.check import check_values
        from engine.contract.settings import TrainSettings

        if self.checked.settings is not None:
            return self.checked.settings
        values = {n: t for n, t in self._values().items() if n not in self.errors}
        return check_values(values, files=False).settings or TrainSettings()

    def take_model(self, path: str, info: ModelInfo) -> None:
        """A model file was picked: its version and dimensions follow."""
        self.model = info
        self.put("load_model", path)
        self.put("my_testing", info.version)
        self.put("n_layer", str(info.n_layer))
        self.put("n_embd", str(info.n_embd))

    def forget_model(self) -> None:
        """The path names another file now: what the former one filled in goes back to the default."""
        if self.model is not None:
            self.model = None
            for name in FROM_MODEL:
                self._texts.pop(name, None)
            self.recheck()

    def take_data(self, prefix: str, summary: DataSummary | None) -> None:
        """A binidx pair was chosen or made."""
        self.put("data_file", prefix)
        self.data = summary

    def load(self, values: Mapping[str, Any], name: str = "") -> None:
        """Applies a preset: other parameters go back to their default, files and model stay."""
        before, after = self._texts, self._loaded(values)
        touched = [n for n in {**before, **after} if before.get(n) != after.get(n)]
        self._remember({n: before.get(n) for n in touched})
        self._base = {n: spell(v) for n, v in values.items() if after.get(n) == spell(v)}
        self._texts, self.preset = after, name
        self.recheck()

    def _loaded(self, values: Mapping[str, Any]) -> dict[str, str]:
        """The texts as a preset would leave them."""
        keep = {n for n, p in _params().items() if p.group == "files" and n not in values}
        if self.given("load_model").strip() and "load_model" not in values:
            keep |= set(FROM_MODEL)
        texts = {n: t for n, t in self._texts.items() if n in keep}
        return {n: spell(v) for n, v in values.items() if n not in keep} | texts

    def differences(self, values: Mapping[str, Any]) -> list[tuple[str, str, str]]:
        """(parameter, text now, text then) of all that loading a preset would change."""
        after = self._loaded(values)
        defaults = {n: spell(p.default) for n, p in _params().items()}
        rows = [(n, self.text(n), after.get(n, default)) for n, default in defaults.items()]
        return [(n, now or defaults[n], then) for n, now, then in rows if not _same(n, now, then)]

    def suggest_proj_dir(self, root: Path) -> None:
        """Names a new folder after model and data, unless the person has named one."""
        if self.given("proj_dir").strip() not in ("", self._suggested):
            return
        stems = (_stem(self.given("load_model"), ".pth"), _stem(self.given("data_file")))
        base = "-".join(s for s in stems if s)[:80] or "run"
        number = 1
        while (root / "runs" / f"{base}-{number}").exists():
            number += 1
        self._suggested = str(Path("runs") / f"{base}-{number}")
        self.put("proj_dir", self._suggested)

    def passes(self) -> float | None:
        """How often the run goes over its data; None while the data is unknown."""
        if self.data is None or not self.data.documents or not self.data.complete:
            return None
        from engine.contract.reports import windows_in

        s = self.approximate()
        get = s.dataload == "get"
        examples = windows_in(self.data.tokens, s.ctx_len) if get else self.data.documents
        return s.total_steps * s.step_documents / examples


def _params() -> dict[str, Param]:
    """All parameters, once somebody asks for them: a first frame does without what they load."""
    from engine.contract.settings import train_params

    return train_params()


def _same(name: str, one: str, other: str) -> bool:
    """Whether two texts mean the same value: an empty one means the default, 1.0 is 1."""
    param = _params()[name]
    texts = [text.strip() or spell(param.default) for text in (one, other)]
    if param.kind in ("int", "float"):
        try:
            return float(texts[0]) == float(texts[1])
        except ValueError:
            pass
    return texts[0] == texts[1]


def _stem(text: str, suffix: str = "") -> str:
    name = Path(text.strip()).name
    return name.removesuffix(suffix) if suffix else name
