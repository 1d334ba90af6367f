"""Every parameter of a training run, declared once.

The names are the tutorial's flag names. Flags, form fields, preset keys, validation and
documentation are all read from this declaration; nothing else may list the parameters.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from engine.contract.params import Param, param, params_of

Method = Literal["state", "lora", "pissa", "miss", "full"]


def _clean_path(value: object) -> object:
    """An empty text means "not set"; `~` is the home directory, unless nobody has that name."""
    if value in ("", None):
        return None
    if not isinstance(value, (str, Path)):
        return value
    if "\0" in str(value):
        raise ValueError("no path holds a zero")  # unsaid
    str(value).encode()  # a name that is no UTF-8 could not be written into settings.yaml
    try:
        return Path(str(value)).expanduser()
    except RuntimeError:
        return Path(str(value))


def _json_object(value: object) -> object:
    if isinstance(value, str):
        try:
            return json.loads(value) if value.strip() else {}
        except RecursionError:
            raise ValueError("brackets without end") from None  # unsaid
    return value


def _part_names(value: object) -> object:
    """Also the incumbent's list, as JSON or as its shell script spells it."""
    if isinstance(value, str):
        value = value.replace("[", "").replace("]", "").replace("'", "").replace('"', "").split(",")
    if not isinstance(value, (list, tuple)):
        return value
    return ",".join(dict.fromkeys(str(part).strip() for part in value if str(part).strip()))


def _level(value: object) -> object:
    """Also what a switch is called, for grad_cp was one, and a number as text."""
    text = str(value).strip().lower()
    levels = {"false": 0, "off": 0, "no": 0, "true": 1, "on": 1, "yes": 1, "0": 0, "1": 1, "2": 2}
    return levels.get(text.removesuffix(".0"), value)


FilePath = Annotated[Path | None, BeforeValidator(_clean_path)]
PartNames = Annotated[str, BeforeValidator(_part_names)]
JsonObject = Annotated[dict[str, Any], BeforeValidator(_json_object)]
Level = Annotated[Literal[0, 1, 2], BeforeValidator(_level)]


