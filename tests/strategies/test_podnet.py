"""PODNet: worked numbers (methods, 6.10), proxies, what is frozen, its finetuning."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor

from benchmark.contract import workbench
from benchmark.contract.probes import copied, differences
from benchmark.contract.workbench import COUNTS, FROM_SCRATCH, MEMORY, Workbench
from benchmark.datasets.arrays import ImageArrays, channel_statistics
from benchmark.streams import long_tailed_benchmark
from strategies.balanced_softmax import PODNetBalancedSoftmax
from strategies.podnet import (
    GradientClampPlugin,
    LocalSimilarityLoss,
    PODNet,
    PooledOutputsPlugin,
    ProxyHead,
    kmeans_proxies,
    local_similarity,
    nca_loss,
    nca_loss_as_released,
    pod_spatial_loss,
)
from strategies.training.classifiers import HeadClassifier
from strategies.training.criteria import BalancedSoftmax, SeenCrossEntropy
from strategies.training.recipe import Context
from strategies.training.stages import StageRunner

# --- losses ----------------------------------------------------------------------------------------------------------


def test_lsc_worked_example() -> None:
    similarities = torch.tensor([[[0.8, 0.2], [0.1, 0.3]]], dtype=torch.float64)
    logits = local_similarity(similarities)
    assert logits.flatten().tolist() == pytest.approx([0.587394, 0.209967], abs=1e-6)
    target = torch.tensor([0])
    assert nca_loss(logits, target, 0.6).item() == pytest.approx(0.222573, abs=1e-6)
    assert nca_loss_as_released(logits, target).item() == pytest.approx(0.522135, abs=1e-6)


def test_the_hinge_ends_where_the_margin_is_kept() -> None:
    logits = torch.tensor([[3.0, 0.0, 0.0]], requires_grad=True)
    loss = nca_loss(logits, torch.tensor([0]), 1.0)  # 3 - 1 > log 2
    loss.backward()
    assert loss.item() == 0.0 and logits.grad is not None and not logits.grad.any()
    kept = nca_loss(logits, torch.tensor([0]), 2.5)
    assert kept.item() == pytest.approx(math.log(2) - 3.0 + 2.5)


@pytest.mark.parametrize("margin", [0.0, 0.6])
def test_one_class_has_no_loss(margin: float) -> None:
    logits = torch.randn(4, 1, requires_grad=True)
    loss = nca_loss(logits, torch.zeros(4, dtype=torch.long), margin)
    loss.backward()
    assert loss.item() == 0.0 and logits.grad is not None and not logits.grad.any()


def test_the_margin_cancels_in_the_released_loss() -> None:
    """It takes the margin off every class; subtracting the row's maximum first undoes that."""
    logits, targets = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    assert torch.allclose(nca_loss_as_released(logits, targets), nca_loss_as_released(logits - 0.6, targets))
    probabilities = (logits - logits.amax(1, keepdim=True)).exp()
    own = probabilities.gather(1, targets[:, None])[:, 0]
    expected = -(own / (1 + probabilities.sum(1) - own)).log().mean()
    assert torch.allclose(nca_loss_as_released(logits, targets), expected)


def test_the_criterion_scales_the_margin_with_eta() -> None:
    head = ProxyHead(2, 3)
    with torch.no_grad():
        head.eta.fill_(5.0)
    paper, official = (LocalSimilarityLoss(head, form, 0.6) for form in ("paper", "official"))
    logits, targets = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    assert torch.equal(paper.loss(logits, targets), nca_loss(logits, targets, 3.0))
    assert torch.equal(official.loss(logits, targets), nca_loss_as_released(logits, targets))


def test_the_margin_does_not_push_eta() -> None:
    """Taken literally it shrinks eta from the start, below 0, where equal similarities have no loss."""
    head = ProxyHead(4, 3)
    head.adaptation(SimpleNamespace(classes_in_this_experience=[0, 1, 2]))
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 2, 0, 1, 2])
    with torch.no_grad():
        head.eta.fill_(0.2)  # cosines of at most 1 cannot reach the hinge, log 2 away
    found = []
    for margin in (0.0, 0.6):  # eta's gradient is that of the similarities alone
        head.eta.grad = None
        LocalSimilarityLoss(head, "paper", margin).loss(head(features), targets).backward()
        assert head.eta.grad is not None
        found.append(head.eta.grad.clone())
    cosines = head.cosines(features).detach()
    others = cosines.scatter(1, targets[:, None], -torch.inf)
    expected = ((head.eta.detach() * others).softmax(1) * cosines).sum(1) - cosines.gather(1, targets[:, None])[:, 0]
    assert found[0].item() == pytest.approx(expected.mean().item(), abs=1e-6)
    assert torch.equal(*found)


