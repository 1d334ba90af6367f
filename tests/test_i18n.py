"""Both languages are complete: every sentence is marked, translated, and holds the same places."""

from __future__ import annotations

import ast
import contextlib
import gettext
import io
import re
import string
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs import messages
from engine.contract import i18n
from engine.contract.errors import UserError

ROOT = Path(__file__).parents[1]
SOURCES = [path for place in messages.PLACES for path in sorted((ROOT / place).rglob("*.py"))]
MARKS = {"_", "N_", "n_", "p_"}
WORDS = re.compile(r"[A-Za-z]{2,}[,:;.]? [A-Za-z]{2,}")
UNSAID = "# unsaid"
"""At the end of a line: its words are for programs or developers, not for the person."""


@pytest.fixture(autouse=True)
def _english_again() -> Iterator[None]:
    yield
    i18n.speak("en")


@pytest.mark.parametrize("code", [code for code in i18n.LANGUAGES if code != "en"])
def test_catalogue_holds_every_sentence_and_no_other(code: str) -> None:
    catalogue, sources = messages.read(code), messages.template()
    wanted, there = ({(m.id, m.context) for m in one if m.id} for one in (sources, catalogue))
    assert there == wanted, "`make messages` brings the catalogue up to date"
    assert messages.missing(catalogue) == []
    assert not [m.id for m in catalogue if m.fuzzy and m.id]


def test_a_mark_is_found_wherever_it_stands() -> None:
    source = """a = _("one {x}", x=_("two")); b = f"{n_('three', 'four', 4)}"; p_("c", N_("five"), "six")"""
    found = sorted(messages.marked(ast.parse(source)))
    assert found == [("N_", ["five"]), ("_", ["one {x}"]), ("_", ["two"]), ("n_", ["three", "four"]),
                     ("p_", ["c", "six"])]  # fmt: skip


@pytest.mark.parametrize("code", [code for code in i18n.LANGUAGES if code != "en"])
def test_translations_hold_the_same_places(code: str) -> None:
    wrong: list[str] = []
    for message in messages.read(code):
        ids, said = ([*one] if isinstance(one, (tuple, list)) else [one or ""]
                     for one in (message.id, message.string))  # fmt: skip
        if ids[0]:
            places = set().union(*(_places(one) for one in ids))
            alone = len(ids) == 1
            wrong += [one for one in said if _places(one) - places or (alone and _places(one) != places)]
            wrong += [one for one in said for sign in "\\\n" if one.count(sign) != ids[0].count(sign)]
    assert wrong == []


@pytest.mark.parametrize("code", [code for code in i18n.LANGUAGES if code != "en"])
def test_what_gettext_reads_is_what_people_edit(code: str) -> None:
    made = gettext.GNUTranslations(io.BytesIO(messages.compiled(messages.read(code))))
    with messages.files(code)[1].open("rb") as file:
        kept = gettext.GNUTranslations(file)
    catalogues = [{k: v for k, v in vars(one)["_catalog"].items() if k} for one in (made, kept)]
    assert catalogues[0] == catalogues[1], "`make messages` compiles it"


def _places(sentence: str) -> set[str]:
    """The {names} of a sentence that is filled in; a sentence that is shown as it stands has none."""
    try:
        return {name for _text, name, _spec, _conversion in string.Formatter().parse(sentence) if name}
    except ValueError:
        return set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_places_are_filled_in(path: Path) -> None:
    """A name that is misspelled would only be found when the sentence is said."""
    for call in ast.walk(ast.parse(path.read_text())):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in MARKS - {"N_"}:
            said = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            given = {keyword.arg for keyword in call.keywords} | ({"n"} if call.func.id == "n_" else set())
            assert not any(isinstance(a, ast.JoinedStr) for a in call.args), (
                f"line {call.lineno}: an f-string"
            )
            if said and None not in given and (given or call.func.id == "n_"):
                assert set().union(*map(_places, said)) - given == set(), f"line {call.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_sentences_are_marked(path: Path) -> None:
    text = path.read_text()
    lines = text.splitlines()
    found = [
        f"line {node.lineno}: {node.value!r}"
        for node in _unmarked(ast.parse(text))
        if WORDS.search(str(node.value)) and not any(UNSAID in lines[n - 1] for n in _lines(node))
    ]
    assert found == [], f"mark them with _() or N_(), or end the line with `{UNSAID}`"


