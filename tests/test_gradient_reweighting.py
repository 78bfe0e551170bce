"""GR, DGR and DAKD on stock Avalanche templates, against recorded values and plain autograd."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from avalanche.benchmarks import nc_benchmark
from avalanche.core import SupervisedPlugin
from avalanche.models import IncrementalClassifier
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
from avalanche.training.supervised import Naive
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import Dataset

from strategies import losses
from strategies.criterion import BalancedSoftmax, NewCrossEntropy, SeenCrossEntropy
from strategies.gradient_reweighting import (
    DistributionAwareDistillationPlugin,
    GradientReweightingPlugin,
    attenuation_factor,
    class_balance_ratios,
    decoupled_ratios,
    group_ratios,
)
from strategies.heads import LinearHead
from strategies.memory import ExemplarMemoryPlugin
from strategies.network import IncrementalNetwork
from strategies.recipe import Parts
from strategies.seen import ClassCounts, SeenClasses
from strategies.teacher import Teacher, last_linear
from strategies.template import IncrementalLearner, Optimisation

pytestmark = pytest.mark.filterwarnings("ignore:No loggers specified")

GOLDEN = np.load(Path(__file__).parent / "data" / "golden_gr.npz", allow_pickle=False)


# a small world -------------------------------------------------------------------------------------------------------


class Points(Dataset):
    """Random vectors, `counts[id]` of each class."""

    def __init__(self, counts: dict[int, int], features: int) -> None:
        self.targets = [label for label in sorted(counts) for _ in range(counts[label])]
        generator = torch.Generator().manual_seed(7)
        self.x = torch.randn(len(self.targets), features, generator=generator, dtype=torch.get_default_dtype())

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.x[index], self.targets[index]


def benchmark_of(counts: dict[int, int], tasks: list[list[int]], features: int = 8) -> Any:
    return nc_benchmark(
        Points(counts, features),
        Points(dict.fromkeys(counts, 2), features),
        n_experiences=len(tasks),
        task_labels=False,
        fixed_class_order=[c for task in tasks for c in task],
        per_exp_classes={i: len(task) for i, task in enumerate(tasks)},
    )


class FirstImages(SupervisedPlugin):
    """A memory of the first m images of every old class, joined to the training data."""

    def __init__(self, m: int) -> None:
        super().__init__()
        self.m, self.kept = m, None

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        if self.kept is not None:
            strategy.adapted_dataset = strategy.adapted_dataset.concat(self.kept)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        dataset = strategy.experience.dataset
        groups = dataset.targets.val_to_idx.values()
        first = dataset.subset([i for group in groups for i in list(group)[: self.m]])
        self.kept = first if self.kept is None else self.kept.concat(first)


class Each(SupervisedPlugin):
    """Calls a function before every update."""

    def __init__(self, function: Callable[[Any], None]) -> None:
        super().__init__()
        self.function = function

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        self.function(strategy)


def template_of(
    model: nn.Module, criterion: Any, plugins: list[Any], lr: float = 0.1, **kwargs: Any
) -> SupervisedTemplate:
    return SupervisedTemplate(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=lr),
        criterion=criterion,
        plugins=plugins,
        train_mb_size=kwargs.pop("train_mb_size", 17),
        evaluator=EvaluationPlugin(),
        **kwargs,
    )


@pytest.fixture(params=["f64", "f32"])
def precision(request: pytest.FixtureRequest) -> Iterator[tuple[str, float]]:
    """(suffix of the recorded values, tolerance), with the default dtype set."""
    torch.set_default_dtype(torch.float64 if request.param == "f64" else torch.float32)
    yield ("", 1e-10) if request.param == "f64" else ("_f32", 1e-5)
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# recorded runs -------------------------------------------------------------------------------------------------------

LAYOUTS = {
    "in order, wide head": ([[0, 1, 2, 3], [4, 5, 6]], lambda d: nn.Linear(d, 7)),
    "in order, growing head": ([[0, 1, 2, 3], [4, 5, 6]], lambda d: IncrementalClassifier(d, 1)),
    "shuffled ids, head wider than the benchmark": ([[1, 3, 4, 6], [0, 2, 5]], lambda d: nn.Linear(d, 9)),
    "shuffled ids, growing head": ([[1, 3, 4, 6], [0, 2, 5]], lambda d: IncrementalClassifier(d, 2)),
}


class Replayed(SupervisedPlugin):
    """Feeds a recorded task: its parameters, its batches; collects what the strategy hands to the optimiser."""

    def __init__(self, ids: list[int], reweighting: GradientReweightingPlugin, kd: Any, criterion: Any) -> None:
        super().__init__()
        self.ids, self.reweighting, self.kd, self.criterion = torch.tensor(ids), reweighting, kd, criterion
        self.task = ""
        self.rows: list[dict[str, Tensor]] = []

    def array(self, name: str) -> Tensor:
        tensor = torch.tensor(GOLDEN[f"{self.task}.{name}"])
        return tensor.to(torch.get_default_dtype()) if tensor.is_floating_point() else tensor

    @torch.no_grad()
    def set_parameters(self, model: nn.Sequential, suffix: str = "") -> None:
        head, w = last_linear(model), self.array(f"W{suffix}")
        model[0].weight.copy_(self.array(f"M{suffix}"))
        head.weight[self.ids[: len(w)]] = w
        head.bias[self.ids[: len(w)]] = self.array(f"b{suffix}")

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.set_parameters(strategy.model)
        self.rows = []

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        x, y = self.array("X"), self.array("Y")
        strategy.dataloader = [[x[i], self.ids[y[i]], torch.zeros_like(y[i])] for i in range(len(x))]

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        head, r = last_linear(strategy.model), self.reweighting
        seen = self.ids[: len(r.phi)]
        row = {
            "Wg": head.weight.grad[seen],
            "bg": head.bias.grad[seen],
            "Mg": strategy.model[0].weight.grad,
            "phi": r.phi,
            "A": r.row_factors,
            "loss_ce": self.criterion(strategy.mb_output, strategy.mb_y),
        }
        if len(r.phi) == 7:
            row |= {"r_old": r.r_old, "r_new": r.r_new, "beta": r.beta, "loss_kd": self.kd.last_loss}
        self.rows.append({name: value.detach().clone() for name, value in row.items()})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_recorded_run_of_the_released_code(layout: str, precision: tuple[str, float]) -> None:
    """Phi, A, r, beta, losses, head and backbone gradients of two tasks, iteration by iteration."""
    suffix, tolerance = precision
    tasks, make_head = LAYOUTS[layout]
    ids = [c for task in tasks for c in task]
    original = [*GOLDEN["toy2.t0.n_orig_new"].tolist(), *GOLDEN["toy2.t1.n_orig_new"].tolist()]
    benchmark = benchmark_of(dict(zip(ids, original, strict=True)), tasks)

    kd = DistributionAwareDistillationPlugin()
    reweighting = GradientReweightingPlugin(kd)
    criterion = BalancedSoftmax()
    replayed = Replayed(ids, reweighting, kd, criterion)
    model = nn.Sequential(nn.Linear(8, 6, bias=False), make_head(6))
    memory = FirstImages(int(GOLDEN["toy2.m"]))
    strategy = template_of(model, criterion, [memory, kd, reweighting, replayed], lr=0.0)

    for t, experience in enumerate(benchmark.train_stream):
        replayed.task = f"toy2.t{t}"
        if t > 0:
            replayed.set_parameters(strategy.model, "t")  # what the teacher is a copy of
        strategy.train(experience)
        assert reweighting.counts.available.tolist() == GOLDEN[f"toy2.t{t}.counts"].tolist()
        assert len(replayed.rows) == 6
        for name in replayed.rows[0]:
            actual = torch.stack([row[name] for row in replayed.rows]).double().numpy()
            expected = GOLDEN[f"toy2.t{t}.{name}{suffix}"]
            np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance, err_msg=f"t{t} {name}")
    assert kd.counts.lost.tolist() == GOLDEN["toy2.t1.lost"].tolist()
    assert reweighting.gamma == pytest.approx(float(GOLDEN["toy2.t1.gamma"]), rel=1e-12)
    assert kd.kd_ratio == pytest.approx(float(GOLDEN["toy2.t1.kd_ratio"]), rel=1e-12)


@pytest.mark.parametrize("book", ["book0", "book1"])
def test_recorded_bookkeeping(book: str) -> None:
    """Available, lost counts, gamma and kd_ratio over three tasks, through the plugins' own hooks."""
    m = int(GOLDEN[f"{book}.m"])
    kd = DistributionAwareDistillationPlugin()
    reweighting = GradientReweightingPlugin(kd)
    old: list[int] = []  # ids of all exemplars
    first = 0
    for t in range(int(GOLDEN[f"{book}.ntasks"])):
        counts = GOLDEN[f"{book}.orig_t{t}"]
        new = np.repeat(np.arange(first, first + len(counts)), counts).tolist()
        strategy = SimpleNamespace(
            experience=SimpleNamespace(
                classes_in_this_experience=list(range(first, first + len(counts))),
                current_experience=t,
                dataset=_Labels(new),
            ),
            adapted_dataset=_Labels(new + old),
            dataloader=[],
            device=torch.device("cpu"),
        )
        for plugin in (kd, reweighting):
            plugin.before_training_exp(strategy)
        assert reweighting.counts.available.tolist() == GOLDEN[f"{book}.counts_t{t}"].tolist()
        if t > 0:
            assert kd.counts.lost.tolist() == GOLDEN[f"{book}.lost_t{t}"].tolist()
            assert reweighting.gamma == pytest.approx(float(GOLDEN[f"{book}.gamma_t{t}"]), rel=1e-12)
            assert kd.kd_ratio == pytest.approx(float(GOLDEN[f"{book}.kd_ratio_t{t}"]), rel=1e-12)
        old += np.repeat(np.arange(first, first + len(counts)), np.minimum(counts, m)).tolist()
        first += len(counts)