@pytest.mark.parametrize("form", ["official", "paper", "cross_entropy"])
def test_every_form_of_the_loss_learns(form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten Gaussians in one experience: with the literal margin eta falls to -5, the loss to 0 and accuracy to 56 %."""

    def gaussians() -> ImageArrays:
        rng = np.random.default_rng(0)
        means = rng.integers(64, 192, (10, 2, 2, 3)).repeat(4, axis=1).repeat(4, axis=2)

        def drawn(per_class: int) -> tuple[np.ndarray, np.ndarray]:
            labels = np.repeat(np.arange(10), per_class)
            images = means[labels] + rng.normal(0, 30, (len(labels), 8, 8, 3))
            return images.clip(0, 255).astype(np.uint8), labels

        train, test = drawn(12), drawn(20)
        names = tuple(map(str, range(10)))
        return ImageArrays("gaussians", *train, *test, names, *channel_statistics(train[0]), flip=False)

    def at_once(arrays: ImageArrays, sizes: Any) -> Any:
        return long_tailed_benchmark(arrays, protocol=[10], profile="natural", order="ordered")

    monkeypatch.setitem(workbench.MATERIAL, "single", (gaussians, at_once))
    steps: list[tuple[float, float]] = []

    def look(strategy: Any) -> None:
        steps.append((float(strategy.model.head.eta.detach()), float(strategy.loss.detach())))

    bench = Workbench(PODNet(loss=form))
    trained = bench.start(epochs=6)
    trained.learner.plugins.append(Look(after_update=look))
    bench.go_on(trained, [0])
    predicted = trained.predictions[0]["head"].argmax(dim=1)
    labels = torch.tensor([int(y) for y in trained.stream.test_stream[0].dataset.targets])
    assert (predicted == labels).double().mean() > 0.9
    assert min(eta for eta, _ in steps) > 0.5 and min(loss for _, loss in steps[:20]) > 0.1  # not yet told apart


@pytest.mark.parametrize("form", ["official", "paper"])
def test_the_printed_loss_keeps_eta_positive(form: str) -> None:
    head = ProxyHead(2, 3)
    with torch.no_grad():
        head.eta.fill_(-1.0)  # as an overshooting step leaves it
    LocalSimilarityLoss(head, form, 0.6).after_update(None)
    assert (head.eta.item() > 0) == (form == "paper")


def test_pod_spatial_worked_example() -> None:
    teacher = torch.tensor([[[[1.0, 2.0], [0.0, 1.0]]]], dtype=torch.float64)
    student = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    loss = pod_spatial_loss([student], [teacher])
    assert loss.item() == pytest.approx(0.579568, abs=1e-6)
    assert (3 * math.sqrt(60 / 10) * loss).item() == pytest.approx(4.258940, abs=1e-5)
    both = pod_spatial_loss([student, teacher], [teacher, teacher])  # the mean over stages
    assert both.item() == pytest.approx(0.579568 / 2, abs=1e-6)


def test_pod_spatial_is_finite_where_student_and_teacher_agree() -> None:
    """As in the first step of an experience: the distance is 0 and must not have a gradient of nan."""
    maps = [torch.randn(2, 3, 4, 4, requires_grad=True), torch.zeros(2, 3, 2, 2, requires_grad=True)]
    loss = pod_spatial_loss(maps, [m.detach() for m in maps])
    loss.backward()
    assert loss.item() == 0.0 and all(m.grad is not None and m.grad.isfinite().all() for m in maps)


def test_pod_spatial_pools_half_precision_maps_in_full() -> None:
    maps = [torch.randn(2, 8, 4, 4), torch.randn(2, 8, 4, 4)]
    halves = [m.bfloat16() for m in maps]
    assert pod_spatial_loss(halves[:1], halves[1:]).dtype == torch.float32
    full = pod_spatial_loss([m.float() for m in halves[:1]], [m.float() for m in halves[1:]])
    assert torch.equal(pod_spatial_loss(halves[:1], halves[1:]), full)


def test_distillation_grows_with_the_share_of_old_classes_and_adds_up() -> None:
    plugin = PooledOutputsPlugin(flat=2.0, spatial=3.0, imprint=False, seed=0)
    for t, classes in enumerate([range(50), range(50, 60)]):
        plugin.seen.update(SimpleNamespace(classes_in_this_experience=list(classes), current_experience=t))
    assert plugin.scale == pytest.approx(math.sqrt(6))  # C counts the new classes
    maps, features = [torch.randn(4, 2, 3, 3)], torch.randn(4, 5)
    teacher_maps, teacher_features = [torch.randn(4, 2, 3, 3)], torch.randn(4, 5)
    plugin.teacher.maps_and_features = lambda x: (teacher_maps, teacher_features)  # type: ignore[method-assign]
    strategy = SimpleNamespace(model=SimpleNamespace(last_maps=maps, last_features=features), mb_x=None)
    flat = (1 - F.cosine_similarity(features, teacher_features)).mean()
    expected = 0.5 + math.sqrt(6) * (2 * flat + 3 * pod_spatial_loss(maps, teacher_maps))
    assert torch.allclose(plugin.combine(strategy, torch.tensor(0.5)), expected)


# --- the head --------------------------------------------------------------------------------------------------------


def test_one_proxy_is_a_cosine_and_more_are_merged_softly() -> None:
    head = ProxyHead(4, 1)
    head.adaptation(SimpleNamespace(classes_in_this_experience=[0, 1]))
    features = torch.randn(3, 4)
    expected = F.cosine_similarity(features[:, None], head.weight[None, :, 0], dim=2)
    assert torch.allclose(head(features), expected, atol=1e-6)
    head = ProxyHead(4, 3)
    head.adaptation(SimpleNamespace(classes_in_this_experience=[0, 1]))
    with torch.no_grad():
        head.eta.fill_(2.0)
    cosines = F.cosine_similarity(features[:, None, None], head.weight[None], dim=3)
    assert torch.allclose(head(features), 2 * (cosines.softmax(2) * cosines).sum(2), atol=1e-6)
    assert head.weight.shape == (2, 3, 4)


def test_old_proxies_are_frozen_in_any_order_of_class_ids() -> None:
    head = ProxyHead(3, 2)
    for classes in ([5, 1], [0, 3]):
        head.adaptation(SimpleNamespace(classes_in_this_experience=classes))
    assert head.old.shape == (2, 2, 3) and not head.old.requires_grad and head.new.requires_grad
    moved = head.weight.detach().clone()
    with torch.no_grad():
        head.new.add_(1.0)
    touched = (head.weight != moved).flatten(1).any(dim=1).nonzero().flatten().tolist()
    assert {0, 3} <= set(touched) and not {1, 5} & set(touched)


def test_proxies_are_the_centres_of_their_class() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(4, 6, generator=generator), dim=1)
    features = 3 * centres.repeat_interleave(300, 0) + 0.05 * torch.randn(1200, 6, generator=generator)
    proxies = kmeans_proxies(features, 4, seed=1)
    assert (proxies @ centres.T).amax(dim=0).min() > 0.999
    assert torch.allclose(proxies.norm(dim=1), torch.ones(4), atol=1e-6)
    assert torch.equal(proxies, kmeans_proxies(features, 4, seed=1))


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_a_class_with_few_images_repeats_its_proxies(n: int) -> None:
    features = torch.eye(5)[:n] * 2
    proxies = kmeans_proxies(torch.cat([features, features[:1]]), 4, seed=0)  # one image twice
    assert proxies.shape == (4, 5) and proxies.isfinite().all()
    if n <= 4:
        different = torch.unique(proxies, dim=0)
        assert torch.equal(different.sum(dim=0) > 0, torch.arange(5) < n) and len(different) == n


# --- training --------------------------------------------------------------------------------------------------------


class Look(SupervisedPlugin):
    """Calls functions at hooks, with the strategy."""

    def __init__(self, **hooks: Any) -> None:
        super().__init__()
        for name, function in hooks.items():
            setattr(self, name, lambda strategy, function=function, **kwargs: function(strategy))


def test_imprinting_freezing_and_clamping_in_training() -> None:
    starts: list[tuple[Tensor, Tensor]] = []
    largest: list[float] = []

    def first_step(strategy: Any) -> None:
        head = strategy.model.head
        if strategy.epoch == 0 and len(head.old):
            starts.append((head.old.detach().clone(), head.new.detach().clone()))

    def after_step(strategy: Any) -> None:
        largest.append(max(float(p.grad.abs().max()) for p in strategy.model.parameters() if p.grad is not None))
        if starts:
            assert torch.equal(strategy.model.head.old, starts[-1][0])

    bench = Workbench(PODNet(clamp=1e-3))
    trained = bench.start(epochs=2)
    trained.learner.plugins.append(Look(before_training_epoch=first_step, after_update=after_step))
    bench.go_on(trained, range(3))
    assert max(largest) == pytest.approx(1e-3)
    assert [len(old) for old, _ in starts] == [3, 6]
    for old, new in starts:
        norms = new.norm(dim=2)
        assert torch.allclose(norms, old.norm(dim=2).mean().expand_as(norms), rtol=1e-4)


def test_a_single_image_gives_one_direction_to_all_proxies() -> None:
    bench = Workbench(PODNet())
    trained = bench.start(epochs=0)
    bench.go_on(trained, range(2))  # the fifth class has one image
    row = F.normalize(trained.learner.model.head.weight[4], dim=1)
    assert torch.allclose(row, row[:1].expand_as(row), atol=1e-6)
    assert not torch.allclose(*F.normalize(trained.learner.model.head.weight[5][:2], dim=1), atol=1e-3)


def test_finetuning_trains_the_proxies_on_balanced_exemplars_and_nothing_else() -> None:
    passed: list[list[int]] = []
    bench = Workbench(PODNet())
    trained = bench.start(epochs=1)
    (stage,) = trained.learner.parts.stages
    befores: list[dict[str, Tensor]] = []
    images: list[int] = []

    def run(strategy: Any, generator: torch.Generator) -> None:
        befores.append(copied(strategy.model.state_dict()))
        dataset = stage.data(strategy)
        passed.append([] if dataset is None else [list(map(int, dataset.targets)).count(c) for c in range(9)])
        compute = strategy.model.compute
        before = (compute.trained, compute.frozen)
        stage.run(strategy, generator)
        assert compute.trained == before[0]  # the backbone is frozen; without augmentation it is run once
        images.append(compute.frozen - before[1])

    runner = next(plugin for plugin in trained.learner.plugins if isinstance(plugin, StageRunner))
    runner.stages = [SimpleNamespace(name="looked_at", run=run)]
    changes = []
    for t in range(3):
        bench.go_on(trained, [t])
        changes.append(differences(befores[-1], trained.weights))
    assert changes == [[], ["head.old", "head.new"], ["head.old", "head.new"]]  # not eta, no batch statistics
    seen = [sum(FROM_SCRATCH[: t + 1]) for t in range(3)]
    expected = [[min(MEMORY.budget, n) if c < s else 0 for c, n in enumerate(COUNTS)] for s in seen]
    assert passed == [[], *expected[1:]] and images == [0, *(sum(e) for e in expected[1:])]


def test_balanced_softmax_replaces_loss_and_finetuning() -> None:
    context = Context(8, torch.nn.Identity())
    plain, balanced = PODNet().build(context), PODNetBalancedSoftmax().build(context)
    assert isinstance(balanced.criterion, BalancedSoftmax) and not balanced.stages and len(plain.stages) == 1
    assert [type(p) for p in plain.plugins] == [type(p) for p in balanced.plugins]
    released = PODNet(loss="cross_entropy").build(context).criterion
    assert type(released) is SeenCrossEntropy
    assert isinstance(plain.classifiers[0], HeadClassifier) and [c.name for c in plain.classifiers] == ["head", "nme"]


def test_the_clamp_is_elementwise() -> None:
    parameter = torch.nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([-7.0, 2.0, 9.0])
    GradientClampPlugin(5.0).clamp([parameter])
    assert parameter.grad.tolist() == [-5.0, 2.0, 5.0]
