"""Multi-label methods: losses of annotated entries, batches half from memory, relabeling, methods that coincide."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor

from benchmark import backbones
from benchmark.contract import workbench
from benchmark.contract.checks import make_workbench
from benchmark.contract.probes import differences
from benchmark.contract.workbench import FROM_SCRATCH, Trained
from strategies.multilabel.base import AnnotatedLoss, SharedOrder
from strategies.multilabel.joint import MultiLabelJoint
from strategies.multilabel.lwf import MultiLabelASL, MultiLabelLwF
from strategies.multilabel.rebll import MultiLabelAKD, MultiLabelOracle, RebLL
from strategies.multilabel.relabeling import OnlineRelabelingPlugin, RelabelingPlugin, complete_labels, count_labels
from strategies.multilabel.replay import MultiLabelReplay
from strategies.training.features import extract_features
from strategies.training.labels import targets_array
from strategies.training.learner import silent_evaluator
from strategies.training.memory import ExemplarMemoryPlugin
from strategies.training.recipe import MemoryPolicy, Recipe, batch_sizes


def loss_of(criterion: AnnotatedLoss, num_seen: int = 3) -> AnnotatedLoss:
    experience = SimpleNamespace(classes_in_this_experience=range(num_seen), current_experience=0)
    criterion.seen.update(experience)
    return criterion


def batch() -> tuple[Tensor, Tensor]:
    """Logits of three seen classes and labels; half of the entries are not annotated."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 2, (8, 3), generator=generator)
    labels[torch.rand(8, 3, generator=generator) < 0.5] = -1
    return logits, labels


# --- losses ----------------------------------------------------------------------------------------------------------


def test_without_asymmetry_the_loss_is_binary_cross_entropy_of_annotated_entries() -> None:
    logits, labels = batch()
    found = loss_of(AnnotatedLoss())(logits, labels)
    entries = F.binary_cross_entropy_with_logits(logits, labels.clamp_min(0).double(), reduction="none")
    assert found.item() == pytest.approx(entries[labels >= 0].sum().item() / len(logits), rel=1e-12)
    (gradient,) = torch.autograd.grad(found, logits)
    assert (gradient[labels < 0] == 0).all() and (gradient[labels >= 0] != 0).all()


def test_missing_entries_may_be_taken_for_negatives() -> None:
    logits, labels = batch()
    found = loss_of(AnnotatedLoss(missing="negative"))(logits, labels)
    complete = loss_of(AnnotatedLoss())(logits, labels.clamp_min(0))
    assert found.item() == complete.item() != loss_of(AnnotatedLoss())(logits, labels).item()


def test_classes_to_come_take_no_part() -> None:
    """Labels of the whole stream, or narrower than the head: the seen columns count."""
    logits, labels = batch()
    criterion = loss_of(AnnotatedLoss())
    wide = torch.cat([labels, torch.ones(8, 4, dtype=labels.dtype)], dim=1)
    assert criterion(logits, wide).item() == criterion(logits, labels).item()
    narrow = torch.cat([labels[:, :2], torch.full((8, 1), -1)], dim=1)
    assert criterion(logits, labels[:, :2]).item() == criterion(logits, narrow).item()


# --- methods that coincide -------------------------------------------------------------------------------------------


def trained(recipe: Recipe, **settings: Any) -> Trained:
    return make_workbench(recipe).train(epochs=2, **settings)


def test_akd_without_asymmetries_is_lwf() -> None:
    """gamma_pos = gamma_neg = eta = 0: binary cross-entropy and sigmoid distillation, to the last bit."""
    plain = trained(MultiLabelLwF(memory_share=0.5))
    for variant in ("positive", "both"):
        akd = MultiLabelAKD(memory_share=0.5, gamma_pos=0, gamma_neg=0, eta=0, variant=variant)  # type: ignore[arg-type]
        same = trained(akd)
        for name, weight in same.weights.items():
            assert torch.allclose(weight, plain.weights[name], atol=1e-5), name
    assert differences(plain.weights, trained(MultiLabelAKD(memory_share=0.5)).weights)