class _Labels:
    def __init__(self, targets: list[int]) -> None:
        self.targets = targets

    def __len__(self) -> int:
        return len(self.targets)


# ratios --------------------------------------------------------------------------------------------------------------


def test_ratios_worked_examples() -> None:
    assert class_balance_ratios([2, 1, 4]).tolist() == [0.5, 1, 0.25]
    gamma = attenuation_factor(4000, 1000)
    assert gamma == pytest.approx(0.449329, abs=1e-6)
    expected = [0.666667, 0.333333, 0.299553, 0.149776]
    assert decoupled_ratios([6, 12, 4, 8], 2, gamma).tolist() == pytest.approx(expected, abs=1e-6)
    assert decoupled_ratios([2, 1, 4, 8], 2, gamma).tolist() == [0.5, 1, 1, 0.5]


def test_equal_phi() -> None:
    """First task: alpha = 1. Later: old rows 1, new rows gamma."""
    assert class_balance_ratios(torch.full((5,), 3.0)).tolist() == [1] * 5
    assert decoupled_ratios(torch.full((4,), 3.0, dtype=torch.float64), 2, 0.6).tolist() == [1, 1, 0.6, 0.6]
    assert decoupled_ratios([3, 3, 3], 0, 0.6).tolist() == decoupled_ratios([3, 3, 3], 3, 0.6).tolist() == [1, 1, 1]


def test_official_rule_never_favours_the_new_classes_and_symmetric_does() -> None:
    for mean_new in (0.1, 0.9, 1.5, 10.0):
        r_old, r_new = group_ratios([1.0, mean_new], 1, 0.5)
        assert r_new <= r_old
    assert [r.item() for r in group_ratios([1.0, 1.6], 1, 0.5)] == [1, pytest.approx(0.8)]
    assert [r.item() for r in group_ratios([1.0, 4.0], 1, 0.5, "symmetric")] == [1, 0.5]
    assert [r.item() for r in group_ratios([1.0, 0.5], 1, 0.5, "symmetric")] == [0.5, 1]


