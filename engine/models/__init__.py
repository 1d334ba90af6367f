"""The models: one forward for each version of RWKV."""

from __future__ import annotations

from engine.models.build import load_model

__all__ = ["load_model"]
