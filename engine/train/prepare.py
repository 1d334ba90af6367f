"""From settings to a loaded model, opened data and a plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from engine.checkpoints.inspect import inspect_model
from engine.contract import events
from engine.contract.cuda import visible
from engine.contract.errors import Problem, SettingsError, UserError
from engine.contract.i18n import N_, _, n_, p_
from engine.contract.memory import host_emb, host_head
from engine.contract.oom import room
from engine.contract.reports import ModelInfo
from engine.contract.settings import TrainSettings
from engine.data.dataset import PadDataset, WindowDataset, check_vocabulary, cut, plan_numbers
from engine.data.documents import Documents, split
from engine.data.sources import open_data
from engine.estimate import host_memory
from engine.gpu import why_unused
from engine.models import load_model
from engine.models.base import RWKV
from engine.models.init import WORLD_VOCABULARY, make_checkpoint
from engine.models.waiting import NoRoom
from engine.ops.choice import PLAIN, SAFE, choose
from engine.ops.registry import Need, Selected, recurrence_of
from engine.train.group import Group
from engine.train.stop import StopRequest
from engine.train.strategy import Spread, spread_for
from engine.tuning import Tuning, tuning_for
from engine.tuning.base import trainable

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "tf32": torch.float32, "fp32": torch.float32}


@dataclass
class Loaded:
    """What a run works with. `held_out` are the documents of val_split, which `data` does not have."""

    settings: TrainSettings
    info: ModelInfo
    device: str
    data: Documents
    model: RWKV
    tuning: Tuning
    operator: Selected
    held_out: Documents | None = None
    group: Group = field(default_factory=Group)

    @cached_property
    def spread(self) -> Spread:
        return spread_for(self.settings, self.group, self.device)

    @cached_property
    def examples(self) -> PadDataset | WindowDataset:
        """What the batches are made of."""
        return cut(self.data, self.settings)


def choose_device(accelerator: str) -> str:
    """ "cuda" or "cpu". Raises UserError when a GPU is demanded and torch sees none."""
    if accelerator == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if accelerator == "gpu":
        raise UserError(
            _(
                "accelerator: gpu was asked for, but torch {version} finds none here: {reason}.",
                version=torch.__version__,
                reason=reason,
            )
            if (reason := why_unused())
            else _(
                "accelerator: gpu was asked for, but torch {version} finds none here.",
                version=torch.__version__,
            ),
            _("Use --accelerator auto or cpu; `rwkv-tune doctor` tells more."),
        )
    return "cpu"


def check_model(settings: TrainSettings, info: ModelInfo) -> None:
    """Refuses flags that contradict the model file, naming both values."""
    said = {"n_layer": info.n_layer, "n_embd": info.n_embd, "vocab_size": info.vocab_size}
    problems = [
        Problem(
            name,
            _(
                "{value} contradicts the model file, which has {real}; use 0 or {real}",
                value=getattr(settings, name),
                real=real,
            ),
        )
        for name, real in said.items()
        if getattr(settings, name) not in (0, real)
    ]
    if settings.pre_ffn and not info.pre_ffn:
        problems.append(
            Problem(
                "pre_ffn",
                _("the model file has attention in its first layer; use 0, or train from random weights"),
            )
        )
    if settings.head_qk not in (0, info.head_qk):
        head = N_("the model file has no copying head; use {width}, or train from random weights")
        if info.head_qk:
            head = N_(
                "the model file has a copying head of width {width}; use {width}, or train from random "
                "weights"
            )
        problems.append(Problem("head_qk", _(head, width=info.head_qk)))
    if settings.my_testing not in ("auto", info.version):
        problems.append(
            Problem(
                "my_testing",
                _(
                    "{my_testing} contradicts the model, which is {version}; use auto",
                    my_testing=settings.my_testing,
                    version=info.version,
                ),
            )
        )
    if problems:
        raise SettingsError(problems)


def check_host(settings: TrainSettings, info: ModelInfo) -> None:
    """Raises UserError when what grad_cp 2 keeps in the host's memory does not fit there."""
    wanted = settings.devices * host_memory(settings, info.n_layer, info.n_embd, info.vocab_size)
    if wanted > (free := room() or wanted):
        raise NoRoom(
            _(
                "grad_cp: 2 keeps {wanted:.3g} GB in the computer's memory, which has {free:.3g} GB left.",
                wanted=wanted / 1e9,
                free=free / 1e9,
            ),
            _("Set grad_cp to 1, or lower ctx_len or micro_bsz."),
        )