def test_classes_without_images_are_left_out() -> None:
    assert class_balance_ratios([0, 2, 1]).tolist() == [1, 0.5, 1]
    assert class_balance_ratios([0, 0]).tolist() == [1, 1]
    with_absent = decoupled_ratios([0, 6, 12, 0, 4, 8], 3, 0.5)
    without = decoupled_ratios([6, 12, 4, 8], 2, 0.5)
    assert with_absent[[1, 2, 4, 5]].tolist() == without.tolist()
    assert with_absent[[0, 3]].tolist() == [1, 1]
    assert decoupled_ratios([0, 0, 4, 8], 2, 0.5).tolist() == [1, 1, 1, 0.5]  # no memory at all: no ratio of groups
    assert decoupled_ratios([0, 0, 4, 8], 2, 0.5, "symmetric").tolist() == [1, 1, 1, 0.5]


def test_attenuation() -> None:
    assert attenuation_factor(0, 10) == 1
    assert attenuation_factor(900, 100, strength=0) == 1
    assert attenuation_factor(10**9, 1, 1) > math.exp(-1)
    r_old, r_new = group_ratios([4.0, 2.0], 1, attenuation_factor(50, 50, strength=0))
    assert r_old == r_new == 0.5  # g = 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decoupled_ratios([1, 2], 1, 0.5, "inverse"), "official, symmetric"),
        (lambda: decoupled_ratios([1, 2], 3, 0.5), "num_old is 3"),
        (lambda: attenuation_factor(0, 0), "not both 0"),
        (lambda: GradientReweightingPlugin(groups="one"), "decoupled, unified, intra, none"),
        (lambda: GradientReweightingPlugin(balance="on"), '"norm" or a number'),
        (lambda: GradientReweightingPlugin(rule="x"), 'rule "x"'),
        (lambda: DistributionAwareDistillationPlugin("kd"), "dakd, vanilla, feature, none"),
        (lambda: DistributionAwareDistillationPlugin(entropy=2), "entropy is 2"),
        (lambda: DistributionAwareDistillationPlugin(temperature=0), "temperature positive"),
        (lambda: Teacher().logits(torch.zeros(1)), "no model yet"),
        (lambda: last_linear(nn.ReLU()), r"no nn\.Linear"),
    ],
)
def test_mistakes_are_told_in_a_sentence(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# on a stock strategy, against autograd -------------------------------------------------------------------------------

COUNTS = {0: 40, 1: 7, 2: 25, 3: 12, 4: 30, 5: 5, 6: 18}
SHUFFLED = [[2, 5, 6], [1, 4], [0, 3]]


def perceptron(width: int = 7, *, growing: bool = False) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), IncrementalClassifier(16) if growing else nn.Linear(16, width)
    )


def split_gradients(strategy: Any, kd: DistributionAwareDistillationPlugin, criterion: Any) -> Any:
    """((W, b) of the criterion, (W, b) of the distillation, backbone gradient of the sum), by autograd."""
    model = copy.deepcopy(strategy.model)  # the batch statistics must not move twice
    output = model(strategy.mb_x)
    head = last_linear(model)
    ce = criterion(output, strategy.mb_y)
    of_ce = torch.autograd.grad(ce, [head.weight, head.bias], retain_graph=True)
    if not kd.counts.seen.num_old:
        (backbone,) = torch.autograd.grad(ce, next(model.parameters()))
        return of_ce, None, backbone
    old = torch.tensor(kd.counts.seen.class_ids[: kd.counts.seen.num_old])
    args = output[:, old], kd.teacher.logits(strategy.mb_x)[:, old]
    if kd.kind == "vanilla":
        loss = losses.distillation_loss(*args, kd.temperature)
    else:
        loss = losses.distribution_aware_distillation_loss(*args, kd.counts.lost, kd.temperature)
    loss = kd.kd_ratio * kd.temperature**2 * loss
    of_kd = torch.autograd.grad(loss, [head.weight, head.bias], retain_graph=True)
    (backbone,) = torch.autograd.grad(ce + loss, next(model.parameters()))
    return of_ce, of_kd, backbone


@pytest.mark.parametrize("growing", [False, True])
@pytest.mark.usefixtures("float64")
def test_head_gradients_on_a_stock_strategy_equal_autograd(growing: bool) -> None:
    """Naive on an nc_benchmark with shuffled class ids, momentum and moving weights; formulas written out by hand."""
    kd = DistributionAwareDistillationPlugin()
    reweighting = GradientReweightingPlugin(kd, max_grad_norm=None)
    criterion = BalancedSoftmax()
    phi = torch.zeros(0)
    checked = []

    def check(strategy: Any) -> None:
        nonlocal phi
        ids, old = kd.counts.seen.class_ids, kd.counts.seen.num_old
        (w_ce, b_ce), of_kd, backbone = split_gradients(strategy, kd, criterion)
        if reweighting.steps == 1:
            phi = torch.zeros(len(ids))
        phi = phi + torch.stack([w_ce[c].norm() for c in ids])
        a = torch.empty(len(ids))
        groups = [slice(0, old), slice(old, None)] if old else [slice(None)]
        for group in groups:
            a[group] = phi[group].min() / phi[group]
        if old:
            gamma = math.exp(-reweighting.counts.num_seen_images / sum(COUNTS[c] for c in ids))
            rho = phi[old:].mean() / phi[:old].mean()
            a[:old] *= min(1.0, rho.item())
            a[old:] *= min(1.0, rho.item() * gamma)
        w = torch.stack([a[j] * w_ce[c] for j, c in enumerate(ids)])
        b = torch.stack([a[j] * b_ce[c] for j, c in enumerate(ids)])
        if of_kd is not None:
            beta = w.norm() / of_kd[0][ids].norm()
            w, b = w + beta * of_kd[0][ids], b + beta * of_kd[1][ids]
        head = last_linear(strategy.model)
        torch.testing.assert_close(head.weight.grad[ids], w, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(head.bias.grad[ids], b, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(strategy.model[0].weight.grad, backbone, rtol=1e-9, atol=1e-12)
        checked.append(old)

    model = perceptron(growing=growing)
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4),
        criterion=criterion,
        plugins=[FirstImages(6), kd, reweighting, Each(check)],
        train_mb_size=17,
        train_epochs=2,
        evaluator=EvaluationPlugin(),
    )
    benchmark = benchmark_of(COUNTS, SHUFFLED)
    for experience in benchmark.train_stream:
        strategy.train(experience)
        strategy.eval(benchmark.test_stream)
    assert sorted(set(checked)) == [0, 3, 5] and len(checked) > 12


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", ["dakd", "vanilla"])
def test_without_reweighting_it_is_plain_training(kind: str) -> None:
    """A = 1, no offset, beta = 1: the gradients of cross-entropy plus distillation, on every row of a wide head."""
    kd = DistributionAwareDistillationPlugin(kind)
    reweighting = GradientReweightingPlugin(kd, groups="none", balance=1.0)
    criterion = nn.CrossEntropyLoss()
    compared = []

    def check(strategy: Any) -> None:
        of_ce, of_kd, _ = split_gradients(strategy, kd, criterion)
        head = last_linear(strategy.model)
        for grad, ce, distilled in zip((head.weight.grad, head.bias.grad), of_ce, of_kd or (0, 0), strict=True):
            torch.testing.assert_close(grad, ce + distilled, rtol=1e-9, atol=1e-12)
        compared.append(of_kd is not None)

    strategy = template_of(perceptron(9), criterion, [FirstImages(6), kd, reweighting, Each(check)])
    for experience in benchmark_of(COUNTS, SHUFFLED).train_stream:
        strategy.train(experience)
    assert True in compared and False in compared


