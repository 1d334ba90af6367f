"""`rwkv-tune chat` without screens, as a pipe and as a person use it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import Command
from tests.fakes.terminal import Terminal

GREEDY = ("--top-p", "0", "--frequency", "0", "--length", "6")


def test_each_line_is_answered_as_part_of_one_conversation(tiny_model: Path, rwkv_tune: Command) -> None:
    flags = ("chat", "--model", tiny_model, *GREEDY)
    both, alone = (rwkv_tune(*flags, typed=typed) for typed in ("Hi\n\nAnd?\n", "And?\n"))
    assert both.returncode == alone.returncode == 0
    assert both.stderr == alone.stderr == ""
    assert len(both.stdout.splitlines()) >= 2
    assert both.stdout.splitlines()[-1] != alone.stdout.splitlines()[-1]


def test_bytes_that_are_no_text_are_asked_as_such(tiny_model: Path, home: Path) -> None:
    words = (sys.executable, "-m", "rwkv_tui", "chat", "--model", str(tiny_model), *GREEDY)
    done = subprocess.run(words, input=b"\xff\xfe\n", capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, b"") and done.stdout.strip()


def test_what_cannot_be_talked_to_is_said_in_a_line(
    tmp_path: Path, tiny_model: Path, rwkv_tune: Command
) -> None:
    for flags, words in (
        (("--model", tmp_path / "no.pth"), "There is no file"),
        (("--state", tiny_model), "Name it with --model"),
        (("--model", tiny_model, "--state", tiny_model), "is not a state file"),
        (("--model", tiny_model, "--temperature", "-1"), "--temperature -1.0 is out of range"),
        (("nobody",), "no run"),
    ):
        done = rwkv_tune("chat", *flags, typed="Hi\n")
        assert (done.returncode, done.stdout) == (1, ""), done.stdout
        assert words in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_ctrl_c_ends_the_answer_and_then_the_conversation(tiny_model: Path, home: Path) -> None:
    flags = ("--plain", "--model", tiny_model, "--length", "1000000", "--top-p", "1")
    terminal = Terminal((sys.executable, "-m", "rwkv_tui", "chat", *flags))
    try:
        terminal.sees("> ")
        terminal.keys("Hi\r")
        terminal.sees("Hi\r\n")
        while len(terminal.text.partition("Hi\r\n")[2]) < 30:
            time.sleep(0.02)  # until it speaks; it would go on for ever
        terminal.process.send_signal(signal.SIGINT)
        terminal.sees("\r\n> ")
        terminal.rests()
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.wait() == 130
    finally:
        terminal.end()
