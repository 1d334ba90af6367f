"""Reads a shell script as far as a list of commands with flags needs it; nothing in it is ever run.

Understood: assignments, $name and ${name}, quotes, comments, line continuations, `;` `&&` `||` `|` `&`
and redirections. What only a shell could know (the output of a command, a value of the environment)
stays unknown, and the word that holds it says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from engine.contract.errors import UserError
from engine.contract.i18n import _

LONGEST = 1 << 16  # characters that variables may put in: a script can double one line by line
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\+?)=", re.ASCII)
_DECLARING = ("export", "declare", "local", "readonly", "typeset", "set")
_SEPARATORS = ";&|()\n"


@dataclass(frozen=True)
class Word:
    """One word of a command; `unknown` is the part that only a shell could evaluate, if there is one."""

    text: str
    line: int
    unknown: str = ""


@dataclass(frozen=True)
class Command:
    """A command's words and the line it begins on; `environment` are assignments written before it."""

    words: tuple[Word, ...]
    line: int
    environment: tuple[Word, ...] = ()
    redirected: bool = False


@dataclass
class _Piece:
    """Part of a word: literal text, a variable's name, or the source of what cannot be evaluated."""

    kind: str
    text: str
    quoted: bool


@dataclass
class _Raw:
    line: int
    pieces: list[_Piece] = field(default_factory=list)

    def add(self, kind: str, text: str, quoted: bool) -> None:
        last = self.pieces[-1] if self.pieces else None
        if last and kind == "text" and last.kind == "text" and last.quoted == quoted:
            last.text += text
        else:
            self.pieces.append(_Piece(kind, text, quoted))

    def assigned(self) -> re.Match[str] | None:
        """The `NAME=` or `NAME+=` this word begins with."""
        first = self.pieces[0] if self.pieces else None
        return _ASSIGNMENT.match(first.text) if first and first.kind == "text" and not first.quoted else None


def read_commands(text: str) -> list[Command]:
    """The commands of a script in order, variables put in. Raises UserError naming the line for what
    cannot be read at all: a quote that is never closed, a here-document, variables without bound."""
    shell = _Shell()
    commands = [shell.evaluate(raws, redirected) for raws, redirected in _Lexer(text).commands()]
    return [c for c in commands if c.words or c.environment]


class _Shell:
    """The variables so far: (text, unknown part) by name."""

    def __init__(self) -> None:
        self.variables = {"HOME": ("~", "")}
        self.expanded = 0  # characters put in so far

    def evaluate(self, raws: list[_Raw], redirected: bool) -> Command:
        count = 0
        while count < len(raws) and raws[count].assigned():
            count += 1
        before, rest = raws[:count], raws[count:]
        words = [word for raw in rest for word in self._words(raw)]
        if not words or words[0].text in _DECLARING:
            for raw in (*before, *rest[1:]):
                self._assign(raw)
            return Command((), raws[0].line)
        return Command(tuple(words), raws[0].line, tuple(self._word(raw) for raw in before), redirected)

    def _assign(self, raw: _Raw) -> None:
        found = raw.assigned()
        if found is None:
            return
        word = self._word(raw)
        text, unknown = word.text[found.end() :], word.unknown
        if found[2]:  # NAME+=
            old, old_unknown = self._value(_Piece("variable", found[1], quoted=True), raw.line)
            text, unknown = old + text, old_unknown or unknown
        self.variables[found[1]] = (text, unknown)

    def _value(self, piece: _Piece, line: int) -> tuple[str, str]:
        """(text, unknown part) of a piece."""
        if piece.kind == "text":
            return piece.text, ""
        if piece.kind == "unknown":
            return "", piece.text
        text, unknown = self.variables.get(piece.text, ("", f"${piece.text}"))
        self.expanded += len(text)
        if self.expanded > LONGEST:
            raise UserError(
                _("line {line}: its variables grow beyond {longest} KiB.", line=line, longest=LONGEST >> 10),
                _("Shorten them."),
            )
        return text, unknown

    def _word(self, raw: _Raw) -> Word:
        """A word as an assignment takes it: never split."""
        values = [self._value(piece, raw.line) for piece in raw.pieces]
        unknown = next((missing for _text, missing in values if missing), "")
        return Word("".join(text for text, _unknown in values), raw.line, unknown)

    def _words(self, raw: _Raw) -> Iterator[Word]:
        """A word as a command takes it: what an unquoted variable holds is split at its spaces."""
        texts: list[str] = []
        unknown, joined = "", False  # joined: what follows belongs to the last text
        for piece in raw.pieces:
            text, missing = self._value(piece, raw.line)
            unknown = unknown or missing
            splits = piece.kind == "variable" and not piece.quoted
            joined = joined and not (splits and text[:1].isspace())
            for part in text.split() if splits else [text]:
                if joined:
                    texts[-1] += part
                else:
                    texts.append(part)
                joined = False
            if text or not splits:
                joined = bool(texts) and not (splits and text[-1:].isspace())
        if unknown and not texts:
            texts = [""]
        yield from (Word(text, raw.line, unknown) for text in texts)


