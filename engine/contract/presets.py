"""Presets: settings in YAML with a comment per key. Shipped ones are read-only, the user's are files."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from engine.contract.check import check_values
from engine.contract.errors import Problem, SettingsError, UserError, why
from engine.contract.files import write_atomic
from engine.contract.flags import changed
from engine.contract.i18n import N_, _
from engine.contract.settings import TrainSettings, train_params

LARGEST = 1 << 16  # characters
LONGEST_NUMBER = 40  # digits
TYPED_ONLY = N_("is a command that would be run, so no file may bring it; give it on the command line")


@dataclass(frozen=True)
class Preset:
    """A named set of values; `values` holds only what the preset sets."""

    name: str
    shipped: bool
    text: str

    @property
    def values(self) -> dict[str, Any]:
        return parse_yaml(self.text, self.name)

    @property
    def summary(self) -> str:
        """The first comment line."""
        first = self.text.lstrip().split("\n", 1)[0]
        return first.lstrip("# ").strip() if first.startswith("#") else ""


class _Loader(yaml.SafeLoader):
    """Reads each value where it stands: aliases of aliases would make a large one of a few lines."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem=_("an alias"), problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Without numbers that are too long to be shown, which hexadecimal ones may be."""
        if len(node.value) > LONGEST_NUMBER:
            raise yaml.MarkedYAMLError(problem=_("a number that never ends"), problem_mark=node.start_mark)
        return int(super().construct_yaml_int(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """Values of a preset. Raises SettingsError naming key and line for anything wrong in it."""
    if len(text) > LARGEST:
        raise SettingsError(
            [Problem("", _("larger than a preset would be ({largest} KiB)", largest=LARGEST >> 10))], source
        )
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        values = loader.construct_document(node) if node else {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or _("not YAML")
        said = _("{reason}; write one `key: value` a line", reason=reason)
        raise SettingsError([Problem("", _at(mark.line + 1, said) if mark else said)], source) from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        # what YAML's own types raise: a date in month 13, !!int of a word, brackets without end
        reason = _(
            "holds what YAML cannot read ({name}); write one `key: value` a line", name=type(error).__name__
        )
        raise SettingsError([Problem("", reason)], source) from None
    if not isinstance(values, dict) or not (node is None or isinstance(node, yaml.MappingNode)):
        raise SettingsError([Problem("", _at(1, _("not a list of `key: value`")))], source)
    lines = {str(k.value): k.start_mark.line + 1 for k, _ in node.value} if node else {}
    if node and len(lines) < len(node.value):
        keys = [str(k.value) for k, _ in node.value]
        twice = next(k for k in keys if keys.count(k) > 1)
        raise SettingsError([Problem(twice, _at(lines[twice], _("written twice; keep one")))], source)
    problems = check_values({str(k): v for k, v in values.items()}, files=False).problems
    if problems:
        named = [Problem(p.field, _at(lines[p.field], p.message) if p.field in lines else p.message)
                 for p in problems]  # fmt: skip
        raise SettingsError(named, source)
    brought = [Problem(n, _at(at, _(TYPED_ONLY))) for n, at in lines.items() if train_params()[n].typed_only]
    if brought:
        raise SettingsError(brought, source)
    return {str(k): v for k, v in values.items()}


def _at(line: int, message: str) -> str:
    return _("line {line}: {message}", line=line, message=message)


def render_yaml(settings: TrainSettings, title: str, keys: Iterable[str] | None = None) -> str:
    """Settings as a preset file: each key with its help above it. Default: all keys that are changed.

    What no file may bring is left out."""
    lines = [f"# {title}"]
    for name in changed(settings) if keys is None else keys:
        if train_params()[name].typed_only:
            continue
        value = getattr(settings, name)
        lines += ["", f"# {train_params()[name].help}", f"{name}: {_scalar(value)}"]
    return "\n".join(lines) + "\n"


def _scalar(value: Any) -> str:
    """A value on one line, as YAML that reads back as itself."""
    plain = str(value or "") if value is None or isinstance(value, Path) else value
    plain = int(plain) if isinstance(plain, bool) else plain
    breaks = {"\x85", "\u2028", "\u2029"} & set(str(plain))  # YAML folds these like line ends: escape them
    text: str = yaml.safe_dump(plain, default_flow_style=True, allow_unicode=not breaks, width=sys.maxsize)
    return text.removesuffix("...\n").rstrip("\n")


class PresetStore:
    """The shipped presets and the user's, which lie under `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def all(self) -> list[Preset]:
        """The user's presets first, each kind by name; broken files are listed too."""
        own = [self._own(p) for p in sorted(self.folder.glob("*.yaml"))]
        return own + [_shipped(p) for p in sorted(_shipped_files())]

    def get(self, name: str) -> Preset:
        """A preset by name, or by the path of a YAML file. Raises UserError when there is none."""
        for preset in self.all():
            if preset.name == name:
                return preset
        path = Path(name).expanduser()
        if path.suffix in (".yaml", ".yml") and path.is_file():
            return Preset(str(path), shipped=False, text=_read(path))
        raise UserError(
            _("There is no preset {name!r}.", name=name), _("`rwkv-tune preset list` shows them.")
        )

    def save(self, name: str, text: str, *, replace: bool = False) -> Path:
        """Writes a user's preset. Raises UserError when the name is unfit, shipped or taken."""
        if not re.fullmatch(r"\w[\w.-]{0,63}", name):
            raise UserError(
                _("{name!r} cannot name a preset.", name=name), _("Use letters, digits, '-', '_' and '.'.")
            )
        if name in _shipped_names():
            raise UserError(_("{name} is a shipped preset.", name=name), _("Choose another name."))
        path = self.folder / f"{name}.yaml"
        if path.exists() and not replace:
            raise UserError(
                _("There is already a preset {name}.", name=name),
                _("Choose another name, or delete it first."),
            )
        parse_yaml(text, name)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(path, text)
        except OSError as error:
            raise UserError(
                _("Cannot write {path} ({strerror}).", path=path, strerror=error.strerror),
                _("Check the folder's permissions."),
            ) from None
        return path

    def delete(self, name: str) -> None:
        """Removes a user's preset. Raises UserError for a shipped or unknown one."""
        if name in _shipped_names():
            raise UserError(
                _("{name} is a shipped preset and stays.", name=name), _("Only your own can be deleted.")
            )
        try:
            (self.folder / f"{name}.yaml").unlink()
        except OSError:
            raise UserError(
                _("There is no preset {name!r} of yours.", name=name),
                _("`rwkv-tune preset list` shows them."),
            ) from None

    def _own(self, path: Path) -> Preset:
        # A file that is not UTF-8 must not hide the others; its parsing says what is wrong.
        return Preset(path.stem, shipped=False, text=path.read_text(encoding="utf-8", errors="replace"))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            _("Cannot read the preset {path} ({error}).", path=path, error=why(error)),
            _("Check that it is a UTF-8 text file."),
        ) from None


def _shipped_files() -> list[Path]:
    folder = resources.files("presets")
    return [Path(str(entry)) for entry in folder.iterdir() if entry.name.endswith(".yaml")]


def _shipped_names() -> set[str]:
    return {p.stem for p in _shipped_files()}


def _shipped(path: Path) -> Preset:
    return Preset(path.stem, shipped=True, text=path.read_text(encoding="utf-8"))
