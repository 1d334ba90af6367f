"""How a run is spread over processes: not at all, as replicas (ddp), or in parts (DeepSpeed's ZeRO).

Each `Spread` says what Lightning needs and what the rest of training must know of it: how gradients meet,
who takes the step, and how what is trained is found whole again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from engine.contract.errors import UserError
from engine.contract.i18n import _
from engine.contract.settings import TrainSettings
from engine.packages import importing
from engine.train.group import Group

if TYPE_CHECKING:  # Lightning and DeepSpeed take seconds to import
    from engine.train.lightning import pl


class Spread:
    """A run of one process, and what the others have in common with it."""

    whole = True  # whether each process has the whole model
    moves = False  # whether the library takes the step: clipping, gradients and all
    factor = 1  # of a process's part of the loss, before its backward pass

    def __init__(self, settings: TrainSettings, group: Group, device: str) -> None:
        self.settings, self.group, self.device = settings, group, device

    @property
    def kind(self) -> str:
        """What a resumed run must have in common with what it was."""
        return "one process"  # unsaid

    def check(self) -> None:
        """Raises UserError when a library that it needs cannot be had; comes before the long loading."""

    def lightning(self) -> dict[str, Any]:
        """The trainer's arguments."""
        return {"strategy": "auto", "devices": 1}

    def reduce(self, parameters: Iterable[nn.Parameter]) -> None:
        """Makes each gradient that of all processes, before the step."""

    def norm(self, engine: Any) -> float:
        """The gradient's norm in the step that the library has taken."""
        raise NotImplementedError

    def scale_by(self, optimizer: Any, scaler: torch.amp.GradScaler) -> None:
        """Has the library that takes the step scale the loss before, and the gradients back after."""
        raise NotImplementedError

    def optimizer_state(self, optimizer: Any) -> Any:
        """This process's part of what the optimizer remembers, as plain values and tensors."""
        return optimizer.state_dict()

    def load_optimizer(self, optimizer: Any, state: Any) -> None:
        optimizer.load_state_dict(state)

    @contextlib.contextmanager
    def gathered(self, model: nn.Module) -> Iterator[None]:
        """What is trained is whole in leading processes; all must enter."""
        yield

    @contextlib.contextmanager
    def readable(self, parameter: Tensor) -> Iterator[None]:
        """A parameter that is used outside its module's forward is whole; all must enter."""
        yield


class Replicas(Spread):
    """Each process has the model; gradients are added up once, before the step.

    Lightning's wrapper would do so in each backward pass: an accumulation has several, and chunks have, too.
    """

    @property
    def kind(self) -> str:
        return f"ddp over {self.group.size} processes"  # unsaid

    def lightning(self) -> dict[str, Any]:
        from engine.train.lightning import pl

        group = self.group

        class Ddp(pl.strategies.DDPStrategy):
            def configure_ddp(self) -> None:
                assert self.lightning_module is not None
                group.copy_first(_trained(self.lightning_module))

        return {
            "strategy": Ddp(cluster_environment=_environment(group)),
            "devices": self.settings.devices, "num_nodes": self.settings.num_nodes,
        }  # fmt: skip

    def reduce(self, parameters: Iterable[nn.Parameter]) -> None:
        self.group.add_up(p.grad for p in parameters if p.grad is not None)


