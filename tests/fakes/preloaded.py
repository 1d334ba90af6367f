"""What an engine imports, which takes most of a short run's time; `forged` forks engines that have it."""

import os

os.environ["DS_ACCELERATOR"] = "cpu"  # as engine.train.strategy sets it, before DeepSpeed is imported

import deepspeed  # type: ignore[import-untyped]  # noqa: F401
import peft  # noqa: F401

import engine.__main__
import engine.data.convert
import engine.train.fit
import engine.train.run  # noqa: F401
