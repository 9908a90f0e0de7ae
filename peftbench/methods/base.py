"""What every method is: hyper-parameters, a card, capabilities, and a way to attach."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from torch import Tensor, nn

from peftbench.doors import Attachment, Context
from peftbench.errors import ConfigurationError


@dataclass(frozen=True)
class Capabilities:
    """What a method can do, as data; checked against the configuration before anything is loaded.

    Attributes:
        mergeable: its update folds into the backbone's weights.
        exports_peft: its export loads with `peft.PeftModel.from_pretrained`.
        gated: it reads the sparsity schedule.
        trains_without_head: something trains even where the head is frozen.
        identity_at_start: attaching it leaves the backbone's outputs as they were.
        quantised_base: whether the backbone's linear maps may be in 4 bits.
    """

    mergeable: bool = False
    exports_peft: bool = False
    gated: bool = False
    trains_without_head: bool = True
    identity_at_start: bool = True
    quantised_base: Literal["needed", "allowed", "refused"] = "refused"


@dataclass(frozen=True)
class Method(ABC):
    """A method's hyper-parameters. Its docstring is its card; `conf/method/<name>.yaml` has the same keys."""

    name: ClassVar[str]
    default_lr: ClassVar[float] = 1e-3
    capabilities: ClassVar[Capabilities] = Capabilities()

    def positions_taken(self, model: nn.Module) -> int:
        """Positions of the backbone that the method takes away from the input's own tokens."""
        return 0

    def check(self, head: str, merge: bool) -> None:
        """Refuse what the method cannot do, before anything is loaded.

        Args:
            head: the trainer's head policy, `train` or `freeze`.
            merge: whether a merged backbone is asked for.

        Raises:
            ConfigurationError: nothing would train, or there is nothing to merge.
        """
        if merge and not self.capabilities.mergeable:
            raise ConfigurationError("trainer.merge=true: this method cannot be folded into the backbone")
        if head == "freeze" and not self.capabilities.trains_without_head:
            raise ConfigurationError("trainer.head=freeze: this method trains only the head, so nothing would train")

    @classmethod
    def by_row(
        cls, methods: Sequence[Self], model: nn.Module, context: Context, results: Sequence[Mapping[str, Tensor]]
    ) -> Callable[[Tensor], None]:
        """Put several trained results of this method on one model, so that each row of a batch has its own.

        Args:
            methods: the hyper-parameters of each.
            model: the backbone, all of it frozen.
            context: see `Context`.
            results: the exported tensors of each.

        Returns:
            To be called with (B,) indices into `results` before a forward.

        Raises:
            ConfigurationError: the method's result is not made of virtual tokens.
        """
        raise ConfigurationError(
            f"{cls.name}: its result changes the backbone for all rows alike; mixed batches take virtual tokens"
            " (prompt_tuning, p_tuning, prefix_tuning, p_tuning_v2)"
        )

    @abstractmethod
    def attach(self, model: nn.Module, context: Context) -> Attachment:
        """Change `model` (all of it frozen) and return the live attachment."""
