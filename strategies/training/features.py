"""One pass of a network over a dataset: features, logits, labels, for evaluation, herding, class means and stages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from avalanche.benchmarks.utils import AvalancheDataset
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from strategies.training.teacher import InputTap, last_linear


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


def class_means(values: Tensor, targets: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mean of `values` (N, k) over the images of each class, (num_classes, k), and their numbers (num_classes,).

    Without a loop over classes; the mean of a class without images is 0.
    """
    counts = torch.bincount(targets, minlength=num_classes)
    sums = values.new_zeros(num_classes, values.shape[1]).index_add_(0, targets, values)
    return sums / counts.clamp_min(1)[:, None].to(values), counts
