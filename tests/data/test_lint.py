"""Every kind of finding: met where it is, not met where it is not."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.contract.errors import UserError
from engine.contract.reports import DataSummary, Finding
from engine.data import lint
from engine.data.binidx import write_pair
from engine.data.plan import DataPlan
from engine.data.summary import summarise

QA = "User: a{}\n\nAssistant: b"
FINE = [QA.format(i) for i in range(3)]


def look(path: Path, rows: list[Any], plan: DataPlan | None = None, **how: Any) -> DataSummary:
    lines = (
        row if isinstance(row, bytes) else json.dumps({"text": row} if isinstance(row, str) else row).encode()
        for row in rows
    )
    (path / "a.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    return summarise([path / "a.jsonl"], plan or DataPlan(), limit_bytes=None, **how)


def found(summary: DataSummary) -> dict[str, Finding]:
    return {finding.code: finding for finding in summary.findings}


@pytest.mark.parametrize(
    "row, code, reason",
    [
        (b"{nonsense", "row", "not JSON"),
        (b'{"text": "a"},', "row", "a comma behind"),
        (b'{"text": "a"} {"text": "b"}', "row", "several objects"),
        (b"{'text': 'a'}", "row", "single quotes"),
        (b'{"text": "\xff"}', "encoding", "not UTF-8 (byte"),
        ('{"text": "你好"}'.encode("gbk"), "encoding", "probably GBK"),
        ({"texts": "a"}, "fields", 'it has "texts"'),
        ({"text": " \n"}, "empty", "blank"),
        ({"prompt": "a", "completion": None}, "answer", "missing"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "role", "nothing was asked"),
        (FINE[1], "duplicate", "the same as line 2"),
        ({"prompt": "a1", "completion": "b"}, "duplicate", "the same as line 2"),
        ("User: a\n\nAssistant: " + "word " * 600, "cut", "tokens, of which"),
        ("just words", "nothing", "no line of it"),
        ({"prompt": "a", "completion": "b\nUser: c"}, "marker", "b⏎User: c… begins"),
        (QA.format("one\\n\\ntwo"), "backslash", "one\\n\\ntwo"),
        (QA.format("One.\\nTwo."), "backslash", "One.\\nTwo"),
        (QA.format("one.\\nthen two"), "backslash", "one.\\nthen"),
        (QA.format("a\x1b[31m"), "control", "U+001B at character 9"),
        (QA.format("\ufeff"), "control", "U+FEFF"),
        (QA.format("l\u00e2\u20ac\u2122\u00e9t\u00e9"), "mojibake", "â€™"),
        (QA.format("\ufffd"), "mojibake", "\ufffd"),
        (QA.format("锟斤拷" + " and more" * 3), "mojibake", "锟斤拷"),
        (QA.format("ÐŸÑ€Ð¸Ð²ÐµÑ‚ Ð¼Ð¸Ñ€"), "mojibake", "Ð"),
        (QA.format("").replace("\n", "\r\n"), "crlf", "2 line ends"),
        (QA.format("<|endoftext|>"), "end", "<|endoftext|> at character 8"),
        ("User: 请把这句话翻译成英文\n\nAssistant: Translate this sentence", "mixed", "Latin with 3"),
    ],
    ids=itertools.count(),
)  # fmt: skip
def test_a_finding_says_place_reason_and_remedy(tmp_path: Path, row: Any, code: str, reason: str) -> None:
    summary = look(tmp_path, [*FINE, row])
    assert set(found(summary)) == {code}
    finding = found(summary)[code]
    assert finding.count == 1 and finding.remedy and "{" not in finding.what and "1 " in finding.what
    assert finding.places[0].where == "line 4" and reason in finding.places[0].reason
    assert summary.bad_count == (finding.level == "error")
    assert summary.documents == 4 - summary.bad_count


@pytest.mark.parametrize(
    "text",
    [
        "Déjà vu — “quoted”, naïve, 5 × 3 ± 1, Ångström, ¿qué? «ça»",
        "Это «кавычки» — и всё. 你好，“世界”。 👩‍👩‍👧‍👦 ❤️ ½",
        r"\nabla \neq \text{a} C:\new \times and a regex \d+\s*",
        "print(\"a\\n\", 'b\\n')",
        "tabs\tand\nlines and [INSTANT] </sub>",
    ],
)
def test_what_is_fine_is_not_reported(tmp_path: Path, text: str) -> None:
    assert not set(found(look(tmp_path, [*FINE, QA.format(text)]))) - {"mixed"}


def test_the_plan_is_held_against_the_data(tmp_path: Path) -> None:
    few = found(look(tmp_path, FINE, DataPlan(epoch_documents=31)))["few"]
    assert few.what.startswith("3 documents are few") and "31 and sees each 10 times" in few.places[0].reason
    assert not found(look(tmp_path, FINE, DataPlan(epoch_documents=30)))
    windows = found(look(tmp_path, FINE, DataPlan(ctx_len=10_000, epoch_documents=31, windows=True)))
    assert windows["few windows"].what == "1 window is few for the plan" and len(windows) == 1
    (tmp_path / "t").write_text("Q: {user}\n\nA: {assistant}")
    rows = [{"prompt": "a", "completion": "b"}]
    assert set(found(look(tmp_path, rows, template=tmp_path / "t"))) == {"qa template"}
    assert not found(look(tmp_path, rows, DataPlan(loss_mask="pad"), template=tmp_path / "t"))


def test_ten_places_are_named_and_all_counted(tmp_path: Path) -> None:
    finding = found(look(tmp_path, [*FINE, *[b"bad"] * 25]))["row"]
    assert (finding.count, len(finding.places), finding.what) == (25, 10, "25 rows cannot be read")


def test_longest_and_shortest_are_named_and_scripts_counted(tmp_path: Path) -> None:
    summary = look(tmp_path, [*FINE, "User: 你好\n\nAssistant: " + "我很好" * 30, "Assistant: ok", b"bad"])
    assert (summary.longest_at, summary.shortest_at) == ("line 4", "line 5")
    assert dict(summary.scripts) == {"Latin": 4, "Han": 1}


def test_rows_of_which_none_is_a_document_are_all_told(tmp_path: Path) -> None:
    summary = look(tmp_path, [b"bad", {"b": 1}, ""])
    assert set(found(summary)) == {"row", "fields", "empty"}
    assert (summary.documents, summary.bad_count, summary.longest, summary.longest_at) == (0, 3, 0, "")


@pytest.mark.parametrize("content, said", [(b"", r"a\.jsonl is empty"), (b"\n \n", "has no documents")])
def test_a_file_without_rows_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=said):
        summarise([tmp_path / "a.jsonl"], DataPlan())


def test_the_words_that_begin_turns_are_no_sign_of_a_language(tmp_path: Path) -> None:
    summary = look(tmp_path, ["User: 你好吗\n\nAssistant: 我很好", "User: I\n\nAssistant: am"])
    assert dict(summary.scripts) == {"Han": 1, "Latin": 1} and not found(summary)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=80), st.integers(1, 9))
def test_copies_are_counted_whatever_fits_into_memory(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[int], at_once: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lint._Copies, "AT_ONCE", at_once)
        patch.setattr(lint, "_CHUNK", 7)
        summary = look(tmp_path_factory.getbasetemp(), [QA.format(number) for number in drawn])
    again = [i for i, number in enumerate(drawn) if number in drawn[:i]]
    finding = found(summary).get("duplicate")
    assert (finding.count if finding else 0) == len(again)
    places = [(place.where, place.reason) for place in finding.places] if finding else []
    assert places == [
        (f"line {i + 1}", f"the same as line {drawn.index(drawn[i]) + 1}") for i in again[: lint.LISTED]
    ]


def test_a_pair_whose_documents_do_not_end_is_told(tmp_path: Path) -> None:
    with write_pair(tmp_path / "d") as writer:
        for ids in ([66, 0], [67, 68], [69, 0]):
            writer.add(np.array(ids, "<u2").tobytes())
    finding = found(summarise([tmp_path / "d"], DataPlan()))["no end"]
    assert [(place.where, place.reason) for place in finding.places] == [
        ("document 2", "it ends with token 68")
    ]


def test_any_bytes_are_linted_or_refused(tmp_path: Path) -> None:
    """Neither a crash nor a hang, whatever a file holds."""
    rng = random.Random(0)
    parts = [
        b'{"text": "a"}\n',
        b'{"messages": [',
        b"\xff",
        b"]",
        b"\n",
        b'"',
        b"prompt,completion\n",
        b"a,b\n",
        b"\x00",
        b"[",
        b"{",
    ]
    for _ in range(300):
        (tmp_path / "x").write_bytes(b"".join(rng.choices(parts, k=rng.randint(0, 8))))
        try:
            summary = summarise([tmp_path / "x"], DataPlan())
        except UserError as error:
            assert error.remedy
        else:
            assert summary.documents or summary.bad_count


def test_memory_does_not_grow_with_the_file_nor_ids_with_a_line(tmp_path: Path) -> None:
    """The most memory of a process that lints a small file and then one eight times as large; then one with
    a line of 6 MiB, which takes a multiple of that, but not the thirty times of a list of its ids."""
    code = textwrap.dedent("""
        import sys
        from pathlib import Path
        from engine.data.plan import DataPlan
        from engine.data.summary import summarise
        for name in sys.argv[1:]:
            summarise([Path(name)], DataPlan(), limit_bytes=None)
            lines = open("/proc/self/status").read().splitlines()
            print(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
    """)
    line = json.dumps({"text": QA.format("a quick answer 🙂 " * 60)}) + "\n"
    long_line = json.dumps({"text": QA.format("b 你 🙂 " * (1 << 19))}, ensure_ascii=False)
    for name, content in (("a", line * 1000), ("b", line * 8000), ("c", long_line)):
        (tmp_path / f"{name}.jsonl").write_text(content, encoding="utf-8")
    command = [sys.executable, "-c", code, *(str(tmp_path / f"{name}.jsonl") for name in "abc")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    small, large, long = map(int, done.stdout.split())
    assert large - small < 8 << 10 and long - large < 16 * (4 << 10), f"{small} {large} {long} KiB"
