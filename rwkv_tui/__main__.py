"""`python -m rwkv_tui` is `rwkv-tune`."""

from __future__ import annotations

import sys

from rwkv_tui.cli import main

sys.exit(main())
