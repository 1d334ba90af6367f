from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from pathlib import Path

import pytest

from engine.contract.errors import UserError
from engine.contract.events import Converted, Failed, Progress
from engine.contract.reports import DataSummary
from rwkv_tui.services import jobs


async def test_a_document_is_what_the_job_prints(tiny_jsonl: Path) -> None:
    answer = await jobs.document("summary", str(tiny_jsonl), "--ctx_len", "8", "--loss_mask", "qa")
    data = DataSummary.model_validate_json(answer)
    assert (data.kind, data.documents, data.ctx_len) == ("rows", 12, 8)


async def test_a_failure_is_the_jobs_own_reason(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing-here"):
        await jobs.document("summary", str(tmp_path / "nothing-here"))


async def test_a_conversion_tells_its_end(tiny_jsonl: Path, tmp_path: Path) -> None:
    told = [event async for event in jobs.events("convert", str(tiny_jsonl), "--out", str(tmp_path / "p"))]
    assert isinstance(told[0], Progress)
    assert isinstance(told[-1], Converted)
    assert (tmp_path / "p.idx").is_file()


async def test_a_job_that_dies_is_a_failure_with_its_last_words(tmp_path: Path) -> None:
    told = [event async for event in jobs.events("convert", str(tmp_path / "x"), "--no-such-flag")]
    assert len(told) == 1
    assert isinstance(told[0], Failed)
    assert "--no-such-flag" in told[0].reason or "required" in told[0].reason


async def test_leaving_a_job_ends_it_and_it_leaves_nothing(tmp_path: Path) -> None:
    source = big_jsonl(tmp_path)

    async def first() -> None:
        async with aclosing(jobs.events("convert", str(source), "--out", str(tmp_path / "p"))) as told:
            async for _ in told:
                begun.set()

    begun = asyncio.Event()
    job = asyncio.create_task(first())
    await asyncio.wait_for(begun.wait(), 30)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert [p.name for p in tmp_path.iterdir()] == [source.name]


def big_jsonl(folder: Path) -> Path:
    """Takes some seconds to convert, so that there is time to cancel."""
    path = folder / "big.jsonl"
    line = json.dumps({"text": "User: why?\n\nAssistant: " + "because it is so, " * 40}) + "\n"
    path.write_text(line * 60_000, encoding="utf-8")
    return path