def run(reweighting: GradientReweightingPlugin, kd: Any, check: Callable[[Any], None], **kwargs: Any) -> None:
    """Two experiences of a long-tailed stream with shuffled ids on a stock template."""
    plugins = [FirstImages(kwargs.pop("memory", 6)), *([kd] if kd else []), reweighting, Each(check)]
    criterion = kwargs.pop("criterion", None) or BalancedSoftmax()
    model = kwargs.pop("model", None) or perceptron()
    strategy = template_of(model, criterion, plugins, **kwargs)
    for experience in list(benchmark_of(COUNTS, SHUFFLED).train_stream)[:2]:
        strategy.train(experience)


@pytest.mark.usefixtures("float64")
def test_first_step_gives_all_rows_of_a_group_one_norm() -> None:
    reweighting = GradientReweightingPlugin()  # no distillation: the head gradient is its cross-entropy part
    spreads = []

    def check(strategy: Any) -> None:
        if reweighting.steps == 1:
            seen = reweighting.counts.seen
            norms = last_linear(strategy.model).weight.grad[seen.class_ids].norm(dim=1)
            groups = [norms[: seen.num_old], norms[seen.num_old :]] if seen.num_old else [norms]
            spreads.extend((group.max() / group.min()).item() for group in groups)

    run(reweighting, None, check)
    assert spreads == pytest.approx([1, 1, 1], abs=1e-10)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("groups", "same"), [("unified", 1), ("intra", 2)])
def test_other_groupings_differ_from_decoupled_after_the_first_experience(groups: str, same: int) -> None:
    reweighting = GradientReweightingPlugin(groups=groups)

    def check(strategy: Any) -> None:
        a, phi, old = reweighting.row_factors, reweighting.phi, reweighting.counts.seen.num_old
        decoupled = decoupled_ratios(phi, old, reweighting.gamma)
        assert torch.equal(a, decoupled) == (old == 0)
        if old:
            assert reweighting.r_old == reweighting.r_new == 1
            assert (a == 1).sum() == same  # one minimum per group

    run(reweighting, None, check)


@pytest.mark.usefixtures("float64")
def test_no_attenuation_makes_both_group_ratios_equal() -> None:
    reweighting = GradientReweightingPlugin(attenuation=0)
    run(reweighting, None, lambda strategy: None)
    assert reweighting.gamma == 1 and reweighting.r_old == reweighting.r_new
    assert reweighting.counts.seen.num_old == 3
    by_classes = GradientReweightingPlugin(attenuation_counts="classes")
    run(by_classes, None, lambda strategy: None)
    assert by_classes.gamma == pytest.approx(math.exp(-3 / 5))


def _head_gradients(kd: DistributionAwareDistillationPlugin, **kwargs: Any) -> list[Tensor]:
    taken: list[Tensor] = []
    reweighting = GradientReweightingPlugin(kd, **kwargs)
    run(reweighting, kd, lambda strategy: taken.append(last_linear(strategy.model).weight.grad.clone()), lr=0.0)
    return taken


@pytest.mark.usefixtures("float64")
def test_overrides_reach_vanilla_distillation() -> None:
    vanilla = _head_gradients(DistributionAwareDistillationPlugin("vanilla"))
    torch.testing.assert_close(_head_gradients(DistributionAwareDistillationPlugin(entropy=1)), vanilla)
    torch.testing.assert_close(_head_gradients(DistributionAwareDistillationPlugin(class_weight=1)), vanilla)
    dakd = _head_gradients(DistributionAwareDistillationPlugin())
    assert not torch.allclose(dakd[-1], vanilla[-1])
    assert not torch.allclose(_head_gradients(DistributionAwareDistillationPlugin(entropy=0))[-1], dakd[-1])


@pytest.mark.usefixtures("float64")
def test_distillation_weight_cancels_in_the_head_unless_beta_is_fixed() -> None:
    torch.testing.assert_close(
        _head_gradients(DistributionAwareDistillationPlugin(weight=0.7)),
        _head_gradients(DistributionAwareDistillationPlugin(weight=3.0)),
    )
    fixed = [_head_gradients(DistributionAwareDistillationPlugin(weight=w), balance=1.0)[-1] for w in (0.7, 3.0)]
    assert not torch.allclose(*fixed)


