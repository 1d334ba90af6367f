"""Several machines train as one, on loopback: each has a proj_dir and processes of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.contract import events
from engine.contract.process import Process
from engine.contract.rundir import RunDir
from engine.contract.settings import TrainSettings
from engine.train.machines import Machines
from tests.train.several.conftest import (
    SOAK,
    Making,
    children,
    forge,
    of,
    read,
    same,
    start,
    train,
    wait_for,
)


@pytest.fixture
def nodes(make: Making) -> Callable[..., list[RunDir]]:
    """Two machines on loopback; each has a proj_dir of its own."""

    def make_both(**more: Any) -> list[RunDir]:
        port = 0
        while not port:
            with socket.socket() as free, socket.socket() as next_one:
                free.bind(("", 0))
                with contextlib.suppress(OSError):
                    next_one.bind(("", free.getsockname()[1] + 1))
                    port = free.getsockname()[1]
        meeting = {"num_nodes": 2, "main_address": "127.0.0.1", "main_port": port}
        return [make(node_rank=node, **meeting, **more) for node in range(2)]

    return make_both


def test_two_machines_on_loopback(nodes: Callable[..., list[RunDir]], alone: Callable[..., RunDir]) -> None:
    """The whole result is in each one's proj_dir."""
    runs = nodes()
    processes = [start(run) for run in runs]
    try:
        assert [p.wait(timeout=120) for p in processes] == [0, 0], runs[0].log.read_text()[-3000:]
    finally:
        for process in processes:
            process.kill()
    for run in runs:
        same(run, alone())


def test_a_machine_alone_says_that_it_waits_and_can_be_stopped(nodes: Callable[..., list[RunDir]]) -> None:
    run = nodes()[0]
    process = forge(run)
    try:
        wait_for(lambda: bool(of(events.Log, run)), process, run)
        assert "1 of 2 are there; they reach this one at 127.0.0.1, ports" in of(events.Log, run)[0].text
        assert not children(process.pid)
        process.terminate()
        assert process.wait(timeout=10) == 130
    finally:
        process.kill()
    end = read(run)[-1]
    assert isinstance(end, events.Finished) and (end.status, end.step) == ("stopped", 0)


@pytest.mark.parametrize("stopped", [0, pytest.param(1, marks=SOAK)])
def test_a_stop_while_machine_0_loads_stops_all(stopped: int, nodes: Callable[..., list[RunDir]]) -> None:
    """The others wait for it meanwhile, where they cannot be asked."""
    runs = nodes()
    (runs[0].path / "sitecustomize.py").write_text(
        "import time\n"
        "import engine.train.prepare as prepare\n"
        "right = prepare.load_model\n"
        "prepare.load_model = lambda *given, **more: time.sleep(1.5) or right(*given, **more)\n"
    )
    processes = [forge(run, PYTHONPATH=str(runs[0].path)) for run in runs]
    try:
        loading = "loading the model"
        wait_for(lambda: any(e.phase == loading for e in of(events.Progress, runs[0])), processes[0], runs[0])
        processes[stopped].terminate()
        assert [p.wait(timeout=30) for p in processes] == [130, 130], runs[1].log.read_text()[-3000:]
    finally:
        for process in processes:
            process.kill()
    for run in runs:
        end = read(run)[-1]
        assert isinstance(end, events.Finished) and (end.status, end.step) == ("stopped", 0)


