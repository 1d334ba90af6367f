"""A process that tells a run as the engine would: `python fake_engine.py PROJ_DIR NAME STEPS SECONDS`.

It takes SECONDS for each step and, asked by SIGTERM, finishes the step, saves and ends with 130.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).parents[2]


def start(folder: Path, name: str, steps: int, seconds: float) -> subprocess.Popen[bytes]:
    """Starts it in a session of its own, as the launcher does with the engine."""
    words = [sys.executable, __file__, str(folder), name, str(steps), str(seconds)]
    return subprocess.Popen(words, cwd=ROOT, start_new_session=True)


def main(folder: Path, name: str, steps: int, seconds: float) -> int:
    sys.path.insert(0, str(ROOT))
    from engine.contract import events as ev
    from engine.contract.process import Process
    from tests.fakes import stories

    asked: list[int] = []

    def stop(signum: int, frame: FrameType | None) -> None:
        asked.append(signum)

    signal.signal(signal.SIGTERM, stop)
    run = stories.new_run(folder, name, Process.current())
    stories.tell(run, stories.opening(epochs=1, epoch_steps=steps))
    for step in range(1, steps + 1):
        time.sleep(seconds)
        told = stories.stepping(folder, step, step, epochs=1, epoch_steps=steps)
        stories.tell(run, told)
        if asked:
            (folder / "rwkv-0.pth").write_bytes(b"state")
            stories.tell(run, [
                ev.Log(text=f"asked to stop: step {step} is finished, saving"),
                ev.Checkpoint(path=str(folder / "rwkv-0.pth"), epoch=0, step=step),
                ev.Finished(status="stopped", step=step, seconds=step * seconds),
            ])  # fmt: skip
            return 130
    stories.tell(run, stories.ending(folder, steps=steps, files=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