@pytest.mark.usefixtures("float64")
def test_reweighted_distillation_changes_direction_but_not_size() -> None:
    kd = DistributionAwareDistillationPlugin()
    reweighting = GradientReweightingPlugin(kd, reweight_distillation=True)
    seen_old = []

    def check(strategy: Any) -> None:
        old = kd.counts.seen.num_old
        if not old:
            return
        ids = kd.counts.seen.class_ids
        (w_ce, _), of_kd, _ = split_gradients(strategy, kd, strategy._criterion)
        a = reweighting.row_factors
        scaled_ce, scaled_kd = a[:, None] * w_ce[ids], a[:old, None] * of_kd[0][ids[:old]]
        expected = scaled_ce.clone()
        expected[:old] += scaled_ce.norm() / scaled_kd.norm() * scaled_kd
        torch.testing.assert_close(last_linear(strategy.model).weight.grad[ids], expected, rtol=1e-9, atol=1e-12)
        seen_old.append(old)

    run(reweighting, kd, check)
    assert seen_old


def test_student_equal_to_teacher_drops_the_distillation_row() -> None:
    """Without batch norm and with frozen weights the distillation gradient is rounding noise, in float32 too."""
    kd = DistributionAwareDistillationPlugin()
    reweighting = GradientReweightingPlugin(kd)
    without = GradientReweightingPlugin()
    gradients: dict[str, list[Tensor]] = {"with": [], "without": []}
    betas = []

    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 7))

    def collect(name: str) -> Callable[[Any], None]:
        def check(strategy: Any) -> None:
            gradients[name].append(last_linear(strategy.model).weight.grad.clone())
            if name == "with" and kd.counts.seen.num_old:
                betas.append(reweighting.beta.item())

        return check

    for name, plugin, distillation in (("with", reweighting, kd), ("without", without, None)):
        torch.manual_seed(1)
        run(plugin, distillation, collect(name), lr=0.0, model=model())
    assert betas and set(betas) == {0.0}
    torch.testing.assert_close(gradients["with"], gradients["without"])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("offset", [True, False])
def test_no_memory_at_all_is_finite(offset: bool) -> None:
    """Old classes have no image: they are left out of offset, minimum and means and keep A = 1."""
    kd = DistributionAwareDistillationPlugin()
    reweighting = GradientReweightingPlugin(kd)

    def check(strategy: Any) -> None:
        old = reweighting.counts.seen.num_old
        assert all(torch.isfinite(p.grad).all() for p in strategy.model.parameters())
        assert torch.isfinite(strategy.loss).all()
        assert (reweighting.row_factors[:old] == 1).all() and reweighting.r_new == 1
        if old:
            assert ((reweighting.phi[:old] == 0).all()) == offset

    run(reweighting, kd, check, memory=0, criterion=BalancedSoftmax() if offset else SeenCrossEntropy())
    assert reweighting.counts.available[:3].tolist() == [0, 0, 0]


@pytest.mark.usefixtures("float64")
def test_nothing_lost_and_one_old_class() -> None:
    """The released code divides by zero in both cases; here they are vanilla distillation, also with R fixed at 0."""
    for counts, tasks, memory in (({0: 5, 1: 4, 2: 9}, [[1, 2], [0]], 20), ({0: 30, 1: 20, 2: 9}, [[1], [0, 2]], 6)):
        results = []
        for kind, entropy in (("dakd", None), ("vanilla", None), ("dakd", 0.0)):
            kd = DistributionAwareDistillationPlugin(kind, entropy=entropy)
            taken: list[Tensor] = []
            check = Each(lambda s, taken=taken: taken.append(last_linear(s.model).weight.grad.clone()))
            torch.manual_seed(5)
            plugins = [FirstImages(memory), kd, GradientReweightingPlugin(kd), check]
            strategy = template_of(perceptron(3), BalancedSoftmax(), plugins, train_mb_size=10)
            for experience in benchmark_of(counts, tasks).train_stream:
                strategy.train(experience)
            assert kd.last_loss is not None and torch.isfinite(kd.last_loss)
            results.append(taken)
        torch.testing.assert_close(results[0], results[1])
        torch.testing.assert_close(results[2], results[1])


@pytest.mark.usefixtures("float64")
def test_feature_distillation_reaches_the_backbone_only() -> None:
    kd = DistributionAwareDistillationPlugin("feature")
    reweighting = GradientReweightingPlugin(kd)
    terms = []

    def check(strategy: Any) -> None:
        if not kd.counts.seen.num_old:
            return
        assert kd.old_logit_gradient() is None and kd.last_loss is not None
        terms.append(kd.last_loss.item())
        a, ids = reweighting.row_factors, kd.counts.seen.class_ids
        model = strategy.model
        features = model[:3](strategy.mb_x)
        ce = strategy._criterion(model[3](features), strategy.mb_y)
        (w_ce,) = torch.autograd.grad(ce, model[3].weight, retain_graph=True)
        torch.testing.assert_close(model[3].weight.grad[ids], a[:, None] * w_ce[ids])
        feature_loss = losses.less_forget_loss(features, kd.teacher.features(strategy.mb_x))
        (backbone,) = torch.autograd.grad(ce + kd.kd_ratio * feature_loss, model[0].weight)
        torch.testing.assert_close(model[0].weight.grad, backbone)

    run(reweighting, kd, check)
    assert terms and all(term > 0 for term in terms)


def test_kind_none_adds_nothing() -> None:
    kd = DistributionAwareDistillationPlugin("none")
    run(GradientReweightingPlugin(kd), kd, lambda strategy: None)
    assert kd.teacher.model is None and kd.last_loss is None and kd.counts.seen.num_old == 3


@pytest.mark.parametrize("replay_first", [True, False])
def test_avalanche_replay_plugin_is_counted(replay_first: bool) -> None:
    """Its buffer is in the data loader, not in adapted_dataset; in either order of plugins the loss stays finite."""
    kd = DistributionAwareDistillationPlugin()
    reweighting = GradientReweightingPlugin(kd)
    criterion = BalancedSoftmax()
    replay = ReplayPlugin(mem_size=30)
    losses_seen = []
    plugins = [replay, kd, reweighting] if replay_first else [kd, reweighting, replay]
    plugins.append(Each(lambda strategy: losses_seen.append(strategy.loss.item())))
    strategy = template_of(perceptron(), criterion, plugins)
    for experience in list(benchmark_of(COUNTS, SHUFFLED).train_stream)[:2]:
        strategy.train(experience)
    held = reweighting.counts.available[:3].tolist()
    assert sum(held) == 30 and criterion.counts.available[:3].tolist() == held
    assert np.isfinite(losses_seen).all()


