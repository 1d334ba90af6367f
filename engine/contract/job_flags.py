"""The flags that an engine job shares with the command a person types."""

from __future__ import annotations

import argparse
from pathlib import Path

from engine.contract.i18n import N_, _, n_

PLAN_FLAGS = ("ctx_len", "dataload", "loss_mask", "mask_id", "val_split", "epoch_steps", "micro_bsz")
"""What of a run decides about its data."""


ARGPARSE = (
    N_("usage: "), N_("positional arguments"), N_("options"), N_("show this help message and exit"),
    N_("show program's version number and exit"), N_("argument %(argument_name)s: %(message)s"),
    N_("the following arguments are required: %s"), N_("unrecognized arguments: %s"),
    N_("expected one argument"), N_("expected at most one argument"), N_("expected at least one argument"),
    N_("invalid choice: %(value)r (choose from %(choices)s)"), N_("invalid %(type)s value: %(value)r"),
    N_("not allowed with argument %s"), N_("ignored explicit argument %r"),
)  # fmt: skip
"""What argparse says by itself."""


def translate_argparse() -> None:
    """Has argparse say its own words, too, in the language of this process: it asks these two for them."""
    argparse._, argparse.ngettext = _, n_  # type: ignore[attr-defined]


def add_json(job: argparse.ArgumentParser, *, events: bool = False) -> None:
    """The answer for programs: one document, or of a command that follows a run its `events`."""
    told = _("print the run's events, one JSON object a line") if events else _("one JSON document on stdout")
    job.add_argument("--json", action="store_true", help=told)


def add_source_flags(job: argparse.ArgumentParser, *, several: bool = True) -> None:
    """Where data comes from and how its rows are read."""
    job.add_argument(
        "source", metavar="FILE|FOLDER|PATTERN" if several else "PREFIX|FILE", nargs="+" if several else 1,
        type=Path, help=_("jsonl, JSON, CSV, Parquet, text or Markdown, packed with gz or zst or not"),
    )  # fmt: skip
    job.add_argument(
        "--fields",
        metavar="PART=FIELD,...",
        default="",
        help=_(
            "which fields are what, where it is not recognised: text=body, prompt=q,answer=a, "
            "instruction=i,input=x,output=o or messages=turns; system= and think= may be added"
        ),
    )
    job.add_argument(
        "--template", metavar="FILE", type=Path,
        help=_("how conversations become text; `rwkv-tune data template` prints the one of RWKV"),
    )  # fmt: skip


def add_plan_flags(job: argparse.ArgumentParser) -> None:
    """What training will make of the data; the flags of `train`, and their defaults."""
    for name in PLAN_FLAGS:
        spelled = dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}"))
        job.add_argument(*spelled, dest=name, help=_("as for train"))


def add_convert_flags(job: argparse.ArgumentParser) -> None:
    """The flags of a conversion."""
    add_source_flags(job)
    job.add_argument(
        "--out", metavar="PREFIX", type=Path, required=True, help=_("writes PREFIX.bin and PREFIX.idx")
    )
    job.add_argument(
        "--repeat", metavar="N", type=int, default=10,
        help=_("write every document N times, shuffled afresh"),
    )  # fmt: skip
    job.add_argument(
        "--weights",
        metavar="W,W,...",
        type=_numbers,
        default=(),
        help=_(
            "mix the sources, a number for each: 3,1 takes one token of the second for each "
            "three of the first. Each repeat has all of the first; the others are drawn from, "
            "and begin anew when used up"
        ),
    )
    job.add_argument(
        "--held-out",
        "--held_out",
        metavar="X",
        type=float,
        default=0.0,
        help=_(
            "set documents aside as the pair PREFIX-val: a share below 1 or a number of those "
            "that differ. Their content decides, so that no copy of one is trained on"
        ),
    )
    add_ctx_len(job, _("for the magic prime"), default=512)
    _add_seed(job)
    job.add_argument(
        "--skip-bad", "--skip_bad", action="store_true", help=_("leave out lines that cannot be read")
    )
    job.add_argument(
        "--force", action="store_true", help=_("replace an existing pair once the new one is complete")
    )


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split(",")))