class _Lexer:
    """One pass over the characters."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.line = 1

    def commands(self) -> Iterator[tuple[list[_Raw], bool]]:
        words: list[_Raw] = []
        redirected = False
        while self.at < len(self.text):
            char = self.text[self.at]
            if char in _SEPARATORS:
                if words:
                    yield words, redirected
                words, redirected = [], False
                self._take(1)
            elif char in " \t\r\v\f":
                self._take(1)
            elif self._continued():
                pass
            elif char == "#":
                self._take(len(self._rest_of_line()))
            elif char in "<>":
                redirected = True
                self._redirection(words)
            else:
                words.append(self._word())
        if words:
            yield words, redirected

    def _take(self, count: int) -> str:
        taken = self.text[self.at : self.at + count]
        self.at += count
        self.line += taken.count("\n")
        return taken

    def _continued(self) -> bool:
        """Skips a backslash that joins this line with the next one; the line may end as on Windows."""
        for joint in ("\\\n", "\\\r\n"):
            if self.text.startswith(joint, self.at):
                self._take(len(joint))
                return True
        return False

    def _rest_of_line(self) -> str:
        end = self.text.find("\n", self.at)
        return self.text[self.at : end if end >= 0 else len(self.text)]

    def _redirection(self, words: list[_Raw]) -> None:
        """`> file`, `2>&1`, `< file`: the operator, its number before and its target after."""
        if self.text.startswith("<<", self.at):
            raise UserError(
                _("line {line}: a here-document (<<) cannot be read.", line=self.line), _("Take it out.")
            )
        before = words[-1] if words else None
        glued = self.at > 0 and self.text[self.at - 1].isdigit()
        if before and glued and len(before.pieces) == 1 and before.pieces[0].text.isdigit():
            words.pop()
        while self.at < len(self.text) and self.text[self.at] in "<>&|":
            self._take(1)
        while self.at < len(self.text) and self.text[self.at] in " \t":
            self._take(1)
        if self.at < len(self.text) and self.text[self.at] not in _SEPARATORS + "<>#":
            self._word()

    def _word(self) -> _Raw:
        word = _Raw(self.line)
        while self.at < len(self.text):
            char = self.text[self.at]
            if char in " \t\r\v\f<>" + _SEPARATORS:
                break
            if char == "'":
                word.add("text", self._until("'", "'"), quoted=True)
            elif char == '"':
                self._double_quoted(word)
            elif self._continued():
                pass
            elif char == "\\":
                word.add("text", self._take(2)[1:] or "\\", quoted=True)
            elif char in "$`":
                self._expansion(word, quoted=False)
            else:
                word.add("text", self._take(1), quoted=False)
        return word

    def _until(self, quote: str, end: str) -> str:
        line, start = self.line, self.at + len(quote)
        close = self.text.find(end, start)
        if close < 0:
            raise UserError(
                _("line {line}: the {quote} is never closed.", line=line, quote=quote), _("Close it.")
            )
        return self._take(close + len(end) - self.at)[len(quote) : -len(end)]

    def _double_quoted(self, word: _Raw) -> None:
        line = self.line
        if self.text.startswith('"$@"', self.at):  # what the script is called with: no words at all
            self._take(4)
            return
        self._take(1)
        word.add("text", "", quoted=True)
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == '"':
                self._take(1)
                return
            if self._continued():
                pass
            elif char == "\\" and self.text[self.at + 1 : self.at + 2] in ("$", "`", '"', "\\"):
                word.add("text", self._take(2)[1:], quoted=True)
            elif char in "$`":
                self._expansion(word, quoted=True)
            else:
                word.add("text", self._take(1), quoted=True)
        raise UserError(_('line {line}: the " is never closed.', line=line), _("Close it."))

    def _expansion(self, word: _Raw, quoted: bool) -> None:
        if self.text[self.at] == "`":
            word.add("unknown", f"`{self._until('`', '`')}`", quoted)
            return
        after = self.text[self.at + 1 : self.at + 2]
        name = _NAME.match(self.text, self.at + 1)
        if name:
            word.add("variable", self._take(1 + len(name[0]))[1:], quoted)
        elif after in ("{", "("):
            source = self._bracketed(after, {"{": "}", "(": ")"}[after])
            inside = source[2:-1]
            if after == "{" and _NAME.fullmatch(inside):
                word.add("variable", inside, quoted)
            else:
                word.add("unknown", source, quoted)
        elif after in ("@", "*"):  # what the script is called with; nothing, when it is only read
            self._take(2)
        elif after and (after.isdigit() or after in "#?!$-"):
            word.add("unknown", self._take(2), quoted)
        elif after == "'" and not quoted:
            self._take(1)
            word.add("unknown", f"$'{self._until(chr(39), chr(39))}'", quoted)
        else:
            word.add("text", self._take(1), quoted)

    def _bracketed(self, opening: str, closing: str) -> str:
        """`$(...)` or `${...}` with what it nests."""
        depth, start, line = 0, self.at, self.line
        for place in range(start + 1, len(self.text)):
            depth += {opening: 1, closing: -1}.get(self.text[place], 0)
            if not depth:
                return self._take(place + 1 - start)
        raise UserError(
            _("line {line}: the ${opening} is never closed.", line=line, opening=opening), _("Close it.")
        )