def test_one_backward_pass_and_the_teacher_is_frozen_before_the_head_grows() -> None:
    kd = DistributionAwareDistillationPlugin()
    calls = []
    widths = []

    class Counting(SupervisedTemplate):
        def backward(self) -> None:
            calls.append(self.retain_graph)
            super().backward()

    def check(strategy: Any) -> None:
        if kd.teacher.model is not None:
            assert not kd.teacher.model.training and not any(p.requires_grad for p in kd.teacher.model.parameters())
            widths.append((last_linear(kd.teacher.model).out_features, last_linear(strategy.model).out_features))

    model = nn.Sequential(nn.Linear(8, 4), IncrementalClassifier(4, 1))
    plugins = [FirstImages(5), kd, GradientReweightingPlugin(kd), Each(check)]
    strategy = Counting(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=BalancedSoftmax(),
        plugins=plugins,
        train_mb_size=17,
        evaluator=EvaluationPlugin(),
    )
    steps = []
    plugins[-1].function = lambda s, inner=check: (inner(s), steps.append(1))
    for experience in benchmark_of({0: 9, 1: 9, 2: 9}, [[0, 1], [2]]).train_stream:
        strategy.train(experience)
    assert len(calls) == len(steps) > 0 and not any(calls)
    assert set(widths) == {(2, 3)}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("limit", [None, 1e-3])
def test_the_backbone_gradient_is_untouched_and_clipping_works(limit: float | None) -> None:
    """No A, r or beta reaches the backbone: its gradient is that of the plain loss; clipping scales all gradients."""
    kd = DistributionAwareDistillationPlugin()
    reweighting = GradientReweightingPlugin(kd, max_grad_norm=limit)
    seen_old = set()

    def check(strategy: Any) -> None:
        _, _, plain = split_gradients(strategy, kd, strategy._criterion)
        gradient = strategy.model[0].weight.grad
        total = torch.cat([p.grad.flatten() for p in strategy.model.parameters()]).norm()
        if limit is None:
            torch.testing.assert_close(gradient, plain, rtol=1e-9, atol=1e-12)
        else:
            assert total.item() == pytest.approx(limit, rel=1e-2)
            torch.testing.assert_close(gradient / gradient.norm(), plain / plain.norm(), rtol=1e-9, atol=1e-9)
        assert (reweighting.row_factors < 1).any()
        seen_old.add(kd.counts.seen.num_old)

    run(reweighting, kd, check)
    assert seen_old == {0, 3}


def test_a_classifier_that_is_not_the_last_linear_layer_is_told() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(8, 7)
            self.projector = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.projector(x))

    with pytest.raises(ValueError, match="find_head"):
        run(GradientReweightingPlugin(), None, lambda strategy: None, model=Odd())
    run(GradientReweightingPlugin(find_head=lambda model: model.head), None, lambda strategy: None, model=Odd())


def batches(
    dataset: Any, batch_size: int, train: bool, generator: Any = None, sampler: Any = None
) -> Iterator[list[Tensor]]:
    for first in range(0, len(dataset), batch_size):
        rows = [dataset[i] for i in range(first, min(first + batch_size, len(dataset)))]
        x, y = torch.stack([row[0] for row in rows]), torch.tensor([row[1] for row in rows])
        yield [x, y, torch.zeros_like(y)]


@pytest.mark.parametrize("precision_name", ["fp32", "bf16"])
def test_on_our_own_learner(precision_name: str) -> None:
    """Columns in arrival order, a growing head in full precision above a backbone that may run in bfloat16."""
    kd = DistributionAwareDistillationPlugin()
    reweighting = GradientReweightingPlugin(kd)
    criterion = BalancedSoftmax()
    errors = []

    def check(strategy: Any) -> None:
        old = kd.counts.seen.num_old
        if not old or precision_name == "bf16":
            return
        (w_ce, _), (w_kd, _), _ = split_gradients(strategy, kd, criterion)
        expected = reweighting.row_factors[:, None].float() * w_ce + reweighting.beta * w_kd
        errors.append((last_linear(strategy.model).weight.grad - expected).norm() / expected.norm())

    backbone = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU())
    parts = Parts(head=LinearHead(16), criterion=criterion, plugins=[FirstImages(6), kd, reweighting, Each(check)])
    learner = IncrementalLearner(
        network=IncrementalNetwork(backbone, parts.head),
        parts=parts,
        optimisation=Optimisation(epochs=2, batch_size=17, lr=0.1),
        loader=batches,
        precision=precision_name,
    )
    for experience in list(benchmark_of(COUNTS, [[0, 1, 2], [3, 4], [5, 6]]).train_stream):
        learner.train(experience)
    assert kd.counts.seen.columns is None and kd.counts.seen.num_old == 5
    assert all(torch.isfinite(p).all() for p in learner.model.parameters()) and reweighting.beta > 0
    assert all(error < 1e-5 for error in errors) and bool(errors) == (precision_name == "fp32")


def test_the_quota_of_a_fixed_total_memory_reaches_prior_and_lost_counts() -> None:
    """30 exemplars in all: 10 per class, then 6 (a class of 7 first keeps all); pi and l follow what is held."""
    kd = DistributionAwareDistillationPlugin()
    reweighting = GradientReweightingPlugin(kd)
    criterion = BalancedSoftmax()
    available = [[40, 7, 25], [10, 7, 10, 12, 30], [6, 6, 6, 6, 6, 5, 18]]
    lost = [[], [30, 0, 15], [34, 1, 19, 6, 24]]
    steps = set()

    def check(strategy: Any) -> None:
        t = strategy.experience.current_experience
        expected = losses.balanced_softmax_loss(strategy.mb_output, strategy.mb_y, available[t])
        torch.testing.assert_close(criterion(strategy.mb_output, strategy.mb_y), expected)
        assert reweighting.counts.available.tolist() == available[t]
        assert kd.counts.lost.tolist() == reweighting.counts.lost.tolist() == lost[t]
        if t:
            weights = torch.tensor(lost[t], dtype=torch.float64)
            assert kd.diagnostics()["class_weights"] == pytest.approx((weights / weights.norm()).tolist())
        steps.add(t)

    memory = ExemplarMemoryPlugin(30, "total", "random")
    parts = Parts(head=LinearHead(16), criterion=criterion, plugins=[memory, kd, reweighting, Each(check)])
    learner = IncrementalLearner(
        network=IncrementalNetwork(nn.Sequential(nn.Linear(8, 16), nn.ReLU()), parts.head),
        parts=parts,
        optimisation=Optimisation(epochs=1, batch_size=17, lr=0.1),
        loader=batches,
        precision="fp32",
    )
    for experience in benchmark_of(COUNTS, [[0, 1, 2], [3, 4], [5, 6]]).train_stream:
        learner.train(experience)
    assert steps == {0, 1, 2}


