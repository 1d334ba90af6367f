"""What a .pth file is: which version of RWKV, which dimensions, or what else. Never loads torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.checkpoints.header import TensorInfo, read_header
from engine.contract.errors import UserError
from engine.contract.i18n import N_, _
from engine.contract.reports import ModelInfo
from engine.contract.settings import TrainSettings
from engine.contract.sizes import size_name

Version = Literal["x052", "x060", "x070"]

# Shapes by name: D, V, H, N mean the same everywhere in a file, other letters within one layer;
# 5M is five times M, 1 is one. Names without a block are outside the layers.
_NORM = {"weight": "D", "bias": "D"}
_LINEARS = {f"att.{name}.weight": "D D" for name in ("receptance", "key", "value", "output")}
_OUTSIDE = {"emb.weight": "V D", "head.weight": "V D"} | {f"ln_out.{n}": s for n, s in _NORM.items()}
_COPYING = {"head_q.weight": "Q D", "head_k.weight": "Q D"}  # both or none
_EVERY_LAYER = {
    f"{norm}.{n}": s for norm in ("ln1", "ln2", "att.ln_x") for n, s in _NORM.items()
} | _LINEARS  # fmt: skip
_FFN_V5_V6 = {"ffn.key.weight": "F D", "ffn.receptance.weight": "D D", "ffn.value.weight": "D F"}
_LOW_RANK_V7 = {f"att.{n}1": f"D {n}" for n in "wavg"} | {f"att.{n}2": f"{n} D" for n in "wavg"}

LAYER_SHAPES: dict[Version, dict[str, str]] = {
    "x052": _EVERY_LAYER | _FFN_V5_V6 | {
        "att.gate.weight": "D D", "att.time_decay": "H N", "att.time_faaaa": "H N",
        **{f"att.time_mix_{n}": "1 1 D" for n in "kvrg"}, **{f"ffn.time_mix_{n}": "1 1 D" for n in "kr"},
    },
    "x060": _EVERY_LAYER | _FFN_V5_V6 | {
        "att.gate.weight": "D D", "att.time_decay": "1 1 D", "att.time_faaaa": "H N",
        **{f"att.time_maa_{n}": "1 1 D" for n in "xwkvrg"}, **{f"ffn.time_maa_{n}": "1 1 D" for n in "kr"},
        "att.time_maa_w1": "D 5M", "att.time_maa_w2": "5 M D",
        "att.time_decay_w1": "D Q", "att.time_decay_w2": "Q D",
    },
    "x070": _EVERY_LAYER | _LOW_RANK_V7 | {
        **{f"att.{n}": "1 1 D" for n in ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g")},
        **{f"att.{n}": "1 1 D" for n in ("w0", "a0", "v0", "k_k", "k_a")},
        "att.r_k": "H N", "ffn.x_k": "1 1 D", "ffn.key.weight": "F D", "ffn.value.weight": "D F",
    },
}  # fmt: skip
UNUSED_IN_FIRST = {"x070": ("att.v0", "att.v1", "att.v2")}  # the first time mixing may lack them
STATE_SHAPE = "H N N"
WANTED = N_("Use an RWKV-5.2, RWKV-6 or RWKV-7 model.")


@dataclass(frozen=True)
class StateInfo:
    """What a state file says of itself: one tensor [n_head, head_size, head_size] a layer."""

    path: str
    n_layer: int
    n_head: int
    head_size: int
    dtype: str
    pre_ffn: bool = False


def inspect_model(path: str | Path) -> ModelInfo:
    """Reads the file's header in milliseconds, whatever its size.

    Raises UserError when it is not a complete x052, x060 or x070 model, saying what it is instead or
    which tensor is missing, superfluous or of the wrong shape.
    """
    path = Path(path)
    header = read_header(path)
    version = _version(path, header)
    dims = _check_shapes(path, header, version)
    parameters = sum(t.elements for t in header.values())
    n_layer = _n_layer(header)
    return ModelInfo(
        path=str(path),
        version=version,
        n_layer=n_layer,
        n_embd=dims["D"],
        head_size=dims["N"],
        vocab_size=dims["V"],
        dtype=_main_dtype(header),
        parameters=parameters,
        size_name=size_name(n_layer, dims["D"], parameters),
        file_bytes=path.stat().st_size,
        pre_ffn=_pre_ffn(header),
        head_qk=header["head_q.weight"].shape[0] if "head_q.weight" in header else 0,
    )


def with_size(settings: TrainSettings) -> TrainSettings:
    """The settings with the size that the model's file tells. Raises UserError as `inspect_model`."""
    if settings.load_model is None:
        return settings
    info = inspect_model(settings.load_model)
    return settings.model_copy(update={
        "my_testing": info.version, "n_layer": info.n_layer, "n_embd": info.n_embd,
        "vocab_size": info.vocab_size,
    })  # fmt: skip


