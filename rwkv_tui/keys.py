"""Every key of the program by the id of what it does, for whoever wants others."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, cast

from textual.binding import Binding
from textual.dom import DOMNode

from engine.contract.i18n import _

if TYPE_CHECKING:
    from rwkv_tui.app import TuneApp

PLACES = ("rwkv_tui.screens", "rwkv_tui.widgets", "rwkv_tui.panels")


def key_bindings() -> dict[str, list[Binding]]:
    """By id, in the order of screens. Loads every screen, so only who asks for keys pays for it."""
    found: dict[str, list[Binding]] = {}
    for bindings in _declared():
        for binding in bindings:
            found.setdefault(binding.id or "", []).append(binding)
    return found


def key_of(node: DOMNode, name: str) -> str:
    """The key by which `node`, or what it stands in, does now what is called `name`, as one says it: Ctrl+N.

    A person's own goes before ours; of several keys it is the first.
    """
    own = cast("TuneApp", node.app).keys.get(name)
    ours = (
        binding.key
        for one in node.ancestors_with_self
        for cls in type(one).__mro__
        for binding in vars(cls).get("BINDINGS", ())
        if isinstance(binding, Binding) and binding.id == name
    )
    key = spell_key((own or next(ours)).split(",")[0])
    return key if len(key) == 1 else "+".join(part[0].upper() + part[1:] for part in key.split("+"))


def spell_key(key: str) -> str:
    """A key as printed on a keyboard."""
    names = {"left_square_bracket": "[", "right_square_bracket": "]", "question_mark": "?", "slash": "/",
             "colon": ":", "escape": "esc", "comma": ",", "full_stop": ".", "plus": "+", "minus": "-",
             "equals_sign": "="}  # fmt: skip
    return names.get(key, key)


def _declared() -> Iterator[list[Binding]]:
    """The keys of each screen and widget that declares some."""
    import rwkv_tui.app

    for module in [rwkv_tui.app.__name__, *(name for place in PLACES for name in _modules(place))]:
        for thing in vars(import_module(module)).values():
            if isinstance(thing, type) and issubclass(thing, DOMNode) and thing.__module__ == module:
                yield [b for b in vars(thing).get("BINDINGS", ()) if isinstance(b, Binding)]


def _modules(package: str) -> Iterator[str]:
    for module in pkgutil.walk_packages(import_module(package).__path__, f"{package}."):
        yield module.name


def mistakes(keys: Mapping[str, str]) -> list[str]:
    """What is wrong with keys of one's own: ids that name nothing, one key for two things in one place."""
    unknown = sorted(set(keys) - key_bindings().keys())
    found = [_("there is no key called {name}; `rwkv-tune keys` lists them", name=name) for name in unknown]
    for bindings in _declared():
        taken: dict[str, str] = {}
        for binding in bindings:
            name = binding.id or ""
            for key in keys.get(name, binding.key).split(","):
                other = taken.setdefault(key, name)
                if other != name and {other, name} & set(keys):
                    clash = _("{key} is given to both {other} and {name}; give one of them another",
                              key=key, other=other, name=name)  # fmt: skip
                    found.append(clash)
    return found


def listing(keys: Mapping[str, str]) -> str:
    """Every id with its keys as they are now and what they do, ready to be a file of one's own."""
    lines = []
    for name, bindings in key_bindings().items():
        usual = ",".join(dict.fromkeys(b.key for b in bindings))
        spelled = keys.get(name, usual)
        lines.append(f'{name + ":":<24} "{spelled}"'.ljust(56) + f"  # {_(bindings[0].description)}")
    return "\n".join(lines)
