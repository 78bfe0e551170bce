"""Growing heads: growth, masking of unseen columns, cosine scores, bias correction."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from strategies.bic import BiasCorrectedHead, correction_loss
from strategies.networks.heads import UNSEEN_LOGIT, CosineHead, GrowingHead, LinearHead, SplitHead, SplitLinearHead
from strategies.networks.incremental import IncrementalNetwork
from strategies.podnet import ProxyHead
from strategies.training.criteria import SeenCrossEntropy

HEADS: dict[str, Callable[[int], GrowingHead]] = {
    "linear": LinearHead,
    "cosine": CosineHead,
    "cosine, old rows frozen": lambda d: CosineHead(d, freeze_old=True),
    "bias corrected": BiasCorrectedHead,
}
IN_ORDER, SHUFFLED = ([0, 1, 2], [3, 4], [5]), ([7, 2], [0, 5, 9], [3])


def arrive(head: GrowingHead, *experiences: list[int]) -> GrowingHead:
    for classes in experiences:
        head.adaptation(SimpleNamespace(classes_in_this_experience=classes))
    return head


def rows_of(head: GrowingHead) -> Tensor:
    return (head.weight if isinstance(head, CosineHead) else head.linear.weight).detach()  # type: ignore[union-attr]


@pytest.mark.parametrize("experiences", [IN_ORDER, SHUFFLED])
@pytest.mark.parametrize("name", HEADS)
def test_growth_keeps_the_rows_of_known_classes(name: str, experiences: tuple[list[int], ...]) -> None:
    head, features = HEADS[name](6), torch.randn(4, 6)
    seen: list[int] = []
    for classes in experiences:
        before, known = rows_of(head).clone(), list(seen)
        arrive(head, classes)
        seen += classes
        rows = rows_of(head)
        assert rows.shape == (max(seen) + 1, 6) and head.num_classes == max(seen) + 1
        assert torch.equal(rows[known], before[known])
        assert rows.abs().max() <= 1 / math.sqrt(6)
        logits = head(features)
        unseen = sorted(set(range(max(seen) + 1)) - set(seen))
        assert (logits[:, unseen] == UNSEEN_LOGIT).all() and (logits[:, seen].abs() < 100).all()


@pytest.mark.parametrize("name", [*HEADS, "split linear", "proxies"])
def test_a_class_that_arrives_in_a_column_already_there_starts_with_a_fresh_row(name: str) -> None:
    """Weight decay went on shrinking it; rows of known classes, and of those still to come, stay."""
    split: dict[str, Callable[[int], GrowingHead]] = {
        "split linear": SplitLinearHead,
        "proxies": lambda d: ProxyHead(d, 3),
    }
    head = arrive({**HEADS, **split}[name](6), [7, 2])
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(1e-3)
    before = every_row(head)
    arrive(head, [0, 5, 9])
    assert every_row(head)[[0, 5, 9]].abs().amax(dim=1).min() > 0.01
    assert torch.equal(every_row(head)[[1, 2, 3, 4, 6, 7]], before[[1, 2, 3, 4, 6, 7]])
    after = every_row(head)
    arrive(head, [0, 5, 9])  # once
    assert torch.equal(every_row(head), after)


def every_row(head: GrowingHead) -> Tensor:
    """(C, k) all that a class has of its own, its bias too."""
    if isinstance(head, LinearHead):
        return torch.cat([head.linear.weight, head.linear.bias[:, None]], dim=1).detach().clone()
    assert isinstance(head, SplitHead)
    return head.weight.detach().flatten(1).clone()


@pytest.mark.parametrize("name", HEADS)
def test_evaluation_never_grows_a_head(name: str) -> None:
    head = arrive(HEADS[name](4), [0, 1])
    head.eval()
    state = {key: value.clone() for key, value in head.state_dict().items()}
    arrive(head, [2, 3, 8])
    assert head.num_classes == 2 and head(torch.ones(1, 4)).shape == (1, 2)
    assert state.keys() == head.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in head.state_dict().items())


@pytest.mark.parametrize("name", HEADS)
def test_the_same_experience_twice_changes_nothing(name: str) -> None:
    once, twice = HEADS[name](4), HEADS[name](4)
    torch.manual_seed(0)
    arrive(once, [0, 1], [2, 3])
    torch.manual_seed(0)
    arrive(twice, [0, 1], [2, 3], [2, 3])
    features = torch.randn(3, 4)
    assert torch.equal(once(features), twice(features))
    if isinstance(once, CosineHead) and isinstance(twice, CosineHead):
        assert len(once.old) == len(twice.old) == 2


@pytest.mark.parametrize("name", HEADS)
def test_a_head_without_classes_draws_nothing_and_warns_of_nothing(name: str) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head = HEADS[name](4)
    assert torch.equal(torch.rand(2), expected)
    assert head.num_classes == 0


@pytest.mark.parametrize("experiences", [IN_ORDER, SHUFFLED])
@pytest.mark.parametrize("name", HEADS)
def test_state_loads_into_a_head_that_saw_the_same_classes(name: str, experiences: tuple[list[int], ...]) -> None:
    trained, fresh = arrive(HEADS[name](5), *experiences), arrive(HEADS[name](5), *experiences)
    features = torch.randn(3, 5)
    assert not torch.equal(trained(features), fresh(features))
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(trained(features), fresh(features))


@pytest.mark.parametrize("name", HEADS)
def test_reset_forgets_every_class(name: str) -> None:
    head = arrive(HEADS[name](4), [0, 1], [2, 5])
    head.reset()
    assert head.num_classes == 0 and arrive(head, [0, 1, 2])(torch.ones(2, 4)).shape == (2, 3)
    if isinstance(head, CosineHead):
        assert head.freeze_old == (name == "cosine, old rows frozen")


def test_a_head_needs_extend_and_scores() -> None:
    with pytest.raises(TypeError, match=r"GrowingHead must define extend\(num_new\)"):
        arrive(GrowingHead(3), [0])
    with pytest.raises(TypeError, match=r"GrowingHead must define scores\(features\)"):
        GrowingHead(3)(torch.ones(1, 3))


# --- cosine --------------------------------------------------------------------------------------------------------


def worked_cosine_head() -> CosineHead:
    head = CosineHead(2)
    arrive(head, [0, 1, 2])
    with torch.no_grad():
        head.new.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 4.0]]))
        head.eta.fill_(4.0)
    return head.double()  # type: ignore[return-value]


def test_cosine_head_worked_example() -> None:
    """methods, 6.2."""
    head, feature = worked_cosine_head(), torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    assert head.cosines(feature).flatten().tolist() == pytest.approx([0.6, 0.8, 0.28])
    logits = head(feature)
    assert logits.flatten().tolist() == pytest.approx([2.4, 3.2, 1.12])
    assert logits.softmax(1).flatten().tolist() == pytest.approx([0.285422, 0.635219, 0.079358], abs=1e-6)
    assert F.cross_entropy(logits, torch.tensor([1])).item() == pytest.approx(0.453785, abs=1e-6)


def test_cosine_head_ignores_lengths_and_starts_at_scale_one() -> None:
    head = CosineHead(5)
    arrive(head, [0, 1])
    assert head.eta.item() == 1.0 and head.eta.requires_grad
    features = torch.randn(3, 5)
    assert torch.allclose(head(features), head(7 * features), atol=1e-6)
    assert torch.allclose(head(features), F.cosine_similarity(features[:, None], head.weight[None], dim=2), atol=1e-6)


@pytest.mark.parametrize("freeze_old", [False, True])
@pytest.mark.parametrize("experiences", [IN_ORDER, SHUFFLED])
def test_old_rows_are_those_of_earlier_experiences(experiences: tuple[list[int], ...], freeze_old: bool) -> None:
    head = CosineHead(3, freeze_old)
    seen: list[int] = []
    for classes in experiences:
        arrive(head, classes)
        assert len(head.old) == len(seen) and head.old.requires_grad is not freeze_old and head.new.requires_grad
        head.zero_grad()
        head(torch.randn(8, 3))[:, [*seen, *classes]].square().sum().backward()
        gradient = head.new.grad
        assert gradient is not None and head.eta.grad is not None
        moved = head.weight.detach().clone()
        with torch.no_grad():
            head.new.add_(1.0)
        touched = (head.weight.detach() != moved).any(dim=1).nonzero().flatten().tolist()
        assert set(classes) <= set(touched) and not set(seen) & set(touched)
        seen += classes


# --- bias correction -----------------------------------------------------------------------------------------------


def worked_corrected_head(apply: str = "newest") -> BiasCorrectedHead:
    """Two old and two new classes; the newest correction is alpha 0.5, beta -0.4."""
    head = BiasCorrectedHead(4, apply)
    arrive(head, [0, 1], [2, 3])
    with torch.no_grad():
        head.linear.weight.copy_(torch.eye(4))
        head.linear.bias.zero_()
        head.corrections[-1].copy_(torch.tensor([0.5, -0.4]))
    return head.double()  # type: ignore[return-value]


def test_bias_correction_worked_example() -> None:
    """methods, 6.4: corrected logits, arg-max, cross-entropy and regulariser."""
    head, z = worked_corrected_head(), torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
    head.eval()
    corrected = head(z)
    assert corrected.flatten().tolist() == pytest.approx([1, 2, 1.1, 1.6])
    assert z.argmax() == 3 and corrected.argmax() == 1
    target = torch.tensor([1])
    assert F.cross_entropy(corrected, target).item() == pytest.approx(0.893951, abs=1e-6)
    strategy = SimpleNamespace(model=IncrementalNetwork(nn.Identity(), head), _criterion=SeenCrossEntropy())
    loss = correction_loss(strategy, z, z, target)
    assert loss.item() == pytest.approx(0.893951 + 0.008, abs=1e-6)


def test_corrections_act_in_evaluation_only() -> None:
    head, z = worked_corrected_head(), torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
    assert torch.equal(head(z), z)
    head.eval()
    assert not torch.equal(head(z), z)


def test_newest_or_all_corrections() -> None:
    z = torch.ones(1, 5, dtype=torch.float64)
    expected = {"newest": [1, 1, 1, 1, 3], "all": [1, 1, 0.1, 0.1, 3]}
    for apply, logits in expected.items():
        head = worked_corrected_head(apply)
        arrive(head, [4])
        with torch.no_grad():
            head.corrections[-1].copy_(torch.tensor([2.0, 1.0]))
        assert head.correct(z).flatten().tolist() == pytest.approx(logits)


def test_the_identity_corrects_nothing_and_columns_may_be_scattered() -> None:
    head = BiasCorrectedHead(4)
    arrive(head, [7, 2], [5, 0])
    z = torch.randn(3, 8)
    assert torch.equal(head.correct(z), z)
    with torch.no_grad():
        head.corrections[-1].copy_(torch.tensor([2.0, 1.0]))
    expected = z.clone()
    expected[:, [0, 5]] = 2 * z[:, [0, 5]] + 1
    assert torch.allclose(head.correct(z), expected)
    assert not any(correction.requires_grad for correction in head.corrections)