def check_devices(settings: TrainSettings, device: str) -> None:
    """Raises UserError when there are fewer GPUs than asked for."""
    if device == "cuda" and settings.devices > torch.cuda.device_count():
        raise UserError(
            _(
                "devices: {devices} GPUs were asked for, and torch finds {found}.",
                devices=settings.devices,
                found=torch.cuda.device_count(),
            ),
            _("Set devices to {found} or less.", found=torch.cuda.device_count()),
        )


def load(
    settings: TrainSettings, emit: events.Emit, stop: StopRequest, *, cache: Path | None = None,
    op: str = "", group: Group | None = None,
) -> Loaded:  # fmt: skip
    """Opens and checks everything a run needs; cheap checks come before the long loading.

    `cache` is where operators are remembered, `op` what the run began with (`Selected.spelled`).
    """
    group = group or Group()
    device = choose_device(settings.accelerator)
    if settings.accelerator == "auto" and (reason := why_unused()):
        emit(
            events.Warned(
                text=_("The GPU here is not used, and the run is slow on the CPU: {reason}.", reason=reason)
            )
        )
    spread_for(settings, group, device).check()
    base = settings.load_model or _fresh(settings, group)
    info = inspect_model(base)
    check_model(settings, info)
    if device == "cuda":
        check_host(settings, info)
        _warn_of_slow_bf16(settings, emit)
    data, held_out = _read_data(settings, info.vocab_size, emit, stop)
    _warn_of_few(settings, data, emit)
    stop.check()
    if group.rank == 0:
        operator = _operator(settings, info, device, emit, cache, op)
        group.tell(operator.spelled)
    else:  # what was timed may differ, what is used may not
        operator = _operator(settings, info, device, emit, cache, group.tell())
    stop.check()
    tuning = tuning_for(settings)
    model = _load_model(settings, base, info, device, operator, tuning, emit)
    stop.check()
    return Loaded(settings, info, device, data, model, tuning, operator, held_out, group)


def _load_model(
    settings: TrainSettings, base: Path, info: ModelInfo, device: str, operator: Selected, tuning: Tuning,
    emit: events.Emit,
) -> RWKV:  # fmt: skip
    """The model with what tuning adds to it."""

    def tell(done: int) -> None:
        emit(events.Progress(phase=N_("loading the model"), done=done, total=info.file_bytes, unit="B"))

    tell(0)
    torch.manual_seed(settings.random_seed)
    torch.set_float32_matmul_precision("high" if settings.precision == "tf32" else "highest")
    model = load_model(
        base, device=device, dtype=DTYPES[settings.precision], op=operator,
        quant=settings.quant, host_emb=device == "cuda" and host_emb(settings), adjust=tuning.adjust,
    )  # fmt: skip
    model.grad_cp = settings.grad_cp
    tuning.attach(model)
    if host_head(settings):
        model.send_head_away()
    tell(info.file_bytes)
    return model


def _warn_of_slow_bf16(settings: TrainSettings, emit: events.Emit) -> None:
    """Volta and Turing have units for fp16 alone, what is older for neither."""
    if settings.precision == "bf16" and (7, 0) <= torch.cuda.get_device_capability() < (8, 0):
        said = _(
            "{gpu} has no bf16 of its own and is slow at it: precision fp16 is several times faster there.",
            gpu=torch.cuda.get_device_name(),
        )
        emit(events.Warned(text=said))


def _warn_of_few(settings: TrainSettings, data: Documents, emit: events.Emit) -> None:
    if settings.dataload == "get" or len(data) >= settings.micro_bsz:
        return
    said = _(
        "The data hold {n} documents, fewer than micro_bsz {micro_bsz}: each step learns "
        "some of them twice. Lower micro_bsz, or give more documents.",
        n=len(data),
        micro_bsz=settings.micro_bsz,
    )
    emit(events.Warned(text=said))


def _fresh(settings: TrainSettings, group: Group) -> Path:
    """A model of random weights, which the run keeps beside what it makes of it."""
    assert settings.proj_dir is not None
    path = settings.proj_dir / "init.pth"
    if group.leads and not path.exists():  # it does when the run goes on
        make_checkpoint(
            path, settings.my_testing, settings.n_layer, settings.n_embd,
            settings.vocab_size or WORLD_VOCABULARY, settings.random_seed, pre_ffn=settings.pre_ffn,
            head_qk=settings.head_qk, overwrite=True,
        )  # fmt: skip
    group.wait()
    return path


