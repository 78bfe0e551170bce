"""Exemplar memory: which old images stay, kept as positions only, never as copies of pixels.

Protocol (methods of iCaRL, LUCIR and the long-tailed family): after each experience up to m images of every class are
kept and joined to the next experience's data, one shuffled loader, no rebalancing. A class with fewer than m images
keeps them all; unused slots are not given to other classes, as in all published code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor

from strategies.features import class_positions, extract_features

MODES = ("per_class", "total")
SELECTIONS = ("herding", "random")


def herding_order(features: Tensor, m: int) -> Tensor:
    """The first min(m, n) images picked by herding (iCaRL, Algorithm 4), in order.

    Features are L2-normalised; their mean is not. Pick k minimises the distance between that mean and the mean of the
    k picked, over images not picked yet; ties go to the lowest index. The original code may pick an image twice and
    then lose a slot; like the later code bases this form excludes picked images.

    Parameters
    ----------
    features : (n, d) raw features of one class.
    m : number of images to pick.

    Returns
    -------
    (min(m, n),) int64 indices into `features`.
    """
    phi = torch.nn.functional.normalize(torch.as_tensor(features).double().cpu(), dim=1).numpy()
    mean, total = phi.mean(axis=0) if len(phi) else 0.0, np.zeros(phi.shape[1])
    squared_norm = (phi**2).sum(axis=1)
    order: list[int] = []
    for k in range(1, min(m, len(phi)) + 1):
        # ||k mean - total - phi_i||^2 without the term that is the same for every i. float64 and numpy's argmin:
        # torch's promises no order among ties.
        distance = squared_norm - 2 * phi @ (k * mean - total)
        distance[order] = np.inf
        order.append(int(distance.argmin()))
        total += phi[order[-1]]
    return torch.tensor(order, dtype=torch.long)


class ExemplarMemoryPlugin(SupervisedPlugin):
    """Keeps exemplars of all seen classes and joins them to the training data of the next experience.

    Parameters
    ----------
    budget : images per class (mode "per_class") or in total (mode "total": floor(budget / seen classes) per class).
    mode : "per_class" or "total".
    selection : "herding" (features of the current network in eval mode, no augmentation) or "random".
    seed : seed of the random selection, drawn per class so that a class's choice does not depend on the others.
    """

    def __init__(self, budget: int, mode: str = "per_class", selection: str = "herding", seed: int = 0) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f'memory.mode "{mode}" is unknown. Valid choices: {", ".join(MODES)}.')
        if selection not in SELECTIONS:
            raise ValueError(f'memory.selection "{selection}" is unknown. Valid choices: {", ".join(SELECTIONS)}.')
        if budget < 0:
            raise ValueError(f"memory.budget must be 0 or more, got {budget}.")
        self.budget, self.mode, self.selection, self.seed = budget, mode, selection, seed
        self.experiences: list[AvalancheDataset] = []
        self.positions: dict[int, list[tuple[int, int]]] = {}  # class -> (experience, position), best exemplar first

    def quota(self, num_classes: int) -> int:
        """Slots per class once `num_classes` classes were seen."""
        return self.budget if self.mode == "per_class" else self.budget // max(num_classes, 1)

    def held(self) -> dict[int, int]:
        """Exemplars really held per class, in order of arrival."""
        return {label: len(kept) for label, kept in self.positions.items()}

    def dataset(self, classes: Sequence[int] | None = None) -> AvalancheDataset | None:
        """The exemplars (of some classes) as one AvalancheDataset, None when there are none."""
        kept = [pair for label in (self.positions if classes is None else classes) for pair in self.positions[label]]
        parts = [
            self.experiences[e].subset([position for where, position in kept if where == e])
            for e in sorted({where for where, _ in kept})
        ]
        return concatenate(parts) if parts else None

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        exemplars = self.dataset()
        if exemplars is not None:
            strategy.adapted_dataset = strategy.adapted_dataset.concat(exemplars.train())

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.update(strategy, strategy.experience.dataset)

    def update(self, strategy: Any, dataset: AvalancheDataset) -> None:
        """Choose exemplars of `dataset`'s classes with the current network and cut the old ones to the new quota."""
        self.experiences.append(dataset)
        quota = self.quota(len(set(self.positions) | set(class_positions(dataset))))
        for label, chosen in self.choose(strategy, dataset, quota).items():
            self.positions[label] = [(len(self.experiences) - 1, position) for position in chosen]
        for label in self.positions:
            self.positions[label] = self.positions[label][:quota]  # herding's order is its ranking: drop the tail

    def choose(self, strategy: Any, dataset: AvalancheDataset, quota: int) -> dict[int, list[int]]:
        """class -> positions in `dataset` of its min(quota, n) best images by the current network, best first."""
        chosen: dict[int, list[int]] = {}
        if self.selection == "herding" and quota:
            features = extract_features(strategy, dataset).features
        for label, positions in class_positions(dataset).items():
            if not quota:
                order = []
            elif self.selection == "herding":
                order = herding_order(features[positions], quota).tolist()
            else:
                order = np.random.default_rng([self.seed, label]).permutation(len(positions))[:quota].tolist()
            chosen[label] = [int(positions[i]) for i in order]
        return chosen

    def state_dict(self) -> dict[str, Any]:
        return {"positions": [[label, *map(list, kept)] for label, kept in self.positions.items()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.positions = {label: [(e, p) for e, p in kept] for label, *kept in state["positions"]}

    def restore(self, experiences: Sequence[Any]) -> None:
        """On resume: the experiences trained so far, whose datasets the positions point into."""
        self.experiences = [experience.dataset for experience in experiences]


def concatenate(datasets: Sequence[AvalancheDataset]) -> AvalancheDataset:
    """One dataset after the other, attributes (targets, sample_index) included."""
    joined = datasets[0]
    for dataset in datasets[1:]:
        joined = joined.concat(dataset)
    return joined