# diagnostics ---------------------------------------------------------------------------------------------------------


def test_recorded_beta_is_the_mean_over_the_steps_of_an_experience() -> None:
    kd = DistributionAwareDistillationPlugin()
    reweighting = GradientReweightingPlugin(kd)
    betas: dict[int, list[float]] = {}

    def check(strategy: Any) -> None:
        betas.setdefault(strategy.experience.current_experience, []).append(reweighting.beta.item())

    strategy = template_of(perceptron(), BalancedSoftmax(), [FirstImages(6), kd, reweighting, Each(check)])
    for t, experience in enumerate(benchmark_of(COUNTS, SHUFFLED).train_stream):
        strategy.train(experience)
        found = reweighting.diagnostics()
        if t == 0:
            assert found["beta"] is None and found["beta_last"] is None  # nothing to distil from
            continue
        assert len(set(betas[t])) == len(betas[t]) == found["steps"] > 2
        assert found["beta"] == pytest.approx(sum(betas[t]) / len(betas[t]), rel=1e-12)
        assert found["beta_last"] == betas[t][-1]


@pytest.mark.parametrize("kind", ["dakd", "vanilla", "feature", "none"])
def test_what_no_loss_used_is_recorded_as_null(kind: str) -> None:
    """After the second experience: beta without a distilled head row; kd_ratio without a loss; R and w but of DAKD."""
    kd = DistributionAwareDistillationPlugin(kind)
    reweighting = GradientReweightingPlugin(kd)
    run(reweighting, kd, lambda strategy: None)
    head, loss = reweighting.diagnostics(), kd.diagnostics()
    in_force = {name for name, value in (head | loss).items() if value is not None}
    in_force &= {"beta", "beta_last", "kd_ratio", "entropy", "class_weights"}
    assert (
        in_force
        == {
            "dakd": {"beta", "beta_last", "kd_ratio", "entropy", "class_weights"},
            "vanilla": {"beta", "beta_last", "kd_ratio"},
            "feature": {"kd_ratio"},
            "none": set(),
        }[kind]
    )
    assert loss["lost"] == head["lost"] == [19, 0, 12]


def test_without_a_distillation_plugin_no_beta_is_recorded() -> None:
    reweighting = GradientReweightingPlugin()
    run(reweighting, None, lambda strategy: None)
    assert reweighting.diagnostics()["beta"] is None
    fixed, kd = GradientReweightingPlugin(balance=1.0), DistributionAwareDistillationPlugin()
    fixed.distillation = kd
    run(fixed, kd, lambda strategy: None)
    assert fixed.diagnostics()["beta"] == 1  # a constant beta is in force


# state ---------------------------------------------------------------------------------------------------------------