def _read_data(
    settings: TrainSettings, vocab_size: int, emit: events.Emit, stop: StopRequest
) -> tuple[Documents, Documents | None]:
    """The documents to train on, and those held out."""

    def progress(_phase: str, done: int, total: int) -> None:
        stop.check()
        emit(events.Progress(phase=N_("reading the data"), done=done, total=total, unit="B"))

    def splitting(done: int, total: int) -> None:
        stop.check()
        emit(events.Progress(phase=N_("holding out documents"), done=done, total=total, unit=N_("documents")))

    data = open_data(settings, vocab_size, progress)
    check_vocabulary(data, vocab_size)
    if not settings.val_split:
        return data, None
    return split(data, settings.val_split, settings.random_seed, splitting)


def _operator(
    settings: TrainSettings, info: ModelInfo, device: str, emit: events.Emit, cache: Path | None, begun: str
) -> Selected:
    """The operator and the parts of the run: what it began with, for others round differently."""
    steps = settings.ctx_len if settings.train_type != "infctx" else min(settings.ctx_len, settings.chunk_ctx)
    need = Need(
        recurrence_of(info.version), device, DTYPES[settings.precision], info.n_embd // info.head_size,
        info.head_size, settings.micro_bsz, steps,
    )  # fmt: skip
    if device == "cuda" and settings.op not in PLAIN:
        said = _("Operators are looked for; the first time they are compiled, for up to a minute.")
        emit(events.Log(text=said))
    if begun and settings.op in ("auto", begun.partition(" ")[0]):
        try:
            return choose(begun, need, cache)
        except UserError as error:
            said = _("{message} The run began so and goes on with what works.", message=error.message)
            emit(events.Warned(text=said))
    chosen = choose(settings.op, need, cache)
    if settings.op == "auto":
        _tell_choice(chosen, device, emit)
    if chosen.parts_reason:
        parts, why = chosen.parts.name, chosen.parts_reason
        emit(events.Log(text=_("Element-wise parts: {name} ({reason}).", name=parts, reason=why)))
    return chosen


def _tell_choice(chosen: Selected, device: str, emit: events.Emit) -> None:
    """Which operator it is and why not the others; a warning where that makes a GPU slow."""
    others = p_("list", "; ").join(
        _("{field}: {message}", field=name, message=reason) for name, reason in chosen.reasons.items()
    )
    said = _("op auto is {name}. Not {others}.", name=chosen.name, others=others)
    slow = device == "cuda" and chosen.name == SAFE
    emit(events.Warned(text=said) if slow else events.Log(text=said))


def make_plan(loaded: Loaded) -> events.Plan:
    """What the run will do, in numbers."""
    s, info = loaded.settings, loaded.info
    numbers = plan_numbers(loaded.data, s.ctx_len, s.dataload)
    examples = len(loaded.examples)
    return events.Plan(
        version=info.version, n_layer=info.n_layer, n_embd=info.n_embd, head_size=info.head_size,
        vocab_size=info.vocab_size, parameters=info.parameters,
        trainable=sum(p.numel() for p in trainable(loaded.model)), method=s.method,
        documents=numbers.documents, tokens=numbers.tokens, cut_documents=numbers.cut_documents,
        cut_tokens=numbers.cut_tokens, windows=examples if s.dataload == "get" else 0,
        held_out=len(loaded.held_out) if loaded.held_out else 0, ctx_len=s.ctx_len, micro_bsz=s.micro_bsz,
        epoch_begin=s.epoch_begin, epoch_count=s.epoch_count, epoch_steps=s.epoch_steps,
        passes=s.total_steps * s.step_documents / examples, devices=s.processes,
        device=device_name(loaded.device),
        gpus=tuple((visible() or [])[: s.devices]) if loaded.device == "cuda" else (),
        precision=s.precision, op=loaded.operator.name, op_reasons=loaded.operator.reasons,
    )  # fmt: skip


def device_name(device: str) -> str:
    """What a run's plan calls its device."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    # What begins so, in each language, is known to be no GPU (contract/memory.on_cpu).
    return n_("CPU, {n} thread", "CPU, {n} threads", torch.get_num_threads())