class TrainSettings(BaseModel):
    """All that decides a run. Unknown keys are errors; `check.check_settings` finds contradictions."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False)

    load_model: FilePath = param(
        None,
        "The base model: an RWKV .pth file.",
        group="files",
        required=True,
        advice="A state works only with the very model it was tuned on: keep this file.",
    )
    proj_dir: FilePath = param(
        None,
        "The folder that receives the log and the trained files.",
        group="files",
        required=True,
        advice="One folder per run; a folder that already holds a run is never overwritten.",
    )
    data_file: FilePath = param(
        None,
        "The training data: the common name of a .bin/.idx pair, without suffix, or the file of "
        "another data_type.",
        group="files",
        required=True,
        advice="`rwkv-tune data convert` makes the pair from a .jsonl file.",
    )

    micro_bsz: int = param(
        1,
        "Documents in one step.",
        group="important",
        ge=1,
        advice="Start at 1 and raise it while memory allows: memory grows with it, noise shrinks.",
    )
    ctx_len: int = param(
        512,
        "Context length in tokens; longer documents are cut.",
        group="important",
        ge=1,
        advice="As short as your documents allow; 512 is a good start for state tuning.",
    )
    epoch_steps: int = param(
        1000,
        "Steps in one epoch.",
        group="important",
        ge=1,
        advice="More steps make an epoch longer. One pass over the data takes documents / micro_bsz steps.",
    )
    epoch_count: int = param(
        5,
        "How many epochs to train.",
        group="important",
        ge=1,
        advice="Stop when the answers please you; every saved epoch can be tried by itself.",
    )
    epoch_save: int = param(
        1,
        "Save every N epochs; the last one is always saved. 0 saves only the last.",
        group="important",
        ge=0,
        advice="State files are small: 1 lets you compare epochs.",
    )

    lr_init: float = param(
        1.0,
        "Learning rate at the start.",
        group="learning rate",
        ge=0,
        advice="State tuning wants a very high rate: 1. Every other method: at most 1e-4.",
    )
    lr_final: float = param(
        0.01,
        "Learning rate at the end.",
        group="learning rate",
        ge=0,
        advice="0.01 for state tuning; at most 1e-4 for other methods.",
    )
    warmup_steps: int = param(
        10,
        "Steps over which the rate rises from 1 % to its full value.",
        group="learning rate",
        ge=0,
        advice="10 for state tuning. It multiplies whatever schedule is chosen.",
    )
    lr_schedule: Literal["cos_decay", "wsd", "linear", "constant"] = param(
        "cos_decay",
        "How the rate goes from lr_init to lr_final.",
        group="learning rate",
        advice="cos_decay falls smoothly; wsd stays high and falls over the last fifth.",
    )
    beta1: float = param(0.9, "Adam: memory of the gradient.", group="learning rate", ge=0, lt=1)
    beta2: float = param(0.99, "Adam: memory of the squared gradient.", group="learning rate", ge=0, lt=1)
    adam_eps: float = param(1e-8, "Adam: keeps a division from exploding.", group="learning rate", gt=0)
    weight_decay: float = param(
        0.0,
        "Pulls 2-D linear weights towards zero at each step.",
        group="learning rate",
        ge=0,
        methods=("lora", "pissa", "miss", "full"),
        advice="States and one-dimensional parameters are never decayed.",
    )
    grad_clip: float = param(
        1.0,
        "Largest allowed norm of the gradient; 0 switches clipping off.",
        group="learning rate",
        ge=0,
        advice="1 protects a run from a single odd batch.",
    )
    accumulate_grad_batches: int = param(
        1,
        "Steps whose gradients are added up before the parameters move.",
        group="learning rate",
        ge=1,
        advice="A larger batch for the time, not the memory, of one.",
    )

    data_type: Literal["binidx", "jsonl", "utf-8", "utf-16le", "numpy", "uint16", "dummy", "wds_img"] = param(
        "binidx",
        "Format of data_file.",
        group="data",
        advice="binidx is the fastest and is what `data convert` writes.",
    )
    dataload: Literal["pad", "get", "only"] = param(
        "pad",
        "How documents become batches: pad fills up short ones, get cuts windows from the stream, "
        "only takes one whole document.",
        group="data",
        advice="pad for question and answer data; any micro_bsz.",
    )
    loss_mask: Literal["none", "pad", "qa", "se"] = param(
        "pad",
        "Which tokens are learned: none and pad take all of a document, qa only what follows 'Assistant:'.",
        group="data",
        advice="qa teaches answers without teaching questions; se does so between the two ids of mask_id.",
    )
    mask_id: JsonObject = param(
        {},
        "The token ids of loss_mask se: learning ends at id mask0 and begins after id mask1, "
        'e.g. {"mask0":"130","mask1":"131"}.',
        group="data",
        advice="The id that ends is learned too, or the model would never stop.",
    )
    val_split: float = param(
        0.0,
        "Documents held out to measure each epoch by: a share below 1, or their number; 0 holds out none.",
        group="data",
        ge=0,
        advice="0.05 is usual. Copies of a document never fall on both sides.",
    )
    early_stop: int = param(
        0,
        "Ends the run after N epochs without a better loss on what val_split holds out; 0 never does.",
        group="data",
        ge=0,
        advice="2 or 3. The best epoch so far is always saved then.",
    )
    vocab_size: int = param(
        0,
        "Size of the vocabulary; 0 takes it from the model.",
        group="data",
        ge=0,
        advice="Leave it at 0: a value that contradicts the model is refused.",
    )
    random_seed: int = param(
        0,
        "Seed of the data order and of whatever is initialised at random.",
        group="data",
        ge=0,
        advice="The same seed repeats a CPU run exactly.",
    )

    my_testing: Literal["auto", "x052", "x060", "x070"] = param(
        "auto",
        "The model's version: x052 is RWKV-5, x060 is RWKV-6, x070 is RWKV-7.",
        group="model",
        advice="auto reads it from the model file.",
    )
    n_layer: int = param(
        0, "Number of layers; 0 reads it from the model file.", group="model", ge=0,
        advice="Only a check, unless train_type none has no load_model: then it sizes the random weights.",
    )  # fmt: skip
    n_embd: int = param(
        0, "Width of the model; 0 reads it from the model file.", group="model", ge=0,
        advice="Only a check, unless train_type none has no load_model: then it sizes the random weights.",
    )  # fmt: skip
    pre_ffn: bool = param(
        False,
        "1: a first layer with a second feed-forward part in the place of its attention.",
        group="model",
        methods=("full",),
        advice="Only for random weights; a model file that has no such layer is refused.",
    )
    head_qk: int = param(
        0,
        "Width of an extra head that copies tokens from the context; 0: as the model file has it.",
        group="model",
        ge=0,
        methods=("full",),
        advice="Only for random weights; a model file without such a head is refused.",
    )

    train_type: Literal["auto", "none", "state", "infctx"] = param(
        "auto",
        "What is trained when peft is none: state tunes the initial state, none the whole model; "
        "infctx carries the state over long contexts.",
        group="method",
        advice="auto tunes the state unless peft says otherwise.",
    )
    chunk_ctx: int = param(
        512,
        "Tokens that infctx trains at once, carrying the state on to the next ones.",
        group="method",
        ge=1,
        advice="Memory grows with it and not with ctx_len; as large as fits.",
    )
    peft: Literal["none", "state", "lora", "pissa", "miss"] = param(
        "none",
        "The adapter that is trained.",
        group="method",
        advice="The state is the smallest and the quickest; adapters learn more facts.",
    )
    peft_config: JsonObject = param(
        {},
        "The adapter's own settings as JSON, by the names of Hugging Face peft: "
        '{"r":32,"lora_alpha":64,"use_dora":true}.',
        group="method",
        methods=("lora", "pissa", "miss"),
        advice="A larger r learns more and takes more memory; lora_alpha is usually twice r.",
    )
    lora_config: JsonObject = param(
        {},
        'The same by the names of the tutorial: {"lora_load":"","lora_r":32,"lora_alpha":64}. '
        "lora_load names an adapter to go on from.",
        group="method",
        methods=("lora", "pissa", "miss"),
    )
    train_parts: PartNames = param(
        "",
        "Parts of the model that are trained beside the adapter, by comma: emb, head, time, ln.",
        group="method",
        methods=("lora", "pissa", "miss"),
        advice="Empty keeps the adapter small; emb and head are large and only help with new tokens.",
    )
    optimizer: Literal["adam", "adamw"] = param(
        "adam",
        "How gradients move the parameters; they differ in weight_decay only: adam adds it to the gradient, "
        "adamw to the step.",
        group="method",
        advice="adam without weight_decay, adamw with it.",
    )
    quant: Literal["none", "int8", "nf4"] = param(
        "none",
        "Keeps the frozen weights in 8 or 4 bits.",
        group="method",
        methods=("state", "lora", "pissa", "miss"),
        advice="int8 loses less than nf4; none when the memory suffices.",
    )

    accelerator: Literal["auto", "gpu", "cpu"] = param(
        "auto", "Where the run computes.", group="hardware", advice="auto takes a GPU when there is one."
    )
    devices: int = param(
        1,
        "Number of GPUs (or processes on the CPU) on each machine.",
        group="hardware",
        ge=1,
        advice="Each takes micro_bsz documents a step: with more of them a step covers more data.",
    )
    num_nodes: int = param(
        1,
        "Number of machines; the same command runs on each, with its own node_rank and proj_dir.",
        group="hardware",
        ge=1,
        advice="docs/nodes.md has the commands.",
    )
    node_rank: int = param(0, "Which of num_nodes machines this is, from 0.", group="hardware", ge=0)
    main_address: str = param(
        "", "Name or address of machine 0, as the others reach it.", group="hardware",
        advice="Only for num_nodes above 1.",
    )  # fmt: skip
    main_port: int = param(
        29500,
        "A port on machine 0, where the machines meet; it and the next one must be free.",
        group="hardware",
        ge=1,
        le=65534,
    )
    precision: Literal["bf16", "fp16", "tf32", "fp32"] = param(
        "bf16",
        "Number format of the frozen weights and of the computation; what is trained is kept in fp32.",
        group="hardware",
        advice="bf16 on any recent GPU, fp16 on older ones; fp32 is usually faster on a CPU.",
    )
    strategy: Literal[
        "auto", "ddp", "deepspeed_stage_1", "deepspeed_stage_2", "deepspeed_stage_2_offload",
        "deepspeed_stage_3", "deepspeed_stage_3_offload",
    ] = param(
        "auto",
        "How the work is spread over devices: auto is ddp on several. The DeepSpeed stages divide the "
        "optimizer (1), the gradients too (2), the weights too (3); offload moves that to the host's memory.",
        group="hardware",
        advice="auto. What is trained is mostly small, and then the stages save little memory. Stage 3 keeps "
        "a part of the weights on each GPU while it trains, but every process first loads the whole model.",
    )  # fmt: skip
    grad_cp: Level = param(
        1,
        "Activation checkpointing: 1 recomputes each block in the backward pass, 2 each half of a block, "
        "whose input waits in the host's memory.",
        group="hardware",
        advice="0 is the fastest where memory suffices, 1 a third slower. 2 takes least: for long contexts "
        "and large models on a small GPU; a little slower than 1. On a CPU it is the same as 1.",
    )
    op: Literal["auto", "reference", "chunked", "cuda", "fla", "triton"] = param(
        "auto",
        "The operator of the recurrence.",
        group="hardware",
        advice="auto takes the fastest one that works here and says why others were declined. With those for "
        "GPUs the element-wise parts of the layers are fused, too, where that is faster.",
    )

    wandb: str = param("", "Project name on Weights & Biases; empty is none.", group="log")
    sample_prompt: str = param(
        "",
        "Questions that base and tuned model answer after each save and at the end, parted by ||; empty "
        "takes the first one of the data.",
        group="log",
        advice="Choose some whose answers show the manner you are after.",
    )
    sample_len: int = param(64, "Tokens of an answer; 0 answers nothing.", group="log", ge=0, le=4096)
    sample_share: float = param(
        0.02,
        "The share of the time that answers after saves may take at most; 0 answers only at the end.",
        group="log",
        ge=0,
        le=1,
        advice="0.02 slows nobody down: what does not fit is cut short or waits for a later save.",
    )
    eval_docs: int = param(
        32,
        "Documents whose loss is measured before and after the run; 0 measures nothing.",
        group="log",
        ge=0,
    )
    epoch_begin: int = param(
        0,
        "Number of the first epoch: file names, log and learning rate continue there.",
        group="log",
        ge=0,
        advice="0 for a new run.",
    )
    save_minutes: float = param(
        10.0,
        "Also save every N minutes, into the file of the running epoch; 0 saves at epochs only.",
        group="log",
        ge=0,
        advice="What a run that is killed can lose; `rwkv-tune resume` goes on from there.",
    )
    keep_checkpoints: int = param(
        0,
        "Keep only the newest N trained files; 0 keeps all.",
        group="log",
        ge=0,
        advice="0 lets you compare epochs; 1 or 2 saves disk when tuning a whole model.",
    )

    on_finish: str = param(
        "",
        "A shell command that the run starts when it has finished, was stopped or has failed; it finds "
        "RWKV_TUNE_RUN, RWKV_TUNE_STATUS, RWKV_TUNE_LOSS and RWKV_TUNE_PROJ_DIR in its environment.",
        group="log",
        typed_only=True,
        advice="Nobody need watch. A run that is killed, or whose machine goes down, calls nothing. No "
        "preset or script can bring it: you would run somebody else's command.",
    )

    @model_validator(mode="before")
    @classmethod
    def _name_the_pair(cls, values: Any) -> Any:
        """A binidx data set is named without its suffix; accept the name of either half."""
        if not isinstance(values, dict) or values.get("data_type", "binidx") != "binidx":
            return values
        path = _clean_path(values.get("data_file"))
        if isinstance(path, Path) and path.suffix in (".bin", ".idx"):
            return {**values, "data_file": path.with_suffix("")}
        return values

    @property
    def mask_ids(self) -> tuple[int, int] | None:
        """(start, end) of loss_mask se, when mask_id says both as ids that differ."""
        try:
            start, end = int(self.mask_id["mask1"]), int(self.mask_id["mask0"])
        except (KeyError, TypeError, ValueError):
            return None
        return (start, end) if start != end and min(start, end) >= 0 else None

    @property
    def sample_prompts(self) -> tuple[str, ...]:
        """The questions of sample_prompt, one by one."""
        return tuple(part.strip() for part in self.sample_prompt.split("||") if part.strip())

    @property
    def method(self) -> Method:
        """What is trained. `train_type` and `peft` are the incumbent's two names for one choice."""
        if self.peft != "none":
            return self.peft
        return "full" if self.train_type in ("none", "infctx") else "state"

    @property
    def from_random(self) -> bool:
        """Whether a model is made instead of read."""
        sizes = self.n_layer and self.n_embd and self.my_testing != "auto"
        return self.load_model is None and self.method == "full" and bool(sizes)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run; each takes `step_documents`."""
        return self.epoch_steps * self.epoch_count

    @property
    def processes(self) -> int:
        """Devices of all machines; each has a process of its own."""
        return self.devices * self.num_nodes

    @property
    def step_documents(self) -> int:
        """Documents that one step takes, on all devices together."""
        return self.micro_bsz * self.processes


@functools.cache
def train_params() -> dict[str, Param]:
    """The declaration above, as flags, forms, presets and documentation read it."""
    return params_of(TrainSettings)
