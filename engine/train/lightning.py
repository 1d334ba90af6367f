"""Lightning, imported without `transformers`: its metrics would load that, which no run needs (0.8 s).

Every module that uses Lightning has `pl` from here.
"""

from __future__ import annotations

import sys
import warnings
from types import ModuleType

from engine.packages import importing

__all__ = ["pl"]


class _StandIn(ModuleType):
    """Has whatever one imports from it; torchmetrics asks for two names and uses them when called."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


# Its own use of a torch function that will change: nothing that a person could mend.
warnings.filterwarnings("ignore", category=FutureWarning, module="pytorch_lightning")

if "transformers" in sys.modules:
    import pytorch_lightning as pl
else:
    sys.modules["transformers"] = _StandIn("transformers")
    try:
        with importing():
            import pytorch_lightning as pl
    finally:
        del sys.modules["transformers"]
