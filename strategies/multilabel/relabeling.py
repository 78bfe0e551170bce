"""Fills the labels that exemplars lack, at the end of every experience (online relabeling, RebLL).

Verified (RebLL, Fig. 3, second-hand): of an exemplar, labels of classes newer than it are filled by the current model,
labels of classes older than it by the past model. Interpretation: hard labels by a threshold tau, both models asked at
the end of the experience, once per entry; nothing is filled while an experience trains.
"""

from __future__ import annotations

from typing import Any

import torch
from avalanche.benchmarks.utils import AvalancheDataset
from torch import Tensor

from strategies.training.distillation import TeacherPlugin
from strategies.training.features import extract_features
from strategies.training.labels import rows_array
from strategies.training.memory import ExemplarMemoryPlugin
from strategies.training.seen_classes import SeenClassesPlugin

Counts = dict[str, int]


class RelabelingPlugin(SeenClassesPlugin):
    """Base: asks `labels` for the seen classes and fills what is missing; put it behind the memory.

    Attributes
    ----------
    label_counts : tp, fp, fn, tn of the memory's labels on seen classes against the complete labels, "before" (missing
        ones read as negative) and "after" this experience's filling, and of the filled entries alone ("pseudo"). For
        the record only: no training reads complete labels.
    """

    def __init__(self, memory: ExemplarMemoryPlugin) -> None:
        super().__init__()
        self.memory = memory
        self.label_counts: dict[str, Counts] = {}

    def labels(self, strategy: Any) -> Tensor:
        """(n, C_seen) int8 of 0 and 1 for the rows of `memory.dataset()`."""
        raise TypeError(f"{type(self).__name__} must define labels(strategy)")

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.label_counts = {}
        exemplars = self.memory.dataset()
        if exemplars is None:
            return
        rows, truth = self.memory.annotations(), complete_labels(exemplars)[:, : self.seen.num_seen]
        seen = rows[:, : self.seen.num_seen]  # a view
        missing = seen < 0
        self.label_counts["before"] = count_labels(seen.clamp_min(0), truth)
        if missing.any():
            seen[missing] = self.labels(strategy)[missing]
            self.memory.set_annotations(rows)
        self.label_counts["after"] = count_labels(seen, truth)
        self.label_counts["pseudo"] = count_labels(seen[missing], truth[missing])


class OnlineRelabelingPlugin(RelabelingPlugin):
    """By the models: new columns by the current one, old columns by the previous one, positive above `threshold`.

    `teacher` is the plugin that holds the previous model.
    """

    def __init__(self, memory: ExemplarMemoryPlugin, teacher: TeacherPlugin, threshold: float) -> None:
        super().__init__(memory)
        self.previous = teacher
        self.threshold = threshold

    def labels(self, strategy: Any) -> Tensor:
        num_old = self.seen.num_old
        current = self._logits(strategy, strategy.model)[:, num_old : self.seen.num_seen]
        earlier = self._logits(strategy, self.previous.teacher.model)[:, :num_old] if num_old else current[:, :0]
        probabilities = torch.sigmoid(torch.cat([earlier, current], dim=1))
        return (probabilities > self.threshold).to(torch.int8).cpu()

    def _logits(self, strategy: Any, network: Any) -> Tensor:
        exemplars = self.memory.dataset()
        assert exemplars is not None
        return extract_features(strategy, exemplars, network).logits.float()


class OracleRelabelingPlugin(RelabelingPlugin):
    """By the complete labels: the bound of any relabeling."""

    def labels(self, strategy: Any) -> Tensor:
        exemplars = self.memory.dataset()
        assert exemplars is not None
        return complete_labels(exemplars)[:, : self.seen.num_seen]


def complete_labels(dataset: AvalancheDataset) -> Tensor:
    """The true labels of a multi-label dataset, annotated or not, (N, K) int8."""
    return torch.from_numpy(rows_array(dataset.truth))


def count_labels(labels: Tensor, truth: Tensor) -> Counts:
    """tp, fp, fn, tn of 0/1 tensors of one shape."""
    said, true = labels == 1, truth == 1
    return {
        "tp": int((said & true).sum()),
        "fp": int((said & ~true).sum()),
        "fn": int((~said & true).sum()),
        "tn": int((~said & ~true).sum()),
    }
