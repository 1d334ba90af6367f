"""A data file in words and bars: counts, lengths against ctx_len, bad lines, samples."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from textual.content import Content
from textual.geometry import Size
from textual.widget import Widget

from engine.contract.i18n import N_, _, n_
from rwkv_tui.marks import LEVEL_SIGNS, windows
from rwkv_tui.plain import one_line, plain, size

if TYPE_CHECKING:
    from engine.contract.reports import DataSummary, DocumentSample, Finding

EIGHTHS = " ▏▎▍▌▋▊▉"
SAMPLE_CHARACTERS = 1_000
SIGNS = {"trained": ("▶", "◀"), "masked": ("", ""), "cut": ("✂", "")}
PLACES = 3
LEVELS = {"error": "$text-error bold", "warning": "$text-warning", "note": "$text-primary"}
STYLES = {"trained": "$text-success bold", "masked": "$foreground 70%", "cut": "$text-error strike"}


def bar(share: float, width: int) -> str:
    """A bar of `width` columns, filled by `share` to an eighth of a column."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    if share > 0 and eighths == 0:
        eighths = 1
    return ("█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()).ljust(width)


def facts(data: DataSummary, key: str) -> Content:
    """What is in the data, in a few lines; `key` reads the rest of it."""
    kind = _("binidx, ready to train") if data.kind == "binidx" else plain(data.described)
    lines = [
        Content.assemble((f"{kind}", "bold"), _(", "), size(data.file_bytes)),
        Content(_(", ")).join((
            counted(n_("{n:,} document", "{n:,} documents", data.documents)),
            counted(n_("{n:,} token", "{n:,} tokens", data.tokens)),
        )),
    ]  # fmt: skip
    if data.documents:
        told = _(
            "{shortest:,} ({shortest_at}) to {longest:,} ({longest_at}) tokens, {mean:,.0f} on average",
            shortest=data.shortest, shortest_at=plain(data.shortest_at), longest=data.longest,
            longest_at=plain(data.longest_at), mean=data.tokens / data.documents,
        )  # fmt: skip
        lines.append(Content(told))
    levels = Counter(finding.level for finding in data.findings if finding.code != "cut")
    if levels:
        counts = _(", ").join(f"{LEVEL_SIGNS[level]} {_of_level(level, n)}" for level, n in levels.items())
        told = _("{counts} below", counts=counts)
        lines.append(Content.styled(told, LEVELS[data.findings[0].level]))
    if not data.complete:
        part = N_("Only the first part was read; the numbers are of that part. {key} reads all of it.")
        told = _(part, key=key)
        lines.insert(1, Content.styled(told, "$text-warning"))
    return Content("\n").join(lines)


def counted(text: str) -> Content:
    """A sentence that begins with what matters in it, a number."""
    number, space, rest = text.partition(" ")
    return Content.assemble((number, "bold"), space, rest)


def _of_level(level: str, n: int) -> str:
    """So many findings of one level."""
    if level == "error":
        return n_("{n} error", "{n} errors", n)
    return n_("{n} warning", "{n} warnings", n) if level == "warning" else n_("{n} note", "{n} notes", n)


def cut_line(data: DataSummary) -> Content:
    """How many documents ctx_len cuts, or windows, in one sentence; nothing where there are none."""
    if not data.documents:
        return Content("")
    if data.windows:
        return Content.styled(f"✓ {windows(data)}", "$text-success")
    if not data.cut_documents:
        return Content.styled(_("✓ No document is cut at ctx_len {n}.", n=data.ctx_len), "$text-success")
    told = n_(
        "✂ ctx_len {length} cuts {n:,} document ({share:.0%}); {tokens:,} tokens ({lost:.1%}) are lost.",
        "✂ ctx_len {length} cuts {n:,} documents ({share:.0%}); {tokens:,} tokens ({lost:.1%}) are lost.",
        data.cut_documents, length=data.ctx_len, share=data.cut_documents / data.documents,
        tokens=data.cut_tokens, lost=data.cut_tokens / data.tokens,
    )  # fmt: skip
    return Content.styled(told, "$text-warning")


def histogram(data: DataSummary, width: int) -> Content:
    """Documents per length, a bar a line; lengths that ctx_len cuts are marked."""
    if not data.histogram:
        return Content("")
    most = max(count for _, count in data.histogram) or 1
    digits = max(len(f"{bound:,}") for bound, _ in data.histogram)
    counts = max(len(f"{count:,}") for _, count in data.histogram)
    room = max(4, width - digits - counts - 6)
    lines = []
    below = 0
    for bound, count in data.histogram:
        if below >= data.longest:
            break
        cut = (
            not data.windows and below > data.ctx_len
        )  # bounds are upper ends: all of this bar is longer than ctx_len + 1
        style = "$warning" if cut else "$primary"
        lines.append(
            Content.assemble(
                (f"≤ {bound:>{digits},} ", "$foreground 70%"),
                ("✂" if cut else " ", "$warning"),
                (bar(count / most, room), style),
                f" {count:>{counts},}",
            )
        )
        below = bound
    return Content("\n").join(lines)


class Lengths(Widget):
    """The histogram, as wide as there is room."""

    DEFAULT_CSS = "Lengths { height: auto; }"

    def __init__(self, id: str) -> None:
        super().__init__(id=id)
        self._data: DataSummary | None = None

    def show(self, data: DataSummary) -> None:
        self._data = data
        self.refresh(layout=True)

    def render(self) -> Content:
        return histogram(self._data, self.size.width) if self._data else Content("")

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return histogram(self._data, width).plain.count("\n") + 1 if self._data else 0


def findings(data: DataSummary) -> Content:
    """What was found, with the first places and the remedy; cuts are told elsewhere."""
    shown = [finding for finding in data.findings if finding.code != "cut"]
    if not shown:
        return Content.styled(_("✓ Nothing to mend was found."), "$text-success")
    return Content("\n").join(map(finding_text, shown))


def finding_text(finding: Finding) -> Content:
    """One finding in some lines."""
    lines = [Content.styled(f"{LEVEL_SIGNS[finding.level]} {finding.what}", LEVELS[finding.level])]
    for place in finding.places[:PLACES]:
        told = _("{where}: {reason}", where=one_line(place.where), reason=one_line(place.reason))
        lines.append(Content(f"    {told}"))
    if finding.count > PLACES and len(finding.places) > PLACES:
        more = _("… and {n:,} more", n=finding.count - PLACES)
        lines.append(Content(f"    {more}"))
    lines.append(Content.styled(f"  {in_the_form(finding.remedy)}", "$foreground 70%"))
    return Content("\n").join(lines)


def in_the_form(advice: str) -> str:
    """Advice on data that names flags of `data convert`, with the fields that stand for them here."""
    skipping = _("{field}: {message}", field=_("Bad lines"), message=_("skip them"))
    fields = {"--skip-bad": skipping, "--fields": _("Fields"), "--repeat": _("Repeat")}
    for flag, field in fields.items():
        advice = advice.replace(flag, f'"{field}"')
    return advice


def legend() -> Content:
    """How the parts of a sample are marked."""
    words = {"trained": N_("learned"), "masked": N_("only read"), "cut": N_("cut off")}
    return Content("  ").join(
        Content.styled(_(words[kind]).join(signs), STYLES[kind]) for kind, signs in SIGNS.items()
    )


def sample(document: DocumentSample) -> Content:
    """One document with its trained part between signs; long ones are shortened in the middle of a part."""
    head = _("Document {n:,}, {tokens:,} tokens", n=document.number, tokens=document.tokens)
    parts = [Content.styled(f"{head}\n", "$foreground 70%")]
    left = SAMPLE_CHARACTERS
    for segment in document.segments:
        text = plain(segment.text)
        shown = text if len(text) <= left else text[:left] + " …"
        left -= min(len(text), left)
        before, after = SIGNS[segment.kind]
        if shown.strip(" …"):
            parts.append(Content.styled(f"{before}{shown}{after}", STYLES[segment.kind]))
    return Content("").join(parts)
