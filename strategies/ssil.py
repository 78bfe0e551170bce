"""SS-IL, separated softmax: Ahn et al., SS-IL: Separated softmax for incremental learning, ICCV 2021.

New images compete among the new columns only and exemplars among the old ones, one mean over both; old and new are
calibrated by distillation alone, with a softmax of its own for the columns of each earlier experience, KL at
temperature 2 times its square, summed over experiences. Every batch is a batch of new images with a quarter as many
exemplars behind it (128 + 32 in the paper), from a loader of their own.

No term compares the columns of one experience with those of another: how far they compete at all is left to the
network, which does well on experiences of many classes and badly where an experience has two.

Deviations: an epoch is one pass over the new data, the exemplars starting again when they run out (the released code
ends with the shorter of the two) and partial batches are kept; the learning rate is the run's, not divided by the
number of experiences. `weight` 0.25 takes the squared temperature out, as LT-CIL does; that code also adds the mean
over new images to the mean over exemplars, where one mean is taken over both here, and drops partial batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor

from strategies.networks.heads import LinearHead
from strategies.training.criteria import SeenCrossEntropy
from strategies.training.distillation import TaskWiseDistillationPlugin
from strategies.training.paired_batches import PairedBatchesPlugin
from strategies.training.recipe import Context, Parts, Recipe


class SeparatedSoftmax(SeenCrossEntropy):
    """Cross-entropy over the new columns for new images and over the old columns for old ones, mean over the batch."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        is_new_column = torch.arange(logits.shape[1], device=logits.device) >= self.seen.num_old
        own = is_new_column == (targets >= self.seen.num_old)[:, None]
        return F.cross_entropy(logits.masked_fill(~own, -torch.inf), targets)


@dataclass(frozen=True, kw_only=True)
class SSIL(Recipe):
    """Separated softmax and task-wise distillation; `replay_share` exemplars per new image in a batch."""

    name: ClassVar[str] = "ssil"
    reference: ClassVar[str] = "Ahn et al., SS-IL: Separated softmax for incremental learning, ICCV 2021"
    requires_memory: ClassVar[bool] = True
    weight: Annotated[float, Ge(0)] = 1.0
    temperature: Annotated[float, Gt(0)] = 2.0
    replay_share: Annotated[float, Gt(0)] = 0.25

    def build(self, context: Context) -> Parts:
        memory = context.exemplars()
        return Parts(
            head=LinearHead(context.num_features),
            criterion=SeparatedSoftmax(),
            plugins=[
                memory,
                PairedBatchesPlugin(memory, self.replay_share),
                TaskWiseDistillationPlugin(self.weight, self.temperature),
            ],
        )
