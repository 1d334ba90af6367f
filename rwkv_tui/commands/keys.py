"""`rwkv-tune keys`: every key with what it does, as a file of one's own would say it."""

from __future__ import annotations

import argparse

from engine.contract.errors import UserError
from engine.contract.i18n import _
from engine.contract.paths import UserPaths
from engine.contract.plain import say
from rwkv_tui.services.preferences import keys_file, read_keys


def show(args: argparse.Namespace) -> int:
    """Prints all of them; raises UserError when the file of one's own holds what cannot be meant."""
    from rwkv_tui.keys import listing, mistakes

    folder = UserPaths.of_user().config
    keys = read_keys(folder)
    if wrong := mistakes(keys):
        raise UserError(f"{keys_file(folder)}: {wrong[0]}.")
    say(_("# Keys of one's own are lines like these in {path}", path=keys_file(folder)))
    say(listing(keys))
    return 0