class Zero(Spread):
    """DeepSpeed: the optimizer (stage 1), gradients (2) and weights (3) are cut into a part a process."""

    moves = True

    def __init__(self, settings: TrainSettings, group: Group, device: str) -> None:
        super().__init__(settings, group, device)
        self.stage = int(settings.strategy.split("_")[2])
        self.whole = self.stage < 3
        self.factor = group.size  # DeepSpeed averages over the processes

    @property
    def kind(self) -> str:
        return f"{self.settings.strategy} over {self.group.size} process" + "es" * (self.group.size > 1)

    def check(self) -> None:
        # DeepSpeed asks nothing but this variable, as soon as it is imported.
        os.environ["DS_ACCELERATOR"] = self.device
        try:
            with importing():
                import deepspeed  # type: ignore[import-untyped]

            # Its own collectives for the CPU want a compiler, and gloo is there already.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        except Exception as error:  # a broken installation may raise anything
            reason = (str(error).strip().splitlines() or [_("no message")])[0].rstrip(".")
            raise UserError(
                _(
                    "strategy: {strategy} needs DeepSpeed, which does not load here ({name}: {reason}).",
                    strategy=self.settings.strategy,
                    name=type(error).__name__,
                    reason=reason,
                ),
                _(
                    "Set strategy to ddp (several devices) or auto, which train the same without it, or "
                    "mend it with `pip install --force-reinstall deepspeed`."
                ),
            ) from error

    def lightning(self) -> dict[str, Any]:
        return {
            "strategy": _zero_strategy(self._config(), _environment(self.group)),
            "devices": self.settings.devices, "num_nodes": self.settings.num_nodes,
        }  # fmt: skip

    def _config(self) -> dict[str, Any]:
        s = self.settings
        zero: dict[str, Any] = {"stage": self.stage, "overlap_comm": False}
        if s.strategy.endswith("_offload"):
            host = {"device": "cpu", "pin_memory": self.device == "cuda"}
            zero |= {"offload_optimizer": host} | ({"offload_param": host} if self.stage == 3 else {})
        return {
            "train_micro_batch_size_per_gpu": s.micro_bsz,
            "managed_gradient_accumulation": False,  # the step comes when we say so
            "gradient_clipping": s.grad_clip,
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,  # torch's own is as fast, and needs no compiler
        }

    def norm(self, engine: Any) -> float:
        return float(engine.get_global_grad_norm())

    def scale_by(self, optimizer: Any, scaler: torch.amp.GradScaler) -> None:
        if scaler.is_enabled():
            optimizer.override_loss_scale(scaler.get_scale())

    def optimizer_state(self, optimizer: Any) -> Any:
        return [optimizer.optimizer.state.get(part, {}) for part in self._parts(optimizer)]

    def load_optimizer(self, optimizer: Any, state: Any) -> None:
        for part, saved in zip(self._parts(optimizer), state, strict=True):
            # The count of steps, too: fused Adam reads it on the device.
            optimizer.optimizer.state[part] = {name: t.to(part.device) for name, t in saved.items()}

    def _parts(self, optimizer: Any) -> list[Tensor]:
        """The process's own stretch of what is trained, flat, by parameter group."""
        name = "fp32_partitioned_groups_flat" if self.stage == 3 else "single_partition_of_fp32_groups"
        return list(getattr(optimizer, name))

    @contextlib.contextmanager
    def gathered(self, model: nn.Module) -> Iterator[None]:
        if self.whole:
            yield
            return
        import deepspeed

        # One by one into the host's memory: a model that is spread may not fit into one device.
        kept: list[tuple[nn.Parameter, Tensor]] = []
        for p in _trained(model):
            with deepspeed.zero.GatheredParameters([p]):
                if self.group.leads:
                    kept.append((p, p.detach().to("cpu", copy=True)))
        try:
            for i, (p, values) in enumerate(kept):
                kept[i], p.data = (p, p.data), values
            yield
        finally:
            for p, part in kept:
                p.data = part

    @contextlib.contextmanager
    def readable(self, parameter: Tensor) -> Iterator[None]:
        if self.whole or not hasattr(parameter, "ds_id"):
            yield
            return
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            yield


def spread_for(settings: TrainSettings, group: Group, device: str) -> Spread:
    """What the settings ask for; auto is ddp where there are several processes, and never DeepSpeed."""
    if settings.strategy.startswith("deepspeed"):
        return Zero(settings, group, device)
    return (Replicas if group.size > 1 else Spread)(settings, group, device)


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def _environment(group: Group) -> Any:
    """Lightning's idea of where a process stands: it starts none, ours are there."""
    from pytorch_lightning.plugins.environments import LightningEnvironment  # type: ignore[attr-defined]

    place = group.place

    class Environment(LightningEnvironment):
        creates_processes_externally = True

        def local_rank(self) -> int:
            return place.local

        def node_rank(self) -> int:
            return place.rank // place.here

    made = Environment()
    made.set_global_rank(place.rank)
    made.set_world_size(place.size)
    return made


def _zero_strategy(config: dict[str, Any], environment: Any) -> pl.strategies.DeepSpeedStrategy:
    """Lightning's strategy, which insists on CUDA, made to work on the CPU as well."""
    from lightning_fabric.utilities.seed import reset_seed

    from engine.train.lightning import pl

    class Precision(pl.plugins.precision.DeepSpeedPrecision):
        def convert_module(self, module: nn.Module) -> nn.Module:
            return module  # the weights' own type decides

    class DeepSpeed(pl.strategies.DeepSpeedStrategy):
        @property
        def root_device(self) -> torch.device:
            device = super().root_device
            return torch.device("cpu", self.local_rank) if device.type == "cpu" else device

        def setup_environment(self) -> None:
            pl.strategies.DDPStrategy.setup_environment(self)

        def setup_distributed(self) -> None:
            if self.root_device.type == "cuda":
                super().setup_distributed()
                return
            reset_seed()
            self.set_world_ranks()
            self._init_deepspeed_distributed()

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            # The engine's forward is one chunk, see TuneModule.
            assert self.lightning_module is not None
            return self.lightning_module.training_step(*args, **kwargs)

    return DeepSpeed(
        config=config, cluster_environment=environment, precision_plugin=Precision("32-true"),
    )  # fmt: skip