def test_state_is_plain_and_continues_at_an_experience_boundary(tmp_path: Path) -> None:
    stream = list(benchmark_of(COUNTS, SHUFFLED).train_stream)

    def build() -> tuple[Any, list[Any]]:
        kd = DistributionAwareDistillationPlugin()
        stateful = [kd, GradientReweightingPlugin(kd), BalancedSoftmax()]
        memory = FirstImages(6)
        return template_of(perceptron(), stateful[2], [memory, *stateful[:2]]), [memory, *stateful]

    strategy, plugins = build()
    for experience in stream[:2]:
        strategy.train(experience)
    state = {"model": strategy.model.state_dict(), "plugins": [p.state_dict() for p in plugins[1:]]}
    torch.save(state, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed, restored = build()
    resumed.model.load_state_dict(state["model"])
    restored[0].kept = plugins[0].kept
    for plugin, plugin_state in zip(restored[1:], state["plugins"], strict=True):
        plugin.load_state_dict(plugin_state)
    assert torch.equal(restored[2].phi, plugins[2].phi) and restored[2].steps == plugins[2].steps

    for each in (strategy, resumed):
        torch.manual_seed(11)
        each.train(stream[2])
    torch.testing.assert_close(resumed.model.state_dict(), strategy.model.state_dict(), rtol=0, atol=0)
    assert restored[2].diagnostics() == plugins[2].diagnostics()
    assert restored[1].diagnostics() == plugins[1].diagnostics()


# seen classes, criteria, teacher -------------------------------------------------------------------------------------


def experience_of(index: int, classes: Any) -> Any:
    return SimpleNamespace(current_experience=index, classes_in_this_experience=classes)


def test_seen_classes_translate_ids_to_arrival_order() -> None:
    seen = SeenClasses()
    seen.update(experience_of(0, {6, 2, 5}))
    assert (seen.class_ids, seen.num_old) == ([2, 5, 6], 0)
    seen.update(experience_of(1, [4, 1]))
    seen.update(experience_of(1, [1, 4]))  # a second plugin sharing it
    assert (seen.class_ids, seen.num_old, seen.num_seen) == ([2, 5, 6, 1, 4], 3, 5)
    output = torch.arange(9.0).repeat(2, 1)
    assert seen.logits(output)[0].tolist() == [2, 5, 6, 1, 4]
    assert seen.old_logits(output)[0].tolist() == [2, 5, 6]
    assert seen.targets(torch.tensor([4, 2, 0, 8])).tolist() == [4, 0, -100, -100]
    assert seen.columns is not None and seen.columns.tolist() == [2, 5, 6, 1, 4]
    with pytest.raises(ValueError, match="class id 6"):
        seen.logits(torch.zeros(1, 6))


def test_seen_classes_in_order_need_no_index() -> None:
    seen = SeenClasses()
    seen.update(experience_of(0, [0, 1]))
    seen.update(experience_of(1, [2]))
    output = torch.randn(3, 5)
    assert seen.columns is None
    assert seen.logits(output).data_ptr() == output.data_ptr()  # a view
    assert seen.old_logits(output).shape == (3, 2)


def test_class_counts_are_of_the_training_data_in_arrival_order() -> None:
    counts = ClassCounts()
    first, second = _Labels([3] * 5 + [1] * 2), _Labels([0] * 4)
    for index, classes, own, adapted in (
        (0, [3, 1], first, first),
        (1, [0], second, _Labels([0] * 4 + [3] * 2 + [1] * 2)),
    ):
        experience = SimpleNamespace(current_experience=index, classes_in_this_experience=classes, dataset=own)
        counts.update(SimpleNamespace(experience=experience, adapted_dataset=adapted, dataloader=[]))
    assert counts.seen.class_ids == [1, 3, 0]
    assert counts.available.tolist() == [2, 2, 4] and counts.original.tolist() == [2, 5, 4]
    assert counts.lost.tolist() == [0, 3] and (counts.num_seen_images, counts.num_new_images) == (7, 4)


def test_criteria_use_seen_columns_only() -> None:
    output = torch.randn(6, 9)
    labels = torch.tensor([2, 5, 6, 1, 4, 4])
    positions = torch.tensor([0, 1, 2, 3, 4, 4])
    plain = SeenCrossEntropy()
    assert plain(output, labels) == F.cross_entropy(output, labels)  # nothing seen yet
    new = NewCrossEntropy(plain.seen)
    for index, classes in enumerate(([2, 5, 6], [1, 4])):
        plain.seen.update(experience_of(index, classes))
    columns = output[:, [2, 5, 6, 1, 4]]
    torch.testing.assert_close(plain(output, labels), F.cross_entropy(columns, positions))
    torch.testing.assert_close(new(output, labels), F.cross_entropy(columns[3:, 3:], torch.tensor([0, 1, 1])))
    wider = torch.cat([labels, torch.tensor([7])]), torch.cat([output, output[:1]])
    torch.testing.assert_close(plain(wider[1], wider[0]), plain(output, labels))  # an unseen class is skipped


def test_balanced_softmax_criterion_uses_the_counts_really_trained_on() -> None:
    criterion = BalancedSoftmax()
    expected = []

    def check(strategy: Any) -> None:
        ids = criterion.seen.class_ids
        counts = [min(COUNTS[c], 6) if j < criterion.seen.num_old else COUNTS[c] for j, c in enumerate(ids)]
        positions = torch.tensor([ids.index(int(c)) for c in strategy.mb_y])
        loss = losses.balanced_softmax_loss(strategy.mb_output[:, ids], positions, counts)
        expected.append((loss.item(), strategy.loss.item()))

    strategy = template_of(perceptron(), criterion, [FirstImages(6), Each(check)])
    for experience in benchmark_of(COUNTS, SHUFFLED).train_stream:
        strategy.train(experience)
    ours, theirs = zip(*expected, strict=True)
    assert theirs == pytest.approx(ours, rel=1e-5)


def test_half_precision_output_gives_float32_losses_and_gradients() -> None:
    """Under autocast the backbone runs in bfloat16; the head gradient is computed in float32 from the logits."""

    class Autocast(SupervisedTemplate):
        def autocast(self) -> Any:
            return torch.autocast("cpu", torch.bfloat16)

        def forward(self) -> Tensor:
            with self.autocast():
                return super().forward()

    kd = DistributionAwareDistillationPlugin()
    reweighting = GradientReweightingPlugin(kd)
    seen = []

    def check(strategy: Any) -> None:
        assert (
            strategy.mb_output.dtype == torch.bfloat16
            and last_linear(strategy.model).weight.grad.dtype == torch.float32
        )
        assert reweighting.phi.dtype == torch.float64
        if kd.last_loss is not None:
            assert kd.last_loss.dtype == torch.float32
            seen.append(torch.isfinite(reweighting.beta).item())

    model = perceptron()
    strategy = Autocast(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=BalancedSoftmax(),
        plugins=[FirstImages(6), kd, reweighting, Each(check)],
        train_mb_size=17,
        evaluator=EvaluationPlugin(),
    )
    for experience in list(benchmark_of(COUNTS, SHUFFLED).train_stream)[:2]:
        strategy.train(experience)
    assert seen and all(seen)


def test_teacher_is_a_frozen_copy() -> None:
    model = perceptron()
    teacher = Teacher()
    teacher.snapshot(model)
    x = torch.randn(5, 8)
    before = teacher.logits(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    model(x)  # batch norm of the student moves
    assert torch.equal(teacher.logits(x), before) and not before.requires_grad
    features, logits = teacher.features_and_logits(x)
    assert torch.equal(logits, before) and features.shape == (5, 16)
    assert torch.equal(last_linear(teacher.model)(features), before)  # type: ignore[arg-type]


class HostReads(TorchDispatchMode):
    """Collects the operations that would make the host wait for an accelerator."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in {"_local_scalar_dense", "nonzero", "masked_select", "equal"}:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["dakd", "vanilla", "feature"])
def test_a_step_reads_nothing_back_from_the_device(kind: str) -> None:
    reads = HostReads()

    class Watch(SupervisedPlugin):
        def before_forward(self, strategy: Any, **kwargs: Any) -> None:
            reads.__enter__()

        def before_update(self, strategy: Any, **kwargs: Any) -> None:
            reads.__exit__(None, None, None)

    with HostReads() as self_check:
        torch.ones(1).item()
    assert self_check.found
    kd = DistributionAwareDistillationPlugin(kind)
    strategy = template_of(
        perceptron(), BalancedSoftmax(), [FirstImages(6), kd, GradientReweightingPlugin(kd), Watch()]
    )
    for experience in list(benchmark_of(COUNTS, SHUFFLED).train_stream)[:2]:
        strategy.train(experience)
    assert kd.last_loss is not None and reads.found == []
