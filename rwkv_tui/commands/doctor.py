"""`rwkv-tune doctor`: what this machine can do, and what is missing."""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from typing import Any

from engine.contract.events import dump_json
from engine.contract.i18n import _
from engine.contract.paths import UserPaths
from engine.contract.plain import say, say_json
from rwkv_tui.plain import size
from rwkv_tui.services.engine import engine_command, engine_environment
from rwkv_tui.services.gpu import read_gpus

ENGINE_TIMEOUT = 120  # seconds; a cold disk makes the imports slow


def doctor(args: argparse.Namespace) -> int:
    """Exit status 0 when a run could start here, else 1."""
    if sys.stderr.isatty():
        say(_("Loading the training stack to see whether it works ..."), error=True)
    report = _report()
    if args.json:
        say_json(dump_json(report))
    else:
        say(_describe(report))
    return 0 if report["ok"] else 1


def _report() -> dict[str, Any]:
    paths, reading = UserPaths.of_user(), read_gpus()
    engine = _engine()
    problems = [f"{name}: {found['error']}" for name, found in engine.get("packages", {}).items()
                if "error" in found]  # fmt: skip
    if "error" in engine:
        problems.append(_("the engine does not start: {reason}", reason=engine["error"]))
    return {
        "ok": not problems,
        "problems": problems,
        "rwkv_tune": version("rwkv-tune"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "engine": engine,
        "gpus": [
            {"name": g.name, "total_bytes": g.total_bytes, "used_bytes": g.used_bytes} for g in reading.gpus
        ],
        "gpu_note": reading.reason,
        "terminal": {
            "columns": shutil.get_terminal_size().columns,
            "rows": shutil.get_terminal_size().lines,
            "encoding": sys.stdout.encoding,
        },
        "presets": str(paths.presets),
        "runs": str(paths.runs),
        "cache": str(paths.cache),
        "free_bytes": shutil.disk_usage(".").free,
    }


def _engine() -> dict[str, Any]:
    try:
        done = subprocess.run(
            engine_command("doctor"), env=engine_environment(), stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=ENGINE_TIMEOUT, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"error": str(error)}
    if done.returncode:
        return {
            "error": (
                done.stderr.strip().splitlines()
                or [_("exit status {returncode}", returncode=done.returncode)]
            )[-1]
        }
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _describe(report: dict[str, Any]) -> str:
    lines = [f"rwkv-tune {report['rwkv_tune']}, Python {report['python']}, {report['platform']}", ""]
    for name, found in report["engine"].get("packages", {}).items():
        lines.append(f"  {name:<20} {found.get('version') or _('broken')}  {found.get('error', '')}".rstrip())
    lines += _optional(report["engine"].get("optional", {}))
    lines += _operators(report["engine"].get("operators", {}))
    torch = report["engine"].get("torch", {})
    if torch:
        lines += [
            "",
            _(
                "torch sees {gpus} GPU(s), CUDA {cuda}; {threads} CPU threads",
                gpus=len(torch["gpus"]),
                cuda=torch["cuda"],
                threads=torch["threads"],
            ),
        ]
        if torch.get("unused"):
            lines.append(_("  it does not use the GPU: {reason}", reason=torch["unused"]))
    for gpu in report["gpus"]:
        total = gpu["total_bytes"]
        lines.append(f"  {gpu['name']}: {size(total) if total else 'N/A'}")
    lines += [report["gpu_note"]] if report["gpu_note"] else []
    terminal = report["terminal"]
    lines += [
        _("terminal {columns}x{rows}, {encoding}", **terminal),
        _("free disk here {size}", size=size(report["free_bytes"])),
        _("your presets {path}", path=report["presets"]),
        _("your runs    {path}", path=report["runs"]),
        "",
    ]
    lines += [_("problem: {problem}", problem=p) for p in report["problems"]] or [_("A run can start here.")]
    return "\n".join(lines)


def _optional(packages: dict[str, dict[str, str]]) -> list[str]:
    """A line a package that only some settings need; of one that is broken what to do, too."""
    lines = []
    for name, found in packages.items():
        if "error" in found:
            lines.append(f"  {name:<20} {_('broken')}  {found['error']} {found['remedy']}")
        else:
            lines.append(f"  {name:<20} {found['version']}")
    return lines


def _operators(recurrences: dict[str, dict[str, str]]) -> list[str]:
    """A line an operator; recurrences for which the same holds share it."""
    told: dict[tuple[str, str], list[str]] = {}
    for recurrence, operators in recurrences.items():
        for name, reason in operators.items():
            told.setdefault((name, reason), []).append(recurrence)
    lines = [
        f"  {name:<20} {reason or _('works')}{'' if len(which) == len(recurrences) else f' ({which[0]})'}"
        for (name, reason), which in told.items()
    ]
    return ["", _("operators (op)"), *lines] if lines else []
