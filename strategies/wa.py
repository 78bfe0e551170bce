"""WA, weight aligning: Zhao et al., Maintaining discrimination and fairness in class incremental learning, CVPR 2020.

Training: (1 - lambda) CE + lambda KD at temperature 2 with lambda = C_o / C. After each later experience the new rows
of the head are scaled so that their mean norm equals that of the old rows; biases stay. The aligned model is the next
teacher. Deviation: no clamping of the head's weights at 0 during training (nor does PyCIL).

On long tails one factor aligns groups only; where old classes are the head and new ones the tail it exceeds 1 and
amplifies new rows. It is left unclipped, as defined.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Gt
from torch import Tensor

from strategies.networks.heads import LinearHead
from strategies.training.criteria import SeenCrossEntropy
from strategies.training.distillation import ClassShareDistillationPlugin
from strategies.training.recipe import Context, Parts, Recipe
from strategies.training.seen_classes import SeenClassesPlugin


def weight_aligning_factor(weight: Tensor, num_old: int) -> Tensor:
    """gamma = mean norm of old rows / mean norm of new rows (Eq. 7), a scalar tensor.

    Parameters
    ----------
    weight : (C, d) rows of the head, old classes first.
    num_old : number of old classes, at least 1 and less than C.

    Raises
    ------
    ValueError : there are no old or no new rows.
    """
    if not 0 < num_old < len(weight):
        raise ValueError(f"Weight aligning needs old and new rows, got num_old = {num_old} of {len(weight)} rows.")
    norms = weight.norm(dim=1)
    return norms[:num_old].mean() / norms[num_old:].mean()


class WeightAligningPlugin(SeenClassesPlugin):
    """Scales the new rows of the head after each experience but the first, by `factor` the last time."""

    factor: Tensor | None = None

    @torch.no_grad()
    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        if not self.seen.num_old:
            return
        weight = strategy.model.head.linear.weight
        columns = self.seen.columns_on(weight.device)
        self.factor = weight_aligning_factor(weight[columns], self.seen.num_old)
        weight[columns[self.seen.num_old :]] *= self.factor

    def diagnostics(self) -> dict[str, float | None]:
        """The factor of the experience just trained, None after the first."""
        return {"factor": None if self.factor is None else float(self.factor)}


@dataclass(frozen=True, kw_only=True)
class WA(Recipe):
    """Distillation, then weight aligning."""

    name: ClassVar[str] = "wa"
    reference: ClassVar[str] = (
        "Zhao et al., Maintaining discrimination and fairness in class incremental learning, CVPR 2020"
    )
    requires_memory: ClassVar[bool] = True
    temperature: Annotated[float, Gt(0)] = 2.0

    def build(self, context: Context) -> Parts:
        return Parts(
            head=LinearHead(context.num_features),
            criterion=SeenCrossEntropy(),
            plugins=[
                context.exemplars(),
                ClassShareDistillationPlugin(temperature=self.temperature),
                WeightAligningPlugin(),
            ],
        )
