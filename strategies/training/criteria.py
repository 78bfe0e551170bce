"""Training criteria that know which classes were seen, whatever the width of the head.

Each is both the criterion of a strategy, `criterion(output, labels)`, and a plugin: Avalanche runs its hooks when it is
passed as `criterion`. Before the first experience they are plain cross-entropy. In evaluation, images of classes never
trained are skipped (a batch of nothing else has loss nan).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from strategies.networks.precision import full_precision
from strategies.training.seen_classes import IGNORED, ClassCounts, SeenClasses, SeenClassesPlugin, replays_from_loader


class SeenCrossEntropy(SeenClassesPlugin):
    """Cross-entropy over the seen classes, mean over the batch."""

    def __call__(self, output: Tensor, labels: Tensor) -> Tensor:
        """Output (B, width) and class ids (B,) -> scalar."""
        if self.seen.num_seen == 0:
            return F.cross_entropy(full_precision(output), labels)
        return self.loss(full_precision(self.seen.logits(output)), self.seen.targets(labels))

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits of seen classes (B, C_seen) and arrival positions (B,) -> scalar."""
        return F.cross_entropy(logits, targets)


class NewCrossEntropy(SeenCrossEntropy):
    """Cross-entropy over the new columns alone; images of old classes are skipped (FACIL without exemplars).

    The loss of a batch of old images alone is 0: beside many exemplars, a tiny experience has such batches.
    """

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        num_old = self.seen.num_old
        new = torch.where(targets < num_old, IGNORED, targets - num_old)
        total = F.cross_entropy(logits[:, num_old:], new, reduction="sum")
        return total / (new != IGNORED).sum().clamp_min(1)


class BalancedSoftmax(SeenCrossEntropy):
    """Cross-entropy of `logits + log prior` over the seen classes: balanced softmax, GR's regularised softmax (Eq. 4).

    The prior is each class's share of the images the experience really trains on, exemplars included; a class without
    any has prior 0 and is left out. With Avalanche's `ReplayPlugin`, which draws part of every batch from its buffer,
    the images are counted, not the draws.
    """

    def __init__(self, seen: SeenClasses | None = None) -> None:
        super().__init__(seen)
        self.counts = ClassCounts(self.seen)
        self._log_prior = torch.zeros(0)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits + self._log_prior.to(logits), targets)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._count(strategy)

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        if replays_from_loader(strategy):
            self._count(strategy)

    def state_dict(self) -> dict[str, Any]:
        return self.counts.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.counts.load_state_dict(state)
        self._set_prior(self._log_prior.device)

    def _count(self, strategy: Any) -> None:
        self.counts.update(strategy)
        self._set_prior(strategy.device)

    def counted(self) -> Tensor:
        """(C_seen,) the images per class that the prior is taken from."""
        return self.counts.available

    def _set_prior(self, device: torch.device) -> None:
        images = self.counted().double()
        log_prior = (images / images.sum().clamp_min(1)).log()
        self._log_prior = (log_prior.float() if device.type == "mps" else log_prior).to(device)  # mps has no float64
