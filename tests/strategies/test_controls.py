"""GDumb sees its memory alone; NCM trains once and averages."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from avalanche.training.plugins import SupervisedPlugin
from torch.nn.functional import normalize

from benchmark.contract.probes import copied, differences
from benchmark.contract.workbench import COUNTS, Workbench
from strategies.finetune import Finetune
from strategies.gdumb import GDumb, MemoryOnlyPlugin
from strategies.ncm import NCM
from strategies.training.features import extract_features
from strategies.training.recipe import MemoryPolicy


@pytest.mark.parametrize("policy", [MemoryPolicy(3), MemoryPolicy(12, "total")])
def test_gdumb_trains_a_new_network_on_its_memory_alone(policy: MemoryPolicy) -> None:
    bench = Workbench(GDumb())
    trained = bench.start(memory=policy, epochs=1)
    memory = next(p for p in trained.learner.plugins if isinstance(p, MemoryOnlyPlugin))
    initial = copied(trained.learner.model.backbone.state_dict())
    seen: list[tuple[list[str], set[int]]] = []

    class Look(SupervisedPlugin):
        def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
            kept: Any = memory.dataset()
            assert list(strategy.adapted_dataset.sample_index) == list(kept.sample_index)
            changed = differences(initial, strategy.model.backbone.state_dict())
            seen.append((changed, set(strategy.adapted_dataset.sample_index)))

    trained.learner.plugins.append(Look())
    for t, num_seen in enumerate((3, 6, 9)):
        bench.go_on(trained, [t])
        quota = policy.budget if policy.mode == "per_class" else policy.budget // num_seen
        assert list(memory.held().values()) == [min(quota, n) for n in COUNTS[:num_seen]]
        assert seen[t][0] == []  # the first weights again
    old = [set(trained.stream.train_stream[t].dataset.sample_index) for t in range(3)]
    assert seen[1][1] & old[0] <= seen[0][1]  # an image that was let go of never comes back


def test_gdumb_chooses_at_random_whatever_the_policy_says() -> None:
    runs = [
        Workbench(GDumb()).train(memory=MemoryPolicy(3, "per_class", how), epochs=1) for how in ("herding", "random")
    ]
    assert not differences(runs[0].weights, runs[1].weights)


def test_ncm_trains_the_first_experience_as_finetuning_does_and_nothing_after_it() -> None:
    bench, plain = Workbench(NCM()), Workbench(Finetune())
    trained, finetuned = bench.start(epochs=2), plain.start(epochs=2)
    bench.go_on(trained, [0])
    plain.go_on(finetuned, [0])
    first = copied(trained.weights)
    assert [name for name in differences(first, finetuned.weights) if name != "head.sums"] == []
    bench.go_on(trained, [1, 2])
    backbone = [name for name in differences(first, trained.weights) if name.startswith("backbone")]
    assert backbone == [] and len(trained.losses) == 2  # batch statistics neither


def test_ncm_is_the_nearest_mean_of_all_training_images() -> None:
    trained = Workbench(NCM()).train(epochs=2)
    learner = trained.learner
    means = []
    for experience in trained.stream.train_stream:
        extracted = extract_features(learner, experience.dataset)
        unit = normalize(extracted.features, dim=1)
        means += [unit[extracted.targets == c].mean(dim=0) for c in sorted(set(extracted.targets.tolist()))]
    tests = extract_features(learner, trained.stream.test_stream[1].dataset)
    distances = torch.cdist(normalize(tests.features, dim=1), normalize(torch.stack(means), dim=1))
    scores = learner.predict(trained.stream.test_stream[1].dataset)["head"]
    assert torch.equal(scores.argmax(dim=1), distances.argmin(dim=1))
    assert torch.allclose(scores, 1 - distances.square() / 2, atol=1e-5)
