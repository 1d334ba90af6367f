"""The machines of one run wait for each other, tell each other that they live, who was asked to stop, and
which process failed.

Only their parents talk (engine.train.ranks), which do nothing but watch: a machine that says nothing is
off, cut off or stopped, however long a step of the training takes. Machine 0 listens beside the port where
the ranks meet; each of the others connects to it. What they say are lines: "node N SETTINGS" at first,
"begin" once all are there, an empty one every BEAT seconds, "stop" when one was asked to; at the end how a
process failed, as an event, or "bye". Machine 0 hands on what all must know.
"""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from engine.contract import events
from engine.contract.errors import UserError
from engine.contract.i18n import _, p_
from engine.contract.settings import TrainSettings

BEAT = 2.0  # seconds
SILENCE = 20.0  # seconds after which a machine that has been there is given up
LONGEST = 1 << 20  # bytes of a line
OWN = {"node_rank", "main_address", "on_finish", "wandb"}
"""Parameters that each machine may have for itself, besides paths."""


class Machines:
    """This machine's view of the others. `begun`: all are there; `stopping`: one of them was asked to stop.

    Raises UserError on machine 0 where its port cannot be had.
    """

    def __init__(self, settings: TrainSettings) -> None:
        self._node, self._count = settings.node_rank, settings.num_nodes
        own = OWN | {name for name, value in settings if isinstance(value, Path)}
        self._shared = settings.model_dump(mode="json", exclude=own)
        self.begun, self.stopping = self._count == 1, False
        self._meeting = settings.main_address, settings.main_port + 1
        self._peers: list[_Peer] = []
        self._listener: socket.socket | None = None
        self._tried = self._told = 0.0
        self._failure: events.Failed | None = None
        self._over = self._count == 1
        if self._count > 1 and self._node == 0:
            try:
                self._listener = socket.create_server(("", self._meeting[1]), backlog=self._count)
            except OSError as error:
                raise UserError(
                    _("Cannot listen on port {port}, where the run's machines hear of each other ({error}).",
                      port=self._meeting[1], error=os.strerror(error.errno or 0)),
                    _("Choose another main_port, the same on all: it and the next one must be free."),
                ) from error  # fmt: skip
            self._listener.setblocking(False)

    def news(self) -> events.Failed | None:
        """Listens and says that this machine lives; gives how the run has failed on another one. To be called
        several times a second."""
        now = time.monotonic()
        self._meet(now)
        beat = now - self._told >= BEAT
        self._told = now if beat else self._told
        for peer in list(self._peers):
            failure = peer.listen(now)
            if peer.hello:
                self._greet(peer)
            self.begun |= peer.begun
            if peer.stopping:
                self.stop()
            if beat:
                peer.say("")
            if failure is None and peer.node is not None and not peer.left:
                failure = self._loss(peer, now)
            self._failure = self._failure or failure
            if peer.closed:
                self._peers.remove(peer)
                self._over |= peer.node == 0
        if not self.begun and self._node == 0 and self.here == self._count:
            self.begun = True
            self._tell("begin")
        return self._failure

    @property
    def here(self) -> int:
        """How many are known to be there, with this one."""
        return 1 + sum(peer.node is not None for peer in self._peers)

    @property
    def waits_for(self) -> str:
        """What this one waits for until all are there."""
        address, port = self._meeting
        if self._node and not self._peers:
            return _("waiting for machine 0 at {address}, port {port}", address=address, port=port)
        if self._node:
            return _("waiting for further machines, as machine 0 does")
        return _(
            "waiting for the other machines: {here} of {count} are there; they reach this one at {address}, "
            "ports {port} and {next}",
            here=self.here, count=self._count, address=address, port=port - 1, next=port,
        )  # fmt: skip

    def stop(self) -> None:
        """Tells the others, once, that the run is to stop."""
        if not self.stopping:
            self.stopping = True
            self._tell("stop")

    def _tell(self, line: str) -> None:
        for peer in self._peers:
            if peer.node is not None:
                peer.say(line)

    def _greet(self, peer: _Peer) -> None:
        """Takes in who says which machine it is, or tells it why not. The run does not suffer from it."""
        node, shared = peer.hello or (0, {})
        peer.hello, refused = None, None
        others = {other.node: other for other in self._peers}
        wrong = [name for name, value in self._shared.items() if shared.get(name, value) != value]
        if node in others or not 0 < node < self._count:
            address = others[node].address if node in others else self._meeting[0]
            refused = events.Failed(
                reason=_("There is a machine {node} already, {address}.", node=node, address=address),
                remedy=_("Give each machine a node_rank of its own, from 0 to {last}.", last=self._count - 1),
            )
        elif wrong:
            said = p_("list", "; ").join(
                _("{name} {theirs} here, {ours} on machine 0", name=name, theirs=shared[name],
                  ours=self._shared[name]) for name in wrong
            )  # fmt: skip
            refused = events.Failed(
                reason=_("This machine has other settings than machine 0: {said}.", said=said),
                remedy=_("Give the same command on all; only node_rank and paths may differ."),
            )
        if refused is None:
            peer.node = node
            return
        peer.say(events.dump_event(refused).rstrip())
        peer.close()

    def wait(self, seconds: float) -> events.Failed | None:
        """`news` that may still be on its way, or a stop."""
        deadline = time.monotonic() + seconds
        while self.news() is None and not self.stopping and self._peers and time.monotonic() < deadline:
            time.sleep(0.1)
        return self._failure

    def leave(self, failure: events.Failed | None = None) -> None:
        """Tells the others how a process failed here, or that all went as it should."""
        if failure and not self._failure:  # what came from another one says so already
            where = _("On machine {node}: {reason}", node=self._node, reason=failure.reason)
            failure = failure.model_copy(update={"reason": where})
        for peer in self._peers:
            peer.listen(time.monotonic())  # what is left unread would break the connection under our words
            peer.say(events.dump_event(failure).rstrip() if failure else "bye")
            peer.close()
        if self._listener:
            self._listener.close()

    def _meet(self, now: float) -> None:
        if self._listener:
            with suppress(BlockingIOError):
                while len(self._peers) < 2 * self._count:  # a stranger's connection is none of a machine
                    self._peers.append(_Peer(self._listener.accept()[0], now))
        elif not self._over and not self._peers and now - self._tried >= BEAT:
            self._tried = now
            with suppress(OSError):  # it is not there yet
                connection = socket.create_connection(self._meeting, timeout=1)
                self._peers = [_Peer(connection, now, node=0)]
                self._peers[0].say(f"node {self._node} {json.dumps(self._shared)}")

    def _loss(self, peer: _Peer, now: float) -> events.Failed | None:
        where = {"node": peer.node, "count": self._count, "address": peer.address}
        if peer.closed:
            reason = _(
                "The run on machine {node} of {count} ({address}) has ended without a word: killed, or the "
                "machine was restarted.", **where,
            )  # fmt: skip
        elif now - peer.heard > SILENCE:
            reason = _(
                "Machine {node} of {count} ({address}) has said nothing for {seconds:.0f} s: it is off, cut "
                "off or stopped.", seconds=SILENCE, **where,
            )  # fmt: skip
        else:
            return None
        remedy = _("`rwkv-tune resume` on every machine goes on from the last saved step.")
        return events.Failed(reason=reason, remedy=remedy)


