"""Whatever happens to a terminal, a connection or the program that watches: the run goes on."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from engine.contract import events as ev
from engine.contract.process import Process
from engine.contract.rundir import RunDir
from rwkv_tui.services.run_tail import RunTail
from rwkv_tui.services.runs import stop_run, summarise
from tests.fakes import stories
from tests.fakes.terminal import Terminal

PROGRAM = (sys.executable, "-m", "rwkv_tui")
ROOT = Path(__file__).parents[2]
LONG = (
    "--ctx_len=16", "--epoch_steps=100000", "--epoch_count=1", "--eval_docs=0", "--sample_len=0",
    "--precision=fp32", "--accelerator=cpu", "--grad_cp=0",
)  # fmt: skip


def steps_of(run: RunDir) -> list[int]:
    return [event.step for event in RunTail(run).poll() if isinstance(event, ev.Step)]


def wait_until(true: Callable[[], object], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def steps_on(run: RunDir, count: int = 20) -> None:
    """The run takes `count` more steps."""
    begun = len(steps_of(run))
    wait_until(lambda: len(steps_of(run)) >= begun + count)


def whole(run: RunDir) -> None:
    """Stops it, and finds that no step is missing and only one process has trained."""
    stop_run(run)
    wait_until(lambda: summarise("", run).status == "stopped")
    told = RunTail(run).poll()
    steps = [event.step for event in told if isinstance(event, ev.Step)]
    assert steps == list(range(1, len(steps) + 1))
    assert sum(isinstance(event, ev.Started) for event in told) == 1
    owner = run.owner()
    assert owner is not None
    wait_until(lambda: not owner.alive())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Whatever a test has left running in it ends with the module."""
    folder = tmp_path_factory.mktemp("survival")
    yield folder
    for record in folder.glob("*/run.json"):
        if (owner := RunDir(record.parent).owner()) is not None:
            owner.kill()
    for name in ("tmux", "watching"):
        if (folder / "home" / name).is_socket():
            server = ["tmux", "-S", str(folder / "home" / name), "kill-server"]
            subprocess.run(server, check=False, capture_output=True)


@pytest.fixture(scope="module")
def home(folder: Path) -> Iterator[Path]:
    """One home for the module: its tests watch the same run."""
    home = folder / "home"
    home.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("XDG_")]:
            patch.delenv(name)
        patch.setenv("HOME", str(home))
        yield home


@pytest.fixture(scope="module")
def train(tiny_model: Path, tiny_data: Path) -> tuple[str, ...]:
    """The command, but for its --proj_dir."""
    return (*PROGRAM, "train", f"--load_model={tiny_model}", f"--data_file={tiny_data}", *LONG)


@pytest.fixture(scope="module")
def run(home: Path, folder: Path, train: tuple[str, ...]) -> RunDir:
    """A run whose terminal was closed under the program that had started it."""
    run = RunDir(folder / "long run 长")
    terminal = Terminal([*train, f"--proj_dir={run.path}"])
    wait_until(lambda: run.events.exists() and steps_of(run))
    terminal.hang_up()
    terminal.wait()
    return run


def test_a_run_belongs_to_no_terminal(run: RunDir) -> None:
    steps_on(run)
    owner = run.owner()
    assert owner is not None
    fields = Path(f"/proc/{owner.pid}/stat").read_text().rpartition(")")[2].split()
    group, session, terminal = map(int, fields[2:5])
    assert (group, session, terminal) == (owner.pid, owner.pid, 0)
    files = [Path(f"/proc/{owner.pid}/fd/{number}").readlink() for number in range(3)]
    assert files == [Path("/dev/null"), run.log, run.log]
    os.kill(owner.pid, signal.SIGHUP)  # even when it is meant
    steps_on(run)


@pytest.mark.parametrize("way", ["SIGHUP", "SIGKILL", "closed"])
@pytest.mark.parametrize("plain", [False, True])
def test_the_run_goes_on_without_its_viewer(way: str, plain: bool, run: RunDir) -> None:
    viewer = Terminal([*PROGRAM, "attach", "long", *(["--plain"] if plain else [])])
    viewer.sees("100,000")
    if way == "closed":
        viewer.hang_up()
    else:
        viewer.process.send_signal(signal.Signals[way])
    viewer.wait()
    steps_on(run)


