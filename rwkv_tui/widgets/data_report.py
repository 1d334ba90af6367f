"""A data file in words and bars: counts, lengths against ctx_len, bad lines, samples."""

from __future__ import annotations

from collections import Counter

from textual.content import Content
from textual.geometry import Size
from textual.widget import Widget

from engine.contract.reports import DataSummary, DocumentSample, Finding
from rwkv_tui.marks import LEVEL_SIGNS
from rwkv_tui.plain import one_line, plain, size

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


def plural(word: str, count: int) -> str:
    return word if count == 1 else word + "s"


def facts(data: DataSummary) -> Content:
    """What is in the data, in a few lines."""
    mean = data.tokens / data.documents if data.documents else 0
    kind = "binidx, ready to train" if data.kind == "binidx" else plain(data.described)
    lines = [
        Content.assemble((f"{kind}", "bold"), f", {size(data.file_bytes)}"),
        Content.assemble(
            (f"{data.documents:,}", "bold"),
            plural(" document", data.documents),
            ", ",
            (f"{data.tokens:,}", "bold"),
            plural(" token", data.tokens),
        ),
        Content(
            f"{data.shortest:,} ({plain(data.shortest_at)}) to {data.longest:,} ({plain(data.longest_at)}) "
            f"tokens, {mean:,.0f} on average"
        ),
    ]
    levels = Counter(finding.level for finding in data.findings if finding.code != "cut")
    if levels:
        counts = ((LEVEL_SIGNS[level], count, plural(level, count)) for level, count in levels.items())
        told = ", ".join(f"{sign} {count} {word}" for sign, count, word in counts)
        lines.append(Content.styled(f"{told} below", LEVELS[data.findings[0].level]))
    if not data.complete:
        told = "Only the first part was read; the numbers are of that part. F8 reads all of it."
        lines.insert(1, Content.styled(told, "$text-warning"))
    return Content("\n").join(lines)


def cut_line(data: DataSummary) -> Content:
    """How many documents ctx_len cuts, in one sentence."""
    if not data.cut_documents:
        return Content.styled(f"✓ No document is cut at ctx_len {data.ctx_len}.", "$text-success")
    documents, tokens = data.cut_documents / data.documents, data.cut_tokens / data.tokens
    return Content.styled(
        f"✂ ctx_len {data.ctx_len} cuts {data.cut_documents:,} documents ({documents:.0%}); "
        f"{data.cut_tokens:,} tokens ({tokens:.1%}) are lost.",
        "$text-warning",
    )


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
        cut = below > data.ctx_len  # bounds are upper ends: all of this bar is longer than ctx_len + 1
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
        return Content.styled("✓ Nothing to mend was found.", "$text-success")
    return Content("\n").join(map(finding_text, shown))


def finding_text(finding: Finding) -> Content:
    """One finding in some lines."""
    lines = [Content.styled(f"{LEVEL_SIGNS[finding.level]} {finding.what}", LEVELS[finding.level])]
    lines += [Content(f"    {one_line(p.where)}: {one_line(p.reason)}") for p in finding.places[:PLACES]]
    if finding.count > PLACES and len(finding.places) > PLACES:
        lines.append(Content(f"    … and {finding.count - PLACES:,} more"))
    lines.append(Content.styled(f"  {finding.remedy}", "$foreground 70%"))
    return Content("\n").join(lines)


def legend() -> Content:
    """How the parts of a sample are marked."""
    words = {"trained": "learned", "masked": "only read", "cut": "cut off"}
    return Content("  ").join(
        Content.styled(words[kind].join(signs), STYLES[kind]) for kind, signs in SIGNS.items()
    )


def sample(document: DocumentSample) -> Content:
    """One document with its trained part between signs; long ones are shortened in the middle of a part."""
    parts = [Content.styled(f"Document {document.number:,}, {document.tokens:,} tokens\n", "$foreground 70%")]
    left = SAMPLE_CHARACTERS
    for segment in document.segments:
        text = plain(segment.text)
        shown = text if len(text) <= left else text[:left] + " …"
        left -= min(len(text), left)
        before, after = SIGNS[segment.kind]
        if shown.strip(" …"):
            parts.append(Content.styled(f"{before}{shown}{after}", STYLES[segment.kind]))
    return Content("").join(parts)