def test_akd_turned_around_is_asl() -> None:
    same = trained(MultiLabelAKD(gamma_pos=0, gamma_neg=4, clip=0.05, eta=0))
    assert not differences(same.weights, trained(MultiLabelASL()).weights)


def test_lwf_without_weight_is_masked_replay() -> None:
    assert not differences(trained(MultiLabelLwF(weight=0)).weights, trained(MultiLabelReplay()).weights)


def test_relabeling_that_never_fires_on_the_first_experience_leaves_it_as_akd() -> None:
    akd, rebll = trained(MultiLabelAKD(), experiences=1), trained(RebLL(), experiences=1)
    assert not differences(akd.weights, rebll.weights)


# --- batches half from memory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("new", "memory", "share"), [(23, 4, 0.5), (8, 30, 0.25), (3, 2, 0.5), (20, 7, 0.9)])
def test_every_batch_has_its_share_of_memory(new: int, memory: int, share: float) -> None:
    order = SharedOrder(new, memory, 10, share, torch.Generator().manual_seed(0))
    first, second = list(order), list(order)
    assert len(first) == len(order) and first != second
    assert sorted(p for p in first if p < new) == list(range(new))
    full = [first[i : i + 10] for i in range(0, len(first) - 9, 10)]
    assert all(sum(p >= new for p in batch) == round(10 * share) for batch in full)
    replayed = np.bincount([p - new for p in first if p >= new], minlength=memory)
    assert replayed.max() - replayed.min() <= 1 and len(replayed) == memory


@pytest.mark.parametrize(
    ("new", "memory", "share"), [(23, 4, 0.5), (8, 30, 0.25), (3, 2, 0.5), (20, 7, 0.9), (25, 9, 0.5)]
)
def test_the_last_two_batches_share_memory_evenly_too(new: int, memory: int, share: float) -> None:
    keep, even = (
        SharedOrder(new, memory, 10, share, torch.Generator().manual_seed(0), last_batch)
        for last_batch in ("keep", "even")
    )
    found = list(even)
    assert found.count(0) == 1 and sorted(found) == sorted(keep), "the same images, in other batches"
    place = 0
    for size in batch_sizes(len(even), 10, "even"):
        replayed = sum(p >= new for p in found[place : place + size])
        assert replayed == pytest.approx(size * round(10 * share) / 10, abs=1)
        place += size
    assert place == len(found)


def test_the_share_is_what_the_learner_trains_on() -> None:
    bench = make_workbench(MultiLabelReplay(memory_share=0.5))
    run = bench.start(epochs=1)
    shares: list[list[float]] = []

    def look(strategy: Any, **kwargs: Any) -> None:
        old = sum(FROM_SCRATCH[: strategy.experience.current_experience])
        from_memory = (strategy.mb_y[:, :old] >= 0).any(dim=1)
        shares[-1].append(float(from_memory.float().mean()))

    run.watch.before_forward = look  # type: ignore[method-assign]
    for t in range(3):
        shares.append([])
        bench.go_on(run, [t])
    assert set(shares[0]) == {0.0}
    assert all(share == 0.5 for share in [*shares[1][:-1], *shares[2][:-1]])
    new = [len(experience.dataset) for experience in run.stream.train_stream]
    assert run.learner.images_trained == 2 * new[2]


# --- relabeling ------------------------------------------------------------------------------------------------------


def memory_of(run: Any) -> Any:
    return next(plugin for plugin in run.learner.plugins if isinstance(plugin, ExemplarMemoryPlugin))


def test_exemplars_keep_their_annotations_without_relabeling() -> None:
    memory = memory_of(trained(MultiLabelAKD()))
    rows, truth = memory.annotations(), complete_labels(memory.dataset())
    assert (rows == -1).any() and torch.equal(rows[rows >= 0], truth[rows >= 0])


