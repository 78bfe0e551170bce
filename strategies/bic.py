"""BiC, bias correction: Wu et al., Large scale incremental learning, CVPR 2019.

Stage 1: (1 - lambda) CE + lambda KD at temperature 2, lambda = C_o / C, student logits uncorrected, teacher logits with
the correction learned after the previous experience. Stage 2: freeze the network and learn two numbers, z' = alpha z +
beta on the new columns, on a balanced validation set split off from exemplars and new data, with CE + 0.1 beta^2 / 2.

Validation: a tenth of the exemplar quota per class, at least one image, never a class's last one (in long tails the
official fixed number would empty a class). `apply` "newest" (official) corrects the newest columns only: distillation
has pulled older ones to the corrected scale already; "all" keeps every correction, in the teacher, in predictions and,
so that distillation compares like with like, in the student of stage 1 (FACIL, LT-CIL).

Deviation: weight decay is the run's, where the released code's falls along the stream, 1e-4 T / (t + 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge
from avalanche.benchmarks.utils import AvalancheDataset
from torch import Tensor, nn

from strategies.networks.heads import LinearHead
from strategies.training.criteria import SeenCrossEntropy
from strategies.training.distillation import ClassShareDistillationPlugin
from strategies.training.labels import class_positions
from strategies.training.memory import ExemplarMemoryPlugin
from strategies.training.recipe import Context, Parts, Recipe
from strategies.training.schedule import Schedule
from strategies.training.seen_classes import SeenClassesPlugin
from strategies.training.stages import Stage


class BiasCorrectedHead(LinearHead):
    """A linear head with one (alpha, beta) per experience.

    `apply` "newest": the newest acts, in eval mode. "all": all act, in training all but the one still to be learned.

    Attributes
    ----------
    corrections : one (2,) parameter [alpha, beta] per experience, untrained in stage 1; the first is never changed.
    columns : (C_t,) the columns each of them acts on.
    """

    def __init__(self, num_features: int, apply: str = "newest") -> None:
        super().__init__(num_features)
        self.apply_to = apply
        self.corrections = nn.ParameterList()
        self.columns: list[Tensor] = []

    def adaptation(self, experience: Any) -> None:
        super().adaptation(experience)
        if self.training:
            columns, device = sorted(int(c) for c in experience.classes_in_this_experience), self.linear.weight.device
            self.columns.append(torch.tensor(columns).to(device))  # now: making it in a step would wait for the device
            identity = torch.tensor([1.0, 0.0]).to(self.linear.weight)
            self.corrections.append(nn.Parameter(identity, requires_grad=False))

    def correct(self, logits: Tensor) -> Tensor:
        """Apply alpha z + beta: the newest correction, or all."""
        return self._corrected(logits, slice(-1, None) if self.apply_to == "newest" else slice(None))

    def _corrected(self, logits: Tensor, which: slice) -> Tensor:
        alpha, beta = torch.ones_like(logits[0]), torch.zeros_like(logits[0])
        for columns, correction in list(zip(self.columns, self.corrections, strict=True))[which]:
            index = columns.to(logits.device)  # they are there, unless the head was moved
            alpha = alpha.index_copy(0, index, correction[0].expand(len(columns)))
            beta = beta.index_copy(0, index, correction[1].expand(len(columns)))
        return alpha * logits + beta

    def scores(self, features: Tensor) -> Tensor:
        logits = super().scores(features)
        if not self.training:
            return self.correct(logits)
        return logits if self.apply_to == "newest" else self._corrected(logits, slice(None, -1))

    def reset(self) -> None:
        self.__init__(self.num_features, self.apply_to)  # type: ignore[misc]


class ValidationSplitPlugin(SeenClassesPlugin):
    """Takes a class-balanced validation set out of the training data; put it behind the exemplar memory."""

    def __init__(self, memory: ExemplarMemoryPlugin, share: float, seed: int) -> None:
        super().__init__()
        self.memory, self.share, self.seed = memory, share, seed
        self.validation: AvalancheDataset | None = None

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        self.validation = None
        if not self.seen.num_seen:  # the first experience has no bias to correct
            return
        dataset = strategy.adapted_dataset
        wanted = max(1, int(self.share * self.memory.quota(self.seen.num_seen)))
        chosen: list[int] = []
        for label, positions in class_positions(dataset).items():
            rng = np.random.default_rng([self.seed, strategy.experience.current_experience, label])
            chosen += rng.permutation(positions)[: min(wanted, len(positions) - 1)].tolist()
        if not chosen:  # no class can spare an image: nothing to learn a correction from
            return
        self.validation = dataset.subset(sorted(chosen))
        strategy.adapted_dataset = dataset.subset(np.setdiff1d(np.arange(len(dataset)), chosen).tolist())


@dataclass(frozen=True, kw_only=True)
class BiC(Recipe):
    """Distillation, then a two-parameter correction of the new logits."""

    name: ClassVar[str] = "bic"
    reference: ClassVar[str] = "Wu et al., Large scale incremental learning, CVPR 2019"
    requires_memory: ClassVar[bool] = True
    apply: Literal["newest", "all"] = "newest"
    stage_epochs: Annotated[int, Ge(1)] = 200
    stage_lr: Annotated[float, Ge(0)] = 0.1

    def build(self, context: Context) -> Parts:
        memory = context.exemplars()
        split = ValidationSplitPlugin(memory, 0.1, context.seed)
        correction = Stage(
            name="bias_correction",
            epochs=self.stage_epochs,
            batch_size=context.batch_size,
            lr=self.stage_lr,
            schedule=Schedule("multistep", (0.3, 0.6, 0.8, 0.9)),  # 60, 120, 160, 180 of 200
            data=lambda strategy: split.validation,
            parameters=newest_correction,
            loss=correction_loss,
        )
        return Parts(
            head=BiasCorrectedHead(context.num_features, self.apply),
            criterion=SeenCrossEntropy(),
            plugins=[memory, split, ClassShareDistillationPlugin()],
            stages=[correction],
        )


def newest_correction(strategy: Any) -> Sequence[nn.Parameter]:
    """The (alpha, beta) of the current experience."""
    return [strategy.model.head.corrections[-1]]


def correction_loss(strategy: Any, features: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
    """CE over all corrected logits + 0.1 beta^2 / 2."""
    head = strategy.model.head
    with torch.no_grad():
        raw = head.linear(features)
    beta = head.corrections[-1][1]
    return strategy._criterion(head.correct(raw), targets) + 0.1 * beta.square() / 2
