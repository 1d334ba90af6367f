"""Where a person's own things lie (XDG). Entry points make one `UserPaths` and pass it on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import platformdirs

APP = "rwkv-tune"


@dataclass(frozen=True)
class UserPaths:
    """`config`: how the program is to look and its keys; `presets`: the user's own; `runs`: the list of
    runs; `cache`: what can be made again."""

    config: Path
    presets: Path
    runs: Path
    cache: Path

    @classmethod
    def of_user(cls) -> UserPaths:
        """The folders of the person at the terminal; none is created."""
        return cls(
            config=platformdirs.user_config_path(APP),
            presets=platformdirs.user_config_path(APP) / "presets",
            runs=platformdirs.user_state_path(APP) / "runs",
            cache=platformdirs.user_cache_path(APP),
        )

    @classmethod
    def under(cls, root: Path) -> UserPaths:
        """All of them under one folder, as the demo with --dir and the tests want it."""
        return cls(config=root / "config", presets=root / "presets", runs=root / "runs", cache=root / "cache")
