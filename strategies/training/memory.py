"""Exemplar memory: which old images stay, kept as positions only, never as copies of pixels.

Protocol (methods of iCaRL, LUCIR and the long-tailed family): after each experience up to m images of every class are
kept and joined to the next experience's data, one shuffled loader, no rebalancing. A class with fewer than m images
keeps them all; unused slots are not given to other classes, as in all published code.

Of multi-label images every class keeps up to m that show it, chosen without regard to the other classes. An image that
serves several classes is held once, also where it is chosen again in a later experience. It keeps the annotations it
came with, and those of the experience that chose it again, until a plugin writes others; that a held image merely comes
by again tells the memory nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor

from strategies.training.features import extract_features
from strategies.training.labels import class_positions, targets_array, with_annotations

MODES = ("per_class", "total")
SELECTIONS = ("herding", "random")

Row = tuple[int, int]  # experience, position in its dataset


def herding_order(features: Tensor, m: int) -> Tensor:
    """The first min(m, n) images picked by herding (iCaRL, Algorithm 4), in order.

    Features are L2-normalised; their mean is not. Pick k minimises the distance between that mean and the mean of the
    k picked, over images not picked yet; of images with equal features the first is picked first. The original code may
    pick an image twice and then lose a slot; like the later code bases this form excludes picked images.

    Parameters
    ----------
    features : (n, d) raw features of one class.
    m : number of images to pick.

    Returns
    -------
    (min(m, n),) int64 indices into `features`.
    """
    phi = torch.nn.functional.normalize(torch.as_tensor(features).detach().double().cpu(), dim=1).numpy()
    mean, total = phi.mean(axis=0) if len(phi) else 0.0, np.zeros(phi.shape[1])
    squared_norm = (phi**2).sum(axis=1)
    rows: dict[bytes, int] = {}
    first = [rows.setdefault(row.tobytes(), i) for i, row in enumerate(phi)]  # the first image with these features
    order: list[int] = []
    for k in range(1, min(m, len(phi)) + 1):
        # ||k mean - total - phi_i||^2 without the term that is the same for every i. float64 and numpy's argmin:
        # torch's promises no order among ties.
        # Equal rows share one distance: the product rounds them by their place.
        distance = (squared_norm - 2 * phi @ (k * mean - total))[first]
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
        self.positions: dict[int, list[Row]] = {}  # class -> its exemplars, best first
        self.rewritten: dict[Row, np.ndarray] = {}  # annotations (K,) that differ from those the image came with

    def quota(self, num_classes: int) -> int:
        """Slots per class once `num_classes` classes were seen."""
        return self.budget if self.mode == "per_class" else self.budget // max(num_classes, 1)

    def held(self) -> dict[int, int]:
        """Exemplars really held per class, in order of arrival."""
        return {label: len(kept) for label, kept in self.positions.items()}

    def dataset(self, classes: Sequence[int] | None = None) -> AvalancheDataset | None:
        """The exemplars (of some classes) as one AvalancheDataset, None when there are none."""
        rows = self.rows(classes)
        parts = [
            self.experiences[e].subset([position for where, position in rows if where == e])
            for e in sorted({where for where, _ in rows})
        ]
        if not parts:
            return None
        joined = concatenate(parts)
        return with_annotations(joined, self._written(rows, joined)) if self.rewritten else joined

    def rows(self, classes: Sequence[int] | None = None) -> list[Row]:
        """The exemplars (of some classes), each once, in the order of `dataset`: by experience, then by class."""
        kept = [row for label in (self.positions if classes is None else classes) for row in self.positions[label]]
        return sorted(dict.fromkeys(kept), key=lambda row: row[0])

    def annotations(self) -> Tensor:
        """What is known of each of the M multi-label exemplars, (M, K) int8 in the order of `rows`: 1, 0 or -1."""
        dataset = self.dataset()
        return torch.from_numpy(np.zeros((0, 0), np.int8) if dataset is None else targets_array(dataset))

    def set_annotations(self, annotations: Tensor) -> None:
        """Have the exemplars carry these annotations, (M, K) in the order of `rows`, from the next experience on.

        Raises
        ------
        ValueError : another shape than that of `annotations()`.
        """
        held = self.annotations().numpy()
        if annotations.shape != held.shape:
            raise ValueError(f"annotations must be {tuple(held.shape)}, got {tuple(annotations.shape)}")
        written = annotations.cpu().numpy().astype(np.int8)
        for row, old, new in zip(self.rows(), held, written, strict=True):
            if not np.array_equal(old, new):
                self.rewritten[row] = new.copy()

    def _written(self, rows: Sequence[Row], dataset: AvalancheDataset) -> np.ndarray:
        """The annotations of `dataset`, which holds `rows`, with those that were rewritten, (M, K) int8."""
        annotations = targets_array(dataset).copy()
        for place, row in enumerate(rows):
            if row in self.rewritten:
                annotations[place] = self.rewritten[row]
        return annotations

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        exemplars = self.dataset()
        if exemplars is not None:
            strategy.adapted_dataset = strategy.adapted_dataset.concat(exemplars.train())

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.update(strategy, strategy.experience.dataset)

    def update(self, strategy: Any, dataset: AvalancheDataset) -> None:
        """Choose exemplars of `dataset`'s classes with the current network and cut the old ones to the new quota."""
        self.experiences.append(dataset)
        now = len(self.experiences) - 1
        quota = self.quota(len(set(self.positions) | set(class_positions(dataset))))
        chosen = self.choose(strategy, dataset, quota)
        known = self._held_already(dataset, {position for positions in chosen.values() for position in positions})
        for label, positions in chosen.items():
            self.positions[label] = [known.get(position, (now, position)) for position in positions]
        for label in self.positions:
            self.positions[label] = self.positions[label][:quota]  # herding's order is its ranking: drop the tail
        kept = set(self.rows())
        self.rewritten = {row: annotations for row, annotations in self.rewritten.items() if row in kept}

    def _held_already(self, dataset: AvalancheDataset, chosen: set[int]) -> dict[int, Row]:
        """position -> exemplar, for chosen images that are held already; what `dataset` says of them is added there.

        Only multi-label images come in several experiences.
        """
        if not (hasattr(dataset, "annotations") and hasattr(dataset, "sample_index")):
            return {}
        held = self.dataset()
        if held is None:
            return {}
        by_image = dict(zip(held.sample_index, zip(self.rows(), targets_array(held), strict=True), strict=True))
        found = {}
        for position in sorted(chosen):
            if (image := dataset.sample_index[position]) in by_image:
                found[position], known = by_image[image]
                told = dataset.annotations[position]
                self.rewritten[found[position]] = np.where(told >= 0, told, known)
        return found

    def choose(self, strategy: Any, dataset: AvalancheDataset, quota: int) -> dict[int, list[int]]:
        """class -> positions in `dataset` of its min(quota, n) best images by the current network, best first."""
        chosen: dict[int, list[int]] = {}
        if self.selection == "herding" and quota:
            features = extract_features(strategy, dataset).features.cpu()  # one copy, not one a class
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
        return {
            "positions": [[label, *map(list, kept)] for label, kept in self.positions.items()],
            "annotations": [[*row, annotations.tolist()] for row, annotations in self.rewritten.items()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.positions = {label: [(e, p) for e, p in kept] for label, *kept in state["positions"]}
        self.rewritten = {(e, p): np.array(values, np.int8) for e, p, values in state.get("annotations", [])}

    def restore(self, experiences: Sequence[Any]) -> None:
        """On resume: the experiences trained so far, whose datasets the positions point into."""
        self.experiences = [experience.dataset for experience in experiences]


def concatenate(datasets: Sequence[AvalancheDataset]) -> AvalancheDataset:
    """One dataset after the other, attributes (targets, sample_index) included."""
    joined = datasets[0]
    for dataset in datasets[1:]:
        joined = joined.concat(dataset)
    return joined