@pytest.mark.parametrize(
    "way",
    [
        "a rank is killed", "a machine is silent", pytest.param("the first rank is killed", marks=SOAK),
        pytest.param("cut off", marks=SOAK),
    ],
)  # fmt: skip
def test_what_ends_one_machine_is_told_on_the_other(way: str, nodes: Callable[..., list[RunDir]]) -> None:
    """A machine that is stopped says nothing and breaks no connection, as one without power."""
    runs = nodes(epoch_steps=100_000, sample_len=0, val_split=0)
    if way == "a machine is silent":
        quick = "import engine.train.machines as machines; machines.SILENCE, machines.BEAT = 3.0, 0.5"
        (runs[0].path / "sitecustomize.py").write_text(quick)
    processes = [forge(run, PYTHONPATH=str(runs[0].path)) for run in runs]
    wait_for(lambda: len(of(events.Step, runs[0])) >= 2, processes[0], runs[0])
    ranks = [Process.of(children(process.pid)[0]) for process in processes]
    survivor, lost = (1, 0) if way == "the first rank is killed" else (0, 1)
    if "killed" in way:
        os.kill(ranks[lost].pid, signal.SIGKILL)
    elif way == "cut off":
        processes[1].kill()
    else:
        os.killpg(processes[1].pid, signal.SIGSTOP)
    began = time.monotonic()
    try:
        assert processes[survivor].wait(timeout=30) == 1
        print(f"the other machine's run ended {time.monotonic() - began:.1f} s later")
        assert not ranks[survivor].alive()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(processes[1].pid, signal.SIGKILL)
    end = read(runs[survivor])[-1]
    assert isinstance(end, events.Failed) and "resume" in end.remedy
    if "killed" in way:
        assert end.reason.startswith(f"On machine {lost}: Process {lost} of 2 (rank {lost}, pid ")
        assert "was killed by SIGKILL" in end.reason and processes[lost].wait(timeout=30) == 1
        told = read(runs[lost])[-1]
        assert isinstance(told, events.Failed) and end.reason == f"On machine {lost}: {told.reason}"
    else:
        assert "achine 1 of 2 (127.0.0.1) has " in end.reason
        assert ("said nothing for 3 s" if way == "a machine is silent" else "without a word") in end.reason


def test_the_machines_need_a_port_beside_the_meeting(nodes: Callable[..., list[RunDir]]) -> None:
    run = nodes()[0]
    port = run.read_settings().main_port + 1
    with socket.create_server(("", port)), socket.socket():
        assert train(run) == 1
    end = read(run)[-1]
    assert isinstance(end, events.Failed) and f"port {port}" in end.reason and "main_port" in end.remedy


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            {"node_rank": 1, "lr_init": 0.5, "load_model": Path("elsewhere")},
            "lr_init 0.5 here, 1.0 on machine 0",
        ),
        ({"node_rank": 2}, "There is a machine 2 already, 127.0.0.1."),
    ],
)
def test_who_is_wrong_is_told_so_and_the_others_wait_on(other: dict[str, Any], said: str) -> None:
    shared = {"num_nodes": 3, "main_address": "127.0.0.1", "main_port": free_port() - 1}
    right = [Machines(TrainSettings(**shared, node_rank=node)) for node in (0, 2)]
    everyone(right, lambda: right[0].here == 2)
    wrong = Machines(TrainSettings(**{**shared, **other}))
    everyone([*right, wrong], lambda: wrong.news() is not None)
    told = wrong.news()
    assert told is not None and said in told.reason and told.remedy
    assert not any(m.begun or m.news() for m in right)
    last = Machines(TrainSettings(**shared, node_rank=1))
    everyone([*right, last], lambda: all(m.begun for m in [*right, last]))
    last.stop()
    everyone([*right, last], lambda: all(m.stopping for m in right))
    for machine in (last, *right):
        machine.leave()


def everyone(machines: list[Machines], true: Callable[[], bool]) -> None:
    """Lets them talk until it is true."""
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        for machine in machines:
            machine.news()
        time.sleep(0.01)


def test_strangers_and_noise_are_no_machines() -> None:
    port = free_port()
    first = Machines(TrainSettings(num_nodes=2, main_address="127.0.0.1", main_port=port - 1))
    strangers = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
    failed = events.dump_event(events.Failed(reason="forged")).encode()
    for stranger, words in zip(strangers, (b"GET / HTTP/1.1\r\n", failed, b"x" * (2 << 20)), strict=True):
        with contextlib.suppress(OSError):
            stranger.setblocking(False)
            stranger.sendall(words)
    for _ in range(20):
        assert first.news() is None
        time.sleep(0.01)
    for stranger in strangers:
        stranger.close()
    assert first.news() is None
    second = Machines(TrainSettings(num_nodes=2, node_rank=1, main_address="127.0.0.1", main_port=port - 1))
    assert second.news() is None and first.news() is None
    second.leave(events.Failed(reason="it broke", detail="y" * 100_000))
    told = first.wait(5)
    assert told is not None and told.reason == "On machine 1: it broke" and len(told.detail) == 100_000
    first.leave()