def inspect_state(path: str | Path) -> StateInfo:
    """Raises UserError when the file is not a state: `blocks.i.att.time_state` [H, N, N] and nothing else.

    The state of a model whose first layer has no time mixing begins with `blocks.1`.
    """
    path = Path(path)
    header = read_header(path)
    if not _is_state(header):
        what = (
            _("holds more than a state")
            if any(_is_time_state(n) for n in header)
            else _("is not a state file")
        )
        raise UserError(_("{path} {looks}.", path=path, looks=what), _("Use a file that state tuning wrote."))
    dims: dict[str, int] = {}
    pre_ffn = _n_layer(header) > 1 and "blocks.0.att.time_state" not in header
    for layer in range(int(pre_ffn), _n_layer(header)):
        name = f"blocks.{layer}.att.time_state"
        if name not in header:
            raise UserError(_("{path} lacks {name}.", path=path, name=name), _("Download or copy it again."))
        if not _match(STATE_SHAPE, header[name].shape, dims):
            raise _wrong_shape(path, name, header[name], STATE_SHAPE, dims)
    return StateInfo(str(path), _n_layer(header), dims["H"], dims["N"], _main_dtype(header), pre_ffn)


def _version(path: Path, header: dict[str, TensorInfo]) -> Version:
    names = {re.sub(r"^blocks\.\d+\.", "", name) for name in header}
    if _is_state(header):
        raise UserError(
            _("{path} is a state file, not a model.", path=path),
            _("Give it as the state, and a .pth model as the model."),
        )
    if any(re.search(r"\.(lora_[AB]|bone|disha|miss)\b", name) for name in names):
        raise UserError(
            _("{path} is an adapter (LoRA or alike), not a model.", path=path),
            _("Use the base model it belongs to."),
        )
    if "att.k_k" in names:
        return "x070"
    if "att.time_maa_x" in names:
        return "x060"
    if "att.time_decay" in names:
        decays = [t.shape for name, t in header.items() if name.endswith("att.time_decay")]
        if all(len(shape) == 2 and shape[1] > 1 for shape in decays):
            return "x052"
        old = _("an RWKV-5.0 or 5.1") if "att.ln_x.weight" in names else _("an RWKV-4")
        raise UserError(_("{path} is {old} model, which is not supported.", path=path, old=old), _(WANTED))
    if any(name.startswith(("model.", "transformer.", "rwkv.", "lm_head.")) for name in names):
        raise UserError(
            _("{path} is a Hugging Face checkpoint (it has {first}).", path=path, first=next(iter(header))),
            _("Use the .pth file of an RWKV model."),
        )
    raise UserError(
        _("{path} is not an RWKV model (it has {first}).", path=path, first=next(iter(header))), _(WANTED)
    )


