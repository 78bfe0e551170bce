"""The Avalanche benchmark that a stream is: experiences, streams and the attributes stock strategies look for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from avalanche.benchmarks.scenarios import DatasetExperience
from avalanche.benchmarks.scenarios.generic_scenario import CLScenario, CLStream, EagerCLStream
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.benchmarks.utils.data_attribute import has_task_labels

from benchmark.streams.images import ImageStore
from benchmark.streams.info import StreamInfo
from strategies.training.labels import class_positions


class StreamExperience(DatasetExperience):
    """An experience that stock Avalanche strategies accept.

    Attributes
    ----------
    dataset : AvalancheDataset, may be replaced (BiC does).
    class_counts : dict, class id -> images of this experience's dataset (0 for a class without any).
    classes_in_this_experience, previous_classes, classes_seen_so_far, future_classes : lists of class ids.
    benchmark : the benchmark it belongs to.
    task_label, task_labels : always 0 in our streams, the source's own in a thinned one; absent where it has none.
    """

    def __init__(self, dataset: AvalancheDataset, classes: Sequence[int], timeline: Sequence[int]) -> None:
        """`timeline` holds the classes of the whole stream in order of arrival, `classes` are this experience's."""
        super().__init__(dataset=dataset)
        positions = class_positions(dataset)
        begin = timeline.index(classes[0])
        end = begin + len(classes)
        self.class_counts = {label: len(positions.get(label, ())) for label in classes}
        self.classes_in_this_experience = list(classes)
        self.previous_classes = list(timeline[:begin])
        self.classes_seen_so_far = list(timeline[:end])
        self.future_classes = list(timeline[end:])
        if has_task_labels(dataset):
            self.task_labels = sorted(set(dataset.targets_task_labels)) or [0]
            self.task_label = self.task_labels[0]
        self.benchmark: LongTailedBenchmark | None = None

    @property
    def dataset(self) -> AvalancheDataset:
        return self._dataset

    @dataset.setter
    def dataset(self, dataset: AvalancheDataset) -> None:
        self._dataset = dataset


class LongTailedBenchmark(CLScenario):
    """A class-incremental benchmark whose training stream is long-tailed.

    Attributes
    ----------
    train_stream, test_stream, valid_stream : streams of experiences; valid_stream only where images are held out.
    info : StreamInfo.
    images : ImageStore, or None where the source keeps its own items.
    n_classes, n_experiences, n_classes_per_exp, classes_order : what stock strategies (ICaRL) ask a benchmark for;
        `classes_order` holds the labels that the datasets carry.
    """

    def __init__(
        self, streams: Iterable[CLStream], info: StreamInfo, classes_order: Sequence[int], images: ImageStore | None
    ) -> None:
        super().__init__(list(streams))
        self.info = info
        self.images = images
        self.classes_order = list(classes_order)
        self.n_classes = len(self.classes_order)
        self.n_classes_per_exp = list(info.sizes)
        self.n_experiences = len(info.sizes)
        for stream in self.streams.values():
            if isinstance(stream, EagerCLStream) and all(isinstance(exp, StreamExperience) for exp in stream.exps):
                stream.benchmark = self
                for experience in stream.exps:
                    experience.benchmark = self


def make_stream(name: str, datasets: Sequence[AvalancheDataset], classes: Sequence[Sequence[int]]) -> EagerCLStream:
    """A stream of one experience per dataset; `classes` lists the class ids of each, in order of arrival."""
    timeline = [label for group in classes for label in group]
    experiences = [StreamExperience(data, group, timeline) for data, group in zip(datasets, classes, strict=True)]
    return EagerCLStream(name, experiences)