def test_the_viewer_ends_with_its_terminal_when_no_signal_says_so(run: RunDir) -> None:
    viewer = Terminal([*PROGRAM, "attach", "long"], nohup=True)
    viewer.sees("100,000")
    viewer.hang_up()
    assert viewer.wait(20) == 0  # it would read the end of the terminal's input for ever
    steps_on(run)


def test_ctrl_c_only_ends_the_watching(run: RunDir) -> None:
    terminals = [Terminal([*PROGRAM, "attach", "--plain"]) for _ in range(2)]  # two at once
    for terminal in terminals:
        terminal.sees("100,000")
    terminals[0].keys("\x03")
    assert terminals[0].wait() == 130 and "The run goes on" in terminals[0].text
    steps_on(run)
    assert terminals[1].process.poll() is None
    terminals[1].end()


def test_it_has_lost_no_step_and_who_still_watches_is_told(run: RunDir, home: Path) -> None:
    viewers = [Terminal([*PROGRAM, "attach", *more]) for more in ((), ("--plain",))]
    if shutil.which("tmux"):
        (home / "tmux.conf").write_text("set -g allow-passthrough on\n")
        words = ["tmux", "-S", home / "watching", "-f", home / "tmux.conf", "new-session", "-c", ROOT]
        viewers.append(Terminal([*words, shlex.join([*PROGRAM, "attach"])]))
    for viewer in viewers:
        viewer.sees("100,000")
    whole(run)
    told = "\x1b]9;rwkv-tune: long-run-长 stopped\a".encode()
    wait_until(lambda: all(told in viewer.raw for viewer in viewers))
    assert all(b"\a" + told in viewer.raw for viewer in viewers[:2])
    assert viewers[1].wait() == 130
    for viewer in viewers:
        viewer.end()
    if len(viewers) > 2:
        subprocess.run(["tmux", "-S", home / "watching", "kill-server"], check=True)


def test_a_closed_tmux_pane(home: Path, folder: Path, train: tuple[str, ...]) -> None:
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    run = RunDir(folder / "in-tmux")
    tmux = ["tmux", "-S", str(home / "tmux"), "-f", "/dev/null"]
    command = shlex.join([*train, f"--proj_dir={run.path}"])
    subprocess.run([*tmux, "new-session", "-d", "-c", str(ROOT), command], check=True)
    wait_until(lambda: run.events.exists() and steps_of(run))
    (pane,) = subprocess.run(
        [*tmux, "list-panes", "-F", "#{pane_pid}"], check=True, capture_output=True, text=True
    ).stdout.split()
    subprocess.run([*tmux, "kill-pane"], check=True)
    wait_until(lambda: not psutil.pid_exists(int(pane)))
    steps_on(run)
    whole(run)


@pytest.fixture
def ssh(home: Path, tmp_path: Path) -> Iterator[list[str]]:
    """The words of a command that logs in on this machine, at a server of the test's own."""
    server = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if server is None or shutil.which("ssh") is None or os.geteuid():
        pytest.skip("there is no sshd here, or not the right to run one")
    for key in ("host", "mine"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / key], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    Path("/run/sshd").mkdir(exist_ok=True)
    options = (
        f"Port={port}", "ListenAddress=127.0.0.1", f"HostKey={tmp_path}/host", "StrictModes=no", "UsePAM=no",
        f"AuthorizedKeysFile={tmp_path}/mine.pub", "PidFile=none", "PermitRootLogin=yes", "PrintMotd=no",
    )  # fmt: skip
    words = [server, "-D", "-e", "-f", "/dev/null", *(w for o in options for w in ("-o", o))]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert "listening" in process.stderr.readline()
        yield [
            "ssh", "-tt", "-p", str(port), "-i", str(tmp_path / "mine"), "-o", "StrictHostKeyChecking=no",
            "-o", "UserKnownHostsFile=/dev/null", "-F", "/dev/null", f"{getpass.getuser()}@127.0.0.1",
        ]  # fmt: skip
    finally:
        process.terminate()
        process.communicate()