def test_the_oracle_fills_in_the_truth() -> None:
    run = trained(MultiLabelOracle())
    memory = memory_of(run)
    assert torch.equal(memory.annotations(), complete_labels(memory.dataset()))
    (labels,) = (plugin.label_counts for plugin in run.learner.plugins if isinstance(plugin, RelabelingPlugin))
    assert labels["after"]["fp"] == labels["after"]["fn"] == labels["pseudo"]["fp"] == labels["pseudo"]["fn"] == 0
    assert labels["before"]["fn"] == labels["pseudo"]["tp"] and labels["before"]["fp"] == 0


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_new_columns_come_from_the_current_model_and_old_ones_from_the_previous(threshold: float) -> None:
    bench, old, num_seen = make_workbench(RebLL(threshold=threshold)), FROM_SCRATCH[0], sum(FROM_SCRATCH[:2])
    run = bench.start(epochs=2)
    relabeling = next(plugin for plugin in run.learner.plugins if isinstance(plugin, OnlineRelabelingPlugin))
    memory, ask, before = relabeling.memory, relabeling.labels, []
    relabeling.labels = lambda strategy: before.append(memory.annotations()) or ask(strategy)  # type: ignore
    bench.go_on(run, [0])
    first = copy.deepcopy(run.learner.model)
    bench.go_on(run, [1])
    exemplars = memory.dataset()
    assert exemplars is not None
    previous, current = (
        torch.sigmoid(extract_features(run.learner, exemplars, model).logits) for model in (first, run.learner.model)
    )
    wanted = torch.cat([previous, current[:, old:]], dim=1) > threshold
    (given,), labels = before, memory.annotations()
    filled = given[:, :num_seen] < 0
    seen = labels[:, :num_seen]
    assert filled[:, :old].any() and filled[:, old:].any()
    assert torch.equal(seen[filled], wanted[filled].to(seen.dtype))
    assert torch.equal(seen[~filled], given[:, :num_seen][~filled]) and (labels[:, num_seen:] == -1).all()


def test_labels_are_counted_by_hand() -> None:
    counts = count_labels(torch.tensor([[1, 1, 0], [0, 0, 1]]), torch.tensor([[1, 0, 0], [1, 0, 1]]))
    assert counts == {"tp": 2, "fp": 1, "fn": 1, "tn": 2}


# --- joint -----------------------------------------------------------------------------------------------------------


def test_joint_sees_every_image_once_and_completely() -> None:
    bench = make_workbench(MultiLabelJoint(mode="continue"))
    run, seen = bench.start(epochs=1), sum(FROM_SCRATCH[:2])
    data: list[Any] = []
    run.watch.before_training_epoch = lambda strategy, **kwargs: data.append(strategy.adapted_dataset)  # type: ignore
    bench.go_on(run, [0, 1])
    labels, rows = targets_array(data[1]), list(data[1].sample_index)
    assert len(set(rows)) == len(rows)
    truth = run.arrays.train_labels[rows]
    assert np.array_equal(labels[:, :seen], truth[:, :seen]) and (labels[:, seen:] == -1).all()
    assert len(rows) == (truth[:, :seen].any(axis=1)).sum() == (run.arrays.train_labels[:, :seen].any(axis=1)).sum()


# --- elsewhere -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [RebLL(memory_share=0.5), MultiLabelJoint(mode="continue")])
def test_attached_to_a_stock_template(recipe: Recipe) -> None:
    """Avalanche's own loop and loader on a multi-label stream."""
    arrays = workbench.scenes()
    stream = workbench.scene_stream(arrays)
    torch.manual_seed(0)
    backbone: Any = backbones.build("convnet", recipe.last_relu)
    model, criterion, plugins = recipe.attach(backbone, backbone.num_features, MemoryPolicy(3), epochs=2, batch_size=10)
    strategy = SupervisedTemplate(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), 0.05, momentum=0.9),
        criterion=criterion,
        plugins=plugins,
        train_mb_size=10,
        train_epochs=2,
        eval_mb_size=30,
        evaluator=silent_evaluator(),
    )
    for experience in stream.train_stream:
        strategy.train(experience, eval_streams=[])
    strategy.eval(stream.test_stream)
    assert torch.isfinite(strategy.loss) and model.head.num_classes == sum(FROM_SCRATCH)
    for plugin in plugins:
        if isinstance(plugin, RelabelingPlugin):
            assert (plugin.memory.annotations() >= 0).all()
