"""The machines of one run tell each other that they live, and which process failed.

Only their parents talk (engine.train.ranks), which do nothing but watch: a machine that says nothing is
off, cut off or stopped, however long a step of the training takes. Machine 0 listens beside the port where
the ranks meet; each of the others connects to it. What they say are lines: "node N" at first, then an
empty one every BEAT seconds; at the end how a process failed, as an event, or "bye".
"""

from __future__ import annotations

import socket
import time
from contextlib import suppress

from engine.contract import events
from engine.contract.errors import UserError
from engine.contract.i18n import _
from engine.contract.settings import TrainSettings

BEAT = 2.0  # seconds
SILENCE = 20.0  # seconds after which a machine that has been there is given up
LONGEST = 1 << 20  # bytes of a line


class Machines:
    """This machine's view of the others. Raises UserError on machine 0 where its port cannot be had."""

    def __init__(self, settings: TrainSettings) -> None:
        self._node, self._count = settings.node_rank, settings.num_nodes
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
                      port=self._meeting[1], error=error.strerror),
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
            if beat:
                peer.say("")
            if failure is None and peer.node is not None and not peer.left:
                failure = self._loss(peer, now)
            self._failure = self._failure or failure
            if peer.closed:
                self._peers.remove(peer)
                self._over |= peer.node == 0
        return self._failure

    def wait(self, seconds: float) -> events.Failed | None:
        """`news` that may still be on its way."""
        deadline = time.monotonic() + seconds
        while self.news() is None and self._peers and time.monotonic() < deadline:
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
                self._peers[0].say(f"node {self._node}")

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
    """A connection. `node` is None until it has said which machine it is, `left` that its run is over."""

    def __init__(self, connection: socket.socket, now: float, node: int | None = None) -> None:
        connection.setblocking(False)
        self._connection, self._line = connection, b""
        self.node, self.heard = node, now
        self.address = str(connection.getpeername()[0])
        self.left = self.closed = False

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
            word, _sep, number = line.partition(b" ")
            if word == b"node" and self.node is None and number.isdigit():
                self.node = int(number)
            elif line == b"bye":
                self.left = True
            elif self.node is not None and isinstance(event := events.parse_event(line), events.Failed):
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
