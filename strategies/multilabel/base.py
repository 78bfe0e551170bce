"""What multi-label methods share: a loss over annotated entries, distillation of sigmoids, batches half from memory.

Labels are (B, C), 1 = positive, 0 = negative, -1 = not annotated; columns as in the head's output. Every loss is summed
over classes and averaged over the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Lt
from avalanche.core import BasePlugin
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor
from torch.utils.data import Sampler

from strategies.networks.precision import full_precision
from strategies.training.distillation import TeacherPlugin
from strategies.training.features import training_batches
from strategies.training.losses import asymmetric_distillation_loss, asymmetric_loss
from strategies.training.recipe import Context, Recipe, last_batch_of
from strategies.training.seeds import derive_seed
from strategies.training.seen_classes import SeenClassesPlugin

Missing = Literal["masked", "negative"]


class AnnotatedLoss(SeenClassesPlugin):
    """Asymmetric loss over the seen classes' annotated entries; plain binary cross-entropy by default.

    missing : "masked" leaves entries that are not annotated out; "negative" takes them for negatives.
    """

    def __init__(
        self, gamma_pos: float = 0.0, gamma_neg: float = 0.0, clip: float = 0.0, missing: Missing = "masked"
    ) -> None:
        super().__init__()
        self.gamma_pos, self.gamma_neg, self.clip, self.missing = gamma_pos, gamma_neg, clip, missing

    def __call__(self, output: Tensor, labels: Tensor) -> Tensor:
        """Output (B, width) and labels (B, K) -> scalar."""
        logits, targets = full_precision(self.seen.logits(output)), self.seen.targets(labels)
        mask = targets >= 0 if self.missing == "masked" else None
        return asymmetric_loss(logits, targets.clamp_min(0), mask, self.gamma_pos, self.gamma_neg, self.clip)


class AsymmetricDistillationPlugin(TeacherPlugin):
    """Adds weight * `asymmetric_distillation_loss` on every image's old columns; eta = 0 is sigmoid distillation."""

    def __init__(self, weight: float = 1.0, eta: float = 0.0, variant: str = "positive") -> None:
        super().__init__()
        self.weight, self.eta, self.variant = weight, eta, variant

    def combine(self, strategy: Any, loss: Tensor) -> Tensor:
        if not self.weight:
            return loss
        student = full_precision(self.seen.old_logits(strategy.mb_output))
        teacher = self.teacher_outputs(strategy)[1]
        return loss + self.weight * asymmetric_distillation_loss(student, teacher, self.eta, variant=self.variant)


class SharedOrder(Sampler[int]):
    """Positions of an epoch in which every new image comes once and every batch has a fixed part from memory.

    Memory is gone through in random order, again from the start when it runs out. The last batch may be shorter, or the
    last two (`training.recipe`), with the same share. Positions [0, num_new) are new images, the others memory.
    """

    def __init__(
        self,
        num_new: int,
        num_memory: int,
        batch_size: int,
        share: float,
        generator: torch.Generator,
        last_batch: str = "keep",
    ) -> None:
        self.num_new, self.num_memory, self.generator = num_new, num_memory, generator
        self.last_batch = last_batch
        self.replayed = min(max(round(share * batch_size), 1), batch_size - 1)  # in a full batch
        self.fresh = batch_size - self.replayed

    def _sizes(self) -> list[tuple[int, int]]:
        """(new, replayed) images of every batch."""
        full, rest = divmod(self.num_new, self.fresh)
        last = [(rest, round(rest * self.replayed / self.fresh))] if rest else []
        sizes = [(self.fresh, self.replayed)] * full + last
        if full and last and self.last_batch == "even":
            new, replayed = map(sum, zip(*sizes[-2:], strict=True))
            fresh = new - new // 2
            first = (fresh, new + replayed - (new + replayed) // 2 - fresh)
            sizes[-2:] = [first, (new - fresh, replayed - first[1])]
        return sizes

    def __len__(self) -> int:
        return sum(map(sum, self._sizes()))

    def __iter__(self) -> Iterator[int]:
        sizes = self._sizes()
        wanted = sum(replayed for _, replayed in sizes)
        new = torch.randperm(self.num_new, generator=self.generator).tolist()
        memory: list[int] = []
        while len(memory) < wanted:
            memory += (torch.randperm(self.num_memory, generator=self.generator) + self.num_new).tolist()
        for fresh, replayed in sizes:
            yield from new[:fresh]
            yield from memory[:replayed]
            del new[:fresh], memory[:replayed]


class MemoryShare(SupervisedPlugin):
    """From the second experience on, draws `share` of every batch from memory; an epoch passes the new images once.

    With 0.5 it is twice as long as the new data, whatever the size of the memory.
    """

    def __init__(self, share: float, seed: int) -> None:
        super().__init__()
        self.share, self.seed = share, seed

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        new, everything = len(strategy.experience.dataset), len(strategy.adapted_dataset)
        if everything == new:
            return
        if hasattr(strategy, "generator"):
            generator = strategy.generator
        else:  # a stock Avalanche strategy
            generator = torch.Generator().manual_seed(derive_seed(self.seed, strategy.experience.current_experience))
        order = SharedOrder(
            new, everything - new, strategy.train_mb_size, self.share, generator, last_batch_of(strategy)
        )
        strategy.dataloader = training_batches(
            strategy, strategy.adapted_dataset, strategy.train_mb_size, generator, sampler=order
        )


@dataclass(frozen=True, kw_only=True)
class MultiLabelRecipe(Recipe):
    """Base of the multi-label methods that may replay.

    memory_share : part of every batch that comes from memory, 0.5 in the comparisons of the literature; 0 shuffles new
        images and exemplars together, as the single-label methods do.
    """

    task_kind: ClassVar[str] = "multi"
    memory_share: Annotated[float, Ge(0), Lt(1)] = 0.0

    def replay(self, context: Context) -> list[BasePlugin]:
        """The exemplar memory, first, and what brings it into the batches."""
        share = [MemoryShare(self.memory_share, context.seed)] if self.memory_share else []
        return [context.exemplars(), *share]