def _check_shapes(path: Path, header: dict[str, TensorInfo], version: Version) -> dict[str, int]:
    """The file's D, V, H and N, after comparing every tensor with what the version asks for."""
    dims: dict[str, int] = {}
    known = set()
    for prefix, shapes, optional in _expected(header, version):
        local = dims.copy()
        for name, spec in shapes.items():
            key = prefix + name
            known.add(key)
            if key not in header:
                if name in optional:
                    continue
                raise UserError(
                    _(
                        "{path} lacks {key}, which every {version} model has.",
                        path=path,
                        key=key,
                        version=version,
                    ),
                    _("Download or copy it again."),
                )
            if not _match(spec, header[key].shape, local):
                raise _wrong_shape(path, key, header[key], spec, local)
        dims |= {letter: local[letter] for letter in "DVHN" if letter in local}
    extra = next((name for name in header if name not in known), None)
    if extra is not None:
        raise UserError(
            _("{path} has {extra}, which no {version} model has.", path=path, extra=extra, version=version),
            _("Use an unchanged {version} model.", version=version),
        )
    if dims["H"] * dims["N"] != dims["D"]:
        raise UserError(
            _(
                "{path}: {heads} heads of {size} do not make a width of {width}.",
                path=path,
                heads=dims["H"],
                size=dims["N"],
                width=dims["D"],
            ),
            _("Download or copy it again."),
        )
    return dims


def _expected(
    header: dict[str, TensorInfo], version: Version
) -> Iterable[tuple[str, dict[str, str], tuple[str, ...]]]:
    """Name prefix, shapes and what may be missing: of what is outside the layers, then of each layer."""
    yield "", _OUTSIDE | (_COPYING if any(name in header for name in _COPYING) else {}), ()
    first = int(_pre_ffn(header))  # layer with time mixing
    for layer in range(_n_layer(header)):
        shapes = LAYER_SHAPES[version] | {"att.time_state": STATE_SHAPE}
        optional: tuple[str, ...] = ("att.time_state",)
        if layer == first:
            optional += UNUSED_IN_FIRST.get(version, ())
        if layer < first:
            shapes = {name: spec for name, spec in shapes.items() if not name.startswith("att.")}
            shapes |= {
                name.replace("ffn.", "ffnPre."): spec
                for name, spec in shapes.items()
                if name.startswith("ffn.")
            }
        if layer == 0:
            shapes |= {f"ln0.{n}": s for n, s in _NORM.items()}
        yield f"blocks.{layer}.", shapes, optional


def _match(spec: str, shape: tuple[int, ...], dims: dict[str, int]) -> bool:
    """Whether the shape is what `spec` says; letters met for the first time are entered in `dims`."""
    words = spec.split()
    if len(words) != len(shape):
        return False
    for word, size in zip(words, shape, strict=True):
        letter = word.lstrip("0123456789")
        factor = int(word.removesuffix(letter) or 1) if letter else int(word)
        expected = factor * dims.setdefault(letter, size // factor) if letter else factor
        if size != expected or size == 0:
            return False
    return True


def _wrong_shape(path: Path, key: str, tensor: TensorInfo, spec: str, dims: dict[str, int]) -> UserError:
    wanted = ", ".join(str(dims.get(word, word)) for word in spec.split())
    return UserError(
        _(
            "{path}: {key} is {shape} instead of [{wanted}].",
            path=path,
            key=key,
            shape=list(tensor.shape),
            wanted=wanted,
        ),
        _("Download or copy it again."),
    )


def _n_layer(header: dict[str, TensorInfo]) -> int:
    numbers = (re.match(r"blocks\.(\d+)\.", name) for name in header)
    return 1 + max((int(n[1]) for n in numbers if n), default=-1)


def _pre_ffn(header: dict[str, TensorInfo]) -> bool:
    return any(name.startswith("blocks.0.ffnPre.") for name in header)


def _is_time_state(name: str) -> bool:
    return re.fullmatch(r"blocks\.\d+\.att\.time_state", name) is not None


def _is_state(header: dict[str, TensorInfo]) -> bool:
    return all(_is_time_state(name) for name in header)


def _main_dtype(header: dict[str, TensorInfo]) -> str:
    sizes: Counter[str] = Counter()
    for tensor in header.values():
        sizes[tensor.dtype] += tensor.bytes
    return sizes.most_common(1)[0][0]
