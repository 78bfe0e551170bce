"""From rows by class to one Avalanche dataset per experience, labelled by arrival."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, chain

import numpy as np
from avalanche.benchmarks.scenarios.deprecated.generators import nc_benchmark
from avalanche.benchmarks.utils import AvalancheDataset

from benchmark.streams.source import Source
from benchmark.streams.subset import Rows


@dataclass(frozen=True)
class Plan:
    """Which label arrives in which experience; turns rows by class into one dataset per experience."""

    data: Source
    arrival: list[int]
    sizes: list[int]

    def groups(self) -> list[list[int]]:
        """The labels of each experience."""
        ends = list(accumulate(self.sizes))
        return [self.arrival[end - size : end] for size, end in zip(self.sizes, ends, strict=True)]

    def rows(self, by_class: Rows) -> list[list[int]]:
        """The rows of each experience: class after class, each in file order."""
        return [[row for label in group for row in sorted(by_class[label])] for group in self.groups()]

    def datasets(self, by_class: Rows, test: bool, group: str) -> list[AvalancheDataset]:
        """One dataset per experience, labelled by arrival."""
        return [self._dataset(rows, test, group) for rows in self.rows(by_class)]

    def _dataset(self, rows: list[int], test: bool, group: str) -> AvalancheDataset:
        column = {label: place for place, label in enumerate(self.arrival)}
        labels = self.data.test_labels if test else self.data.train_labels
        targets = [column[int(label)] for label in labels[rows]]
        return self.data.dataset(rows, targets, test=test, group=group)

    def datasets_by_nc_benchmark(self, train: Rows, tests: Rows) -> dict[str, list[AvalancheDataset]]:
        """The training and test datasets as Avalanche's own generator splits them."""
        scenario = nc_benchmark(
            self._dataset(list(chain.from_iterable(self.rows(train))), False, "train"),
            self._dataset(list(chain.from_iterable(self.rows(tests))), True, "eval"),
            n_experiences=len(self.sizes),
            task_labels=False,
            fixed_class_order=list(range(len(self.arrival))),
            per_exp_classes=dict(enumerate(self.sizes)),
        )
        return {
            "train": [_sorted_by_class(experience.dataset) for experience in scenario.train_stream],
            "test": [_sorted_by_class(experience.dataset) for experience in scenario.test_stream],
        }


def _sorted_by_class(dataset: AvalancheDataset) -> AvalancheDataset:
    """nc_benchmark visits an experience's classes in the order of a Python set; ours come in order of arrival."""
    return dataset.subset(np.argsort(list(dataset.targets), kind="stable").tolist())