class _Peer:
    """A connection. `hello` is what it said about itself and nobody has judged yet, `node` which machine it
    is after that; `left` that its run is over."""

    def __init__(self, connection: socket.socket, now: float, node: int | None = None) -> None:
        connection.setblocking(False)
        self._connection, self._line = connection, b""
        self.node, self.heard = node, now
        self.address = str(connection.getpeername()[0])
        self.hello: tuple[int, dict[str, object]] | None = None
        self.left = self.closed = self.begun = self.stopping = False

    def listen(self, now: float) -> events.Failed | None:
        """Takes what has come; gives how a process failed there if that was among it."""
        try:
            while data := self._connection.recv(1 << 16):
                self._line += data
                self.heard = now
            self.closed = True
        except BlockingIOError:
            pass
        except OSError:
            self.closed = True
        *lines, self._line = self._line.split(b"\n")
        for line in lines:
            if self.node is None:
                self.hello = self.hello or _hello(line)
            elif line == b"bye":
                self.left = True
            elif line in (b"begin", b"stop"):
                self.begun, self.stopping = self.begun or line == b"begin", self.stopping or line == b"stop"
            elif isinstance(event := events.parse_event(line), events.Failed):
                self.left = True
                return event
        if len(self._line) > LONGEST:
            self.close()
        return None

    def say(self, line: str) -> None:
        """As far as it can be said in a second: whoever does not listen is silent, too."""
        with suppress(OSError):
            self._connection.settimeout(1)
            self._connection.sendall(line.encode() + b"\n")
            self._connection.setblocking(False)

    def close(self) -> None:
        self.closed = True
        self._connection.close()


def _hello(line: bytes) -> tuple[int, dict[str, object]] | None:
    """Which machine, with which settings; None where this is no such line."""
    word, _sep, rest = line.partition(b" ")
    number, _sep, told = rest.partition(b" ")
    try:
        shared = json.loads(told)
    except (ValueError, RecursionError):
        return None
    known = word == b"node" and number.isdigit() and isinstance(shared, dict)
    return (int(number[:9]), shared) if known else None
