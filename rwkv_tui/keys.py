"""Every key of the program by the id of what it does, for whoever wants others."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping
from importlib import import_module

from textual.binding import Binding
from textual.dom import DOMNode

PLACES = ("rwkv_tui.screens", "rwkv_tui.widgets", "rwkv_tui.panels")


def key_bindings() -> dict[str, list[Binding]]:
    """By id, in the order of screens. Loads every screen, so only who asks for keys pays for it."""
    import rwkv_tui.app

    found: dict[str, list[Binding]] = {}
    for module in [rwkv_tui.app.__name__, *(name for place in PLACES for name in _modules(place))]:
        for thing in vars(import_module(module)).values():
            if isinstance(thing, type) and issubclass(thing, DOMNode) and thing.__module__ == module:
                for binding in vars(thing).get("BINDINGS", ()):
                    if isinstance(binding, Binding) and binding.id:
                        found.setdefault(binding.id, []).append(binding)
    return found


def _modules(package: str) -> Iterator[str]:
    for module in pkgutil.walk_packages(import_module(package).__path__, f"{package}."):
        yield module.name


def unknown_ids(keys: Mapping[str, str]) -> list[str]:
    """Those of a person's own keys that name nothing."""
    return sorted(set(keys) - key_bindings().keys())


def listing(keys: Mapping[str, str]) -> str:
    """Every id with its keys as they are now and what they do, ready to be a file of one's own."""
    lines = []
    for name, bindings in key_bindings().items():
        usual = ",".join(dict.fromkeys(b.key for b in bindings))
        spelled = keys.get(name, usual)
        lines.append(f'{name + ":":<24} "{spelled}"'.ljust(56) + f"  # {bindings[0].description}")
    return "\n".join(lines)
