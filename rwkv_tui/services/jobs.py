"""Short engine jobs as subprocesses: one document, or a stream of events. No widgets in here."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import IO

from engine.contract.errors import UserError
from engine.contract.events import Event, Failed, parse_event
from engine.contract.i18n import _
from rwkv_tui.services.engine import engine_command, engine_environment

GRACE = 5.0
"""Seconds a cancelled job has to clean up before it is killed."""
LINE = 1 << 22
"""Bytes that one line of a job may have."""


@asynccontextmanager
async def _process(
    job: str, args: Sequence[str], errors: IO[bytes], stdin: int = asyncio.subprocess.DEVNULL
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The running job, its stderr going to `errors`; who leaves early, by an error or a cancel, ends it."""
    process = await asyncio.create_subprocess_exec(
        *engine_command(job, *args), cwd="/", env=engine_environment(), start_new_session=True, limit=LINE,
        stdin=stdin, stdout=asyncio.subprocess.PIPE, stderr=errors,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            ending = asyncio.ensure_future(_end(process))
            while (
                not ending.done()
            ):  # a second cancel must not leave it half ended; _end takes 2 * GRACE at most
                with suppress(asyncio.CancelledError):
                    await asyncio.shield(ending)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Waits for a job that was asked to end and for its last output, and kills it when it takes too long."""
    try:
        await asyncio.wait_for(process.communicate(), GRACE)
    except asyncio.TimeoutError:
        process.kill()
        await process.communicate()


async def document(job: str, *args: str) -> str:
    """What a job prints on stdout. Raises UserError with its reason when it fails."""
    with tempfile.TemporaryFile() as errors:
        async with _process(job, args, errors) as process:
            out, _ = await process.communicate()
        if process.returncode:
            raise UserError(reason(errors, process.returncode))
    return out.decode("utf-8", "replace")


async def events(job: str, *args: str) -> AsyncGenerator[Event, None]:
    """What a job tells, line by line. A job that dies without a word ends with a Failed of our own."""
    with tempfile.TemporaryFile() as errors:
        async with _process(job, args, errors) as process:
            async for event in _told(process, errors):
                yield event


class Dialogue:
    """A job that answers what it is sent."""

    def __init__(self, process: asyncio.subprocess.Process, errors: IO[bytes]) -> None:
        self._process = process
        self.events = _told(process, errors)

    def send(self, line: str) -> None:
        """Sends a line; a job that has ended does not mind, for `events` say so."""
        if self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(line.encode("utf-8", "replace") + b"\n")


@asynccontextmanager
async def dialogue(job: str, *args: str) -> AsyncIterator[Dialogue]:
    """Starts a job that goes on until one leaves it."""
    with tempfile.TemporaryFile() as errors:
        async with _process(job, args, errors, asyncio.subprocess.PIPE) as process:
            yield Dialogue(process, errors)


async def _told(process: asyncio.subprocess.Process, errors: IO[bytes]) -> AsyncGenerator[Event, None]:
    failed = False
    assert process.stdout is not None
    async for line in process.stdout:
        event = parse_event(line)
        if event is not None:
            failed = failed or isinstance(event, Failed)
            yield event
    code = await process.wait()
    if code and not failed:
        yield Failed(reason=reason(errors, code))


def reason(errors: IO[bytes], code: int) -> str:
    """The last words of a job that has ended with `code`, of all it wrote to stderr, or how it ended."""
    errors.seek(0)
    lines = errors.read().decode("utf-8", "replace").strip().splitlines()
    if not lines:
        return _("The engine ended without a word (status {code}).", code=code)
    return lines[-1].removeprefix("rwkv-tune: ")