def _lines(node: ast.Constant) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def _unmarked(node: ast.AST) -> Iterator[ast.Constant]:
    """Texts below a node, but for docstrings, what is marked, and how things look."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MARKS:
        for keyword in node.keywords:
            yield from _unmarked(keyword.value)
        return
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "param":
        return  # whose sentences docs/messages.py takes from the declaration
    if isinstance(node, ast.keyword) and node.arg == "classes":
        return
    if isinstance(node, ast.Assign) and "DEFAULT_CSS" in [getattr(t, "id", "") for t in node.targets]:
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and not node.value.startswith("$"):
        yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)):
            yield from _unmarked(child)


@pytest.mark.parametrize(
    ("locale", "code"),
    [
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "de_DE.UTF-8", "LANGUAGE": "de:zh_TW:en"}, "zh"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "", "LC_MESSAGES": "zh-Hans"}, "zh"),
        ({}, "en"),
    ],
)
def test_locale_decides(locale: dict[str, str], code: str) -> None:
    assert i18n.preferred(locale) == code


def test_flag_goes_above_the_locale_from_any_place() -> None:
    assert i18n.choose(["train", "--lang", "zh", "--json"], {}) == ["train", "--json"]
    assert i18n.spoken() == "zh"
    assert i18n.choose(["--lang=en", "runs"], {"LANG": "zh_CN"}) == ["runs"]
    assert i18n.spoken() == "en"
    with pytest.raises(UserError, match="简体中文"):
        i18n.choose(["--lang", "xx"], {})


@pytest.mark.parametrize("program", ["rwkv_tui.cli", "engine.__main__"])
def test_command_and_engine_take_it(program: str) -> None:
    code = f"from {program} import main; main(['--lang', 'zh', '--help'])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (out.returncode, out.stderr) == (0, "")
    assert "--lang" in out.stdout


ENGLISH = re.compile(r"\b(the|is|are|and|not|with|for|it|its|what|must|one|does|to be)\b")
"""Words that no name, flag or library's message of these lines has."""


@pytest.mark.parametrize(
    "words",
    [
        "--help", "train --help", "resume --help", "runs --help", "attach --help", "stop --help",
        "logs --help", "rm --help", "data lint --help", "data show --help", "data convert --help",
        "data inspect --help", "model init --help", "preset import --help", "eval --help", "merge --help",
        "demo --help", "nonsense", "data", "runs --nonsense", "train --micro_bsz", "train --micro_bzs 1",
        "train --lr_init abc --micro_bsz 0 --peft lroa", "train --load_model no.pth --data_file no",
        "train --weight_decay 1 --lr_final 2 --dropout 1 --rwkv_version x070", "train --preset no",
        "data lint no.jsonl", "data lint broken.jsonl", "data convert broken.jsonl --out pair",
        "model inspect no.pth", "model inspect broken.jsonl", "preset show no", "stop no", "runs",
        "preset list", "data template --lang xx",
    ],
)  # fmt: skip
def test_commands_say_nothing_in_english(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rwkv_tui.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LANGUAGE", "zh")
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    rows = (
        '{"text": 5}',
        "{}",
        "[",
        '{"prompt": "a", "completion": ""}',
        '{"text": "User: a\\n\\nAssistant: b"}',
    )
    Path("broken.jsonl").write_text("\n".join(rows))
    with contextlib.suppress(SystemExit):
        main(words.split())
    out, err = capsys.readouterr()
    assert re.search("[\u4e00-\u9fff]", out + err)
    lines = [line for line in (out + err).splitlines() if ENGLISH.search(line)]
    assert lines == []
