"""One pass of a network over a dataset: features, logits, labels, for evaluation, herding, class means and stages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks.utils import AvalancheDataset
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from strategies.teacher import InputTap, last_linear


@dataclass
class Extracted:
    """features (N, d), logits (N, C) and targets, (N,) or (N, C), on the strategy's device, in the dataset's order."""

    features: Tensor
    logits: Tensor
    targets: Tensor


@torch.no_grad()
def extract_features(strategy: Any, dataset: AvalancheDataset, network: Any = None) -> Extracted:
    """Run `network` (default: the strategy's model) in eval mode, without augmentation, over `dataset`.

    Works under imcil's learner (its loader and autocast) and under any stock Avalanche strategy (a plain DataLoader).
    Of a model without `features(x)` and `classify(features)`, features are what enters its last `nn.Linear`.
    """
    network = strategy.model if network is None else network
    tap = None if hasattr(network, "features") and hasattr(network, "classify") else InputTap()
    if tap:
        tap.attach(last_linear(network))
    was_training = network.training
    network.eval()
    batch_size = strategy.eval_mb_size
    if hasattr(strategy, "loader"):
        loader = strategy.loader(dataset, batch_size, train=False)
    else:
        loader = DataLoader(dataset.eval(), batch_size=batch_size)
    autocast = strategy.autocast() if hasattr(strategy, "autocast") else nullcontext()
    features, logits, targets = [], [], []
    with autocast:
        for x, y, *_ in loader:
            x = x.to(strategy.device)
            if tap:
                logits.append(network(x))
                features.append(tap.take())
            else:
                features.append(network.features(x))
                logits.append(network.classify(features[-1]))
            targets.append(y)
    network.train(was_training)
    if tap:
        tap.detach()
    return Extracted(torch.cat(features), torch.cat(logits), torch.cat(targets).to(strategy.device))


def training_batches(
    strategy: Any,
    dataset: AvalancheDataset,
    batch_size: int,
    generator: torch.Generator | None,
    sampler: Sequence[int] | Sampler[int] | None = None,
) -> Iterable[list[Tensor]]:
    """Batches [x, y, ...] augmented as in training, in an order drawn from `generator`, or in `sampler`'s order.

    By imcil's loader, or by a plain DataLoader under any other Avalanche strategy.
    """
    if hasattr(strategy, "loader"):
        return strategy.loader(dataset, batch_size, train=True, generator=generator, sampler=sampler)
    shuffled = {"shuffle": True, "generator": generator} if sampler is None else {"sampler": sampler}
    return DataLoader(dataset.train(), batch_size=batch_size, **shuffled)


def augments(strategy: Any, dataset: AvalancheDataset) -> bool:
    """False where training batches of `dataset` are known to hold the images as they are."""
    return getattr(getattr(strategy, "loader", None), "augments", True) or not hasattr(dataset, "sample_index")


def targets_array(dataset: AvalancheDataset) -> np.ndarray:
    """Labels of a dataset: class ids (N,) int64, or the annotations (N, K) int8 of a multi-label one.

    Annotations: 1 where the image shows the class, 0 where it does not, -1 where nobody said; columns are class ids.
    """
    if hasattr(dataset, "annotations"):
        rows = list(dataset.annotations)
        return np.stack(rows) if rows else np.zeros((0, 0), dtype=np.int8)
    return np.fromiter((int(label) for label in dataset.targets), dtype=np.int64, count=len(dataset))


def rows_array(attribute: Iterable[Any]) -> np.ndarray:
    """A data attribute with one row of labels per image (`annotations`, `truth`) as an array (N, K) int8."""
    return np.array(list(attribute), dtype=np.int8)


def with_annotations(dataset: AvalancheDataset, rows: np.ndarray) -> AvalancheDataset:
    """The same images with other multi-label annotations (N, K): 1, 0, or -1 for not annotated."""
    changed = dataset.update_data_attribute("annotations", rows)
    changed.annotations = changed._data_attributes["annotations"]  # Avalanche leaves the old one where there was one
    return changed


def class_positions(dataset: AvalancheDataset) -> dict[int, np.ndarray]:
    """label -> positions of its images in `dataset`, labels ascending; several labels may share an image."""
    targets = targets_array(dataset)
    if targets.ndim == 2:
        return {int(c): np.flatnonzero(targets[:, c] == 1) for c in np.flatnonzero((targets == 1).any(axis=0))}
    return {int(label): np.flatnonzero(targets == label) for label in np.unique(targets)}


def class_means(values: Tensor, targets: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mean of `values` (N, k) over the images of each class, (num_classes, k), and their numbers (num_classes,).

    Without a loop over classes; the mean of a class without images is 0.
    """
    counts = torch.bincount(targets, minlength=num_classes)
    sums = values.new_zeros(num_classes, values.shape[1]).index_add_(0, targets, values)
    return sums / counts.clamp_min(1)[:, None].to(values), counts
