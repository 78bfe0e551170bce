"""GR, DGR and DAKD against recorded values of the released code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from avalanche.core import SupervisedPlugin
from avalanche.models import IncrementalClassifier
from gradient_world import (
    FirstImages,
    Labels,
    benchmark_of,
    template_of,
)
from torch import Tensor, nn

from strategies.dgr.distillation import DistributionAwareDistillationPlugin
from strategies.dgr.reweighting import GradientReweightingPlugin
from strategies.training.criteria import BalancedSoftmax
from strategies.training.teacher import last_linear

pytestmark = pytest.mark.filterwarnings("ignore:No loggers specified")
GOLDEN = np.load(Path(__file__).parents[2] / "data" / "golden_gr.npz", allow_pickle=False)
LAYOUTS = {
    "in order, wide head": ([[0, 1, 2, 3], [4, 5, 6]], lambda d: nn.Linear(d, 7)),
    "in order, growing head": ([[0, 1, 2, 3], [4, 5, 6]], lambda d: IncrementalClassifier(d, 1)),
    "shuffled ids, head wider than the benchmark": ([[1, 3, 4, 6], [0, 2, 5]], lambda d: nn.Linear(d, 9)),
    "shuffled ids, growing head": ([[1, 3, 4, 6], [0, 2, 5]], lambda d: IncrementalClassifier(d, 2)),
}


@pytest.fixture(params=["f64", "f32"])
def precision(request: pytest.FixtureRequest) -> Iterator[tuple[str, float]]:
    """(suffix of the recorded values, tolerance), with the default dtype set."""
    torch.set_default_dtype(torch.float64 if request.param == "f64" else torch.float32)
    yield ("", 1e-10) if request.param == "f64" else ("_f32", 1e-5)
    torch.set_default_dtype(torch.float32)


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

    def phi_before(self, phi: Tensor) -> Tensor:
        return self.rows[-1]["phi"] if self.rows else torch.zeros_like(phi)

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
        row["n_ce"] = row["Wg"].norm(dim=1) / r.row_factors if len(r.phi) == 4 else r.phi - self.phi_before(r.phi)
        if len(r.phi) == 7:
            row |= {"r_old": r.r_old, "r_new": r.r_new, "beta": r.beta, "loss_kd": self.kd.last_loss}
            row |= {"mean_old": r.phi[:4].mean(), "mean_new": r.phi[4:].mean()}
            features = strategy.mb_x @ strategy.model[0].weight.T
            row["n_kd"] = (self.kd.old_logit_gradient().T @ features).norm(dim=1)
        self.rows.append({name: value.detach().clone() for name, value in row.items()})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_recorded_run_of_the_released_code(layout: str, precision: tuple[str, float]) -> None:
    """Phi, A, r, beta, losses, row norms, head and backbone gradients of two tasks, iteration by iteration."""
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
                dataset=Labels(new),
            ),
            adapted_dataset=Labels(new + old),
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


def test_an_experience_without_new_classes_keeps_its_coefficients_finite() -> None:
    """On a foreign benchmark old classes may come again alone: n_new is 0."""
    kd = DistributionAwareDistillationPlugin()
    reweighting = GradientReweightingPlugin(kd)
    for t in range(2):
        strategy = SimpleNamespace(
            experience=SimpleNamespace(
                classes_in_this_experience=[0, 1], current_experience=t, dataset=Labels([0] * 9 + [1] * 4)
            ),
            adapted_dataset=Labels([0] * 9 + [1] * 4),
            dataloader=[],
            device=torch.device("cpu"),
        )
        for plugin in (kd, reweighting):
            plugin.before_training_exp(strategy)
    assert reweighting.gamma == pytest.approx(np.exp(-1.0))
    assert kd.kd_ratio == pytest.approx(0.7 * np.sqrt(13))  # as of one image