def add_init_flags(job: argparse.ArgumentParser) -> None:
    """The flags of a new model."""
    job.add_argument(
        "--version", choices=["x052", "x060", "x070"], required=True, help=_("RWKV-5.2, RWKV-6 or RWKV-7")
    )
    job.add_argument("--n-layer", "--n_layer", metavar="N", type=int, required=True, help=_("its layers"))
    job.add_argument(
        "--n-embd", "--n_embd", metavar="N", type=int, required=True,
        help=_("its width, a multiple of 64"),
    )  # fmt: skip
    job.add_argument(
        "--vocab-size", "--vocab_size", metavar="N", type=int, default=65536,
        help=_("the tokens it knows (default: 65536)"),
    )  # fmt: skip
    job.add_argument(
        "--pre-ffn",
        "--pre_ffn",
        action="store_true",
        help=_("no attention in the first layer, but a second ffn"),
    )
    job.add_argument(
        "--head-qk", "--head_qk", metavar="N", type=int, default=0,
        help=_("width of a copying head; 0 is none"),
    )  # fmt: skip
    _add_seed(job)
    _add_new_model(job)
    add_json(job)


def add_evaluate_flags(job: argparse.ArgumentParser) -> None:
    """The flags of an evaluation."""
    _add_models(job, required=True)
    job.add_argument(
        "--data", metavar="PREFIX|FILE", type=Path, required=True, help=_("a pair, or a file of another type")
    )
    job.add_argument(
        "--data-type", "--data_type", help=_("as of train (default: by the file's suffix, else binidx)")
    )
    job.add_argument("--quant", default="none", help=_("int8 or nf4: measures the model packed"))
    add_ctx_len(job, _("longer documents are cut"), required=True)
    add_json(job)


def add_export_flags(job: argparse.ArgumentParser) -> None:
    """The flags of an export."""
    job.add_argument("file", metavar="FILE.pth", type=Path, help=_("a model or a state"))
    job.add_argument("--out", metavar="FILE.st", type=Path, help=_("(default: beside it, with .st for .pth)"))
    add_json(job)


def add_chat_flags(job: argparse.ArgumentParser) -> None:
    """What to talk to."""
    _add_models(job)
    job.add_argument("--quant", default="none", help=_("int8 or nf4: talks to the model packed"))


def _add_models(job: argparse.ArgumentParser, *, flag: str = "--model", required: bool = False) -> None:
    """A model, what was tuned on it, and what the incumbent's adapter files do not say of themselves."""
    whole = _("the base model, or one tuned whole") if flag == "--model" else _("the base model")
    job.add_argument(flag, metavar="FILE.pth", type=Path, required=required, help=whole)
    job.add_argument("--state", metavar="FILE.pth", type=Path, help=_("a state that was tuned on it"))
    job.add_argument(
        "--adapter", metavar="FOLDER|FILE.pth", type=Path, help=_("an adapter that was tuned on it")
    )
    job.add_argument(
        "--lora-alpha", "--lora_alpha", metavar="X", type=float,
        help=_("of a LoRA .pth, which does not say it itself"),
    )  # fmt: skip
    job.add_argument(
        "--init",
        metavar="FILE.pth",
        type=Path,
        help=_("the init file of a PiSSA .pth (default: the one beside it)"),
    )


def add_merge_flags(job: argparse.ArgumentParser) -> None:
    """The flags of a merge."""
    _add_models(job, flag="--base", required=True)
    _add_new_model(job)
    add_json(job)


def add_ctx_len(
    job: argparse.ArgumentParser, told: str, *, required: bool = False, default: int | None = None
) -> None:
    """The context length in tokens, and what it is for."""
    job.add_argument(
        "--ctx-len", "--ctx_len", metavar="N", type=int, required=required, default=default, help=told
    )


def _add_seed(job: argparse.ArgumentParser) -> None:
    told = _("the same seed writes the same bytes")
    job.add_argument("--seed", metavar="N", type=int, default=0, help=told)


def _add_new_model(job: argparse.ArgumentParser) -> None:
    told = _("writes it here; a file that exists is never replaced")
    job.add_argument("--out", metavar="FILE.pth", type=Path, required=True, help=told)