def test_a_killed_ssh(home: Path, folder: Path, train: tuple[str, ...], ssh: list[str]) -> None:
    """Killed on the far side, so that the connection breaks without a word."""
    run = RunDir(folder / "over-ssh")
    command = shlex.join(["env", f"HOME={home}", "OMP_NUM_THREADS=1", *train, f"--proj_dir={run.path}"])
    terminal = Terminal([*ssh, f"cd {shlex.quote(str(ROOT))} && exec {command}"])
    wait_until(lambda: terminal.process.poll() is not None or (run.events.exists() and steps_of(run)))
    assert terminal.process.poll() is None, terminal.text
    shown = [p for p in psutil.process_iter(["cmdline"]) if f"--proj_dir={run.path}" in p.info["cmdline"]]
    assert shown  # the program at the end of the connection
    terminal.end()
    psutil.wait_procs(shown, timeout=30)
    assert not any(p.is_running() for p in shown if "ssh" not in p.info["cmdline"][0])
    steps_on(run)
    whole(run)


def test_an_app_that_is_killed_after_the_launch(
    home: Path, folder: Path, tiny_model: Path, tiny_data: Path
) -> None:
    values = {
        "load_model": str(tiny_model), "data_file": str(tiny_data), "proj_dir": str(folder / "launched"),
        "ctx_len": 16, "epoch_steps": 100_000, "eval_docs": 0, "sample_len": 0, "precision": "fp32",
    }  # fmt: skip
    code = (
        "from rwkv_tui.app import TuneApp; from engine.contract.paths import UserPaths; "
        f"app = TuneApp(UserPaths.of_user(), draft={values!r}, start='wizard'); "
        "app.call_later(lambda: app.open_wizard('Review')); app.run()"
    )
    app, run = Terminal([sys.executable, "-c", code], cwd=ROOT), RunDir(folder / "launched")
    app.sees("rwkv-tune train")
    app.keys("\x1b[15~")  # F5
    wait_until(run.owner, 30)
    app.process.kill()
    app.wait()
    wait_until(lambda: run.events.exists() and steps_of(run))
    steps_on(run)
    whole(run)


def test_a_launcher_killed_at_once_leaves_a_run_that_says_who_it_is(
    home: Path, folder: Path, train: tuple[str, ...]
) -> None:
    """Killed before it could note the process it started: the run notes itself."""
    run = RunDir(folder / "unnoted")
    code = (
        "import os, signal; from engine.contract.rundir import RunDir; "
        "RunDir.record_process = lambda *_: os.kill(os.getpid(), signal.SIGKILL); "
        "import sys; from rwkv_tui.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", code, *train[3:], f"--proj_dir={run.path}", "--detach"]
    assert subprocess.run(words, cwd=ROOT, capture_output=True, check=False).returncode == -signal.SIGKILL
    assert run.owner() is None
    wait_until(lambda: run.events.exists() and steps_of(run))
    assert summarise("unnoted", run).status == "running"
    whole(run)


def test_a_long_run_is_there_within_a_second_of_an_empty_app(tmp_path: Path) -> None:
    """100,000 steps, all of them in the curves; in seconds of the processor, for others use it, too."""
    run = stories.new_run(tmp_path / "run", "big", stories.GONE)
    opening = stories.opening(epochs=100, epoch_steps=1000)
    stories.tell(run, opening)
    line = ev.dump_event(stories.stepping(tmp_path, 1, 1)[0])
    with run.events.open("a") as file:
        file.writelines(line.replace('"step":1,', f'"step":{n},') for n in range(1, 100_001))

    def seconds(home: Path, words: tuple[str, ...], *wanted: str) -> float:
        home.mkdir(exist_ok=True)
        terminal = Terminal([*PROGRAM, *words], cwd=ROOT, env={"HOME": str(home)})
        for text in wanted:
            terminal.sees(text)
        used = psutil.Process(terminal.process.pid).cpu_times()
        terminal.end()
        return float(used.user + used.system)

    empty = tmp_path / "empty"
    turns = [
        (
            seconds(empty, ("attach", str(run.path)), "100,000/100,000", "Learning rate"),
            seconds(empty, (), "Data"),
        )
        for _ in range(3)
    ]
    assert min(long for long, _ in turns) - min(first for _, first in turns) < 1.0  # 0.4 when measured


def test_processes_are_told_apart_by_their_start_and_the_machine_s() -> None:
    me = Process.current()
    assert me.alive() and not me.before_restart()
    assert not Process(me.pid, me.started + 1, me.boot).alive()  # the number was given to another
    before = Process(me.pid, me.started, "another boot")
    assert not before.alive() and before.before_restart()
    assert not before.interrupt() and not before.kill()
