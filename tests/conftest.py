"""What tests share: a small model and data set, a home of their own, and commands as a person runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

PAIRS = [
    ("What colour is the sky?", "The sky is blue 💙"),
    ("你好吗？", "我很好，谢谢 😊"),
    ("Name a fruit.", "An apple 🍎 is a fruit."),
    ("How are you?", "Fine, thank you!"),
]

# The suite finds the same examples every time; `--hypothesis-profile default` looks for new ones.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")

# Two workers share the cores; more threads would only wait for each other. Children inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["LANGUAGE"] = "en"  # whatever the locale of whoever runs the tests
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # where they run in the background; children heed it
    signal.signal(signal.SIGINT, signal.default_int_handler)


LONGEST = (
    "test_looks.py", "test_run.py", "test_methods.py", "test_resume.py", "test_ranks.py",
    "test_machines.py",
)  # fmt: skip
"""Files that take long. They come first: of two workers, one that began them last would end them alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--snapshot-update", action="store_true", help="keep how screens look now")


Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 2-layer x070 model whose output is not trivial."""
    import torch

    from engine.checkpoints.save import save_tensors
    from engine.models.init import init_model

    tensors = init_model("x070", n_layer=2, n_embd=64, vocab_size=65536, seed=1)
    generator = torch.Generator().manual_seed(2)
    for tensor in tensors.values():
        tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    path = tmp_path_factory.mktemp("model") / "tiny.pth"
    save_tensors(tensors, path)
    return path


@pytest.fixture(scope="session")
def tiny_jsonl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve documents of questions and answers."""
    path = tmp_path_factory.mktemp("jsonl") / "pairs.jsonl"
    lines = [json.dumps({"text": f"User: {q}\n\nAssistant: {a}"}, ensure_ascii=False) for q, a in PAIRS * 3]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_data(tiny_jsonl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a binidx pair."""
    from engine.data.convert import convert

    prefix = tmp_path_factory.mktemp("data") / "pairs"
    convert(tiny_jsonl, prefix, repeat=2, ctx_len=16)
    return prefix


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of the test's own, for this process and its children."""
    home = tmp_path / "home"
    home.mkdir()
    for name in [n for n in os.environ if n.startswith("XDG_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    return home


@pytest.fixture
def rwkv_tune(home: Path, tmp_path: Path) -> Command:
    """Runs `rwkv-tune ARGUMENTS` in the test's folder, with `typed` to read; returns the finished process."""

    def run(*arguments: object, timeout: float = 120, typed: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "rwkv_tui", *map(str, arguments)], cwd=tmp_path, timeout=timeout,
            input=typed, capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch with a single thread, which waits for no other: on busy cores several take many times as long."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
