"""Loss functions against worked numbers of the papers' formulas and recorded values of released code."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from strategies.training import losses

GOLDEN = np.load(Path(__file__).parents[1] / "data" / "golden_gr.npz", allow_pickle=False)
PRECISIONS = [("f64", torch.float64, 1e-10), ("f32", torch.float32, 1e-5)]
SIX_DIGITS = 6e-7


def t64(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def loss_and_gradient(
    function: Callable[[Tensor], Tensor], point: np.ndarray, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    leaf = torch.tensor(point, dtype=dtype, requires_grad=True)
    loss = function(leaf)
    (gradient,) = torch.autograd.grad(loss, leaf)
    return loss.detach(), gradient


def assert_golden(actual: Tensor, key: str, tolerance: float) -> None:
    np.testing.assert_allclose(actual.double().numpy(), GOLDEN[key], rtol=tolerance, atol=tolerance)


# balanced softmax ----------------------------------------------------------------------------------------------------


def test_balanced_softmax_worked_example() -> None:
    z, y, n = t64([[2, 1, 0], [0.5, 0.5, 0.5]]), torch.tensor([0, 2]), [500, 50, 5]
    assert losses.balanced_softmax_loss(z, y, n).item() == pytest.approx(2.373481, abs=SIX_DIGITS)
    singles = [losses.balanced_softmax_loss(z[i : i + 1], y[i : i + 1], n).item() for i in range(2)]
    assert singles == pytest.approx([0.037432, 4.709530], abs=SIX_DIGITS)
    priors = t64(n) / 555
    assert losses.balanced_softmax_loss(z, y, priors).item() == pytest.approx(2.373481, abs=SIX_DIGITS)
    other = losses.balanced_softmax_loss(t64([[1, 0, 2]]), torch.tensor([0]), [20, 20, 500])
    assert other.item() == pytest.approx(4.238805, abs=SIX_DIGITS)


@pytest.mark.parametrize(("suffix", "dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("case", ["rce0", "rce1"])
def test_balanced_softmax_golden(case: str, suffix: str, dtype: torch.dtype, tolerance: float) -> None:
    y = torch.tensor(GOLDEN[f"{case}.y"])
    counts = torch.tensor(GOLDEN[f"{case}.counts"])
    loss, gradient = loss_and_gradient(
        lambda z: losses.balanced_softmax_loss(z, y, counts), GOLDEN[f"{case}.logits"], dtype
    )
    assert_golden(loss, f"{case}.loss_{suffix}", tolerance)
    assert_golden(gradient, f"{case}.grad_{suffix}", tolerance)


def test_balanced_softmax_equal_counts_is_cross_entropy() -> None:
    z, y = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
    assert losses.balanced_softmax_loss(z, y, [7] * 4).item() == pytest.approx(F.cross_entropy(z, y).item(), abs=1e-12)


def test_balanced_softmax_leaves_out_a_class_without_images() -> None:
    z = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 1, 3, 0, 3])
    losses.balanced_softmax_loss(z, y, [9, 4, 0, 2]).backward()
    assert z.grad is not None and torch.isfinite(z.grad).all()
    assert (z.grad[:, 2] == 0).all() and (z.grad[:, 0] != 0).all()
    kept = z.detach()[:, [0, 1, 3]].requires_grad_()
    losses.balanced_softmax_loss(kept, torch.tensor([0, 1, 2, 0, 2]), [9, 4, 2]).backward()
    torch.testing.assert_close(z.grad[:, [0, 1, 3]], kept.grad)


def test_balanced_softmax_rejects_bad_counts() -> None:
    z, y = torch.zeros(2, 3), torch.tensor([0, 2])
    with pytest.raises(ValueError, match="class_counts 0"):
        losses.balanced_softmax_loss(z, y, [1, 1, 0])
    with pytest.raises(ValueError, match="one count per logit column"):
        losses.balanced_softmax_loss(z, y, [1, 1])
    with pytest.raises(ValueError, match="negative"):
        losses.balanced_softmax_loss(z, y, [1, -1, 1])


# distillation --------------------------------------------------------------------------------------------------------


def test_distillation_worked_example() -> None:
    student, teacher = t64([[3, 0, 1]]), t64([[2, 1, 0]])
    loss = losses.distillation_loss(student, teacher, 2.0).item()
    assert loss == pytest.approx(1.111486, abs=SIX_DIGITS)
    q = F.softmax(teacher / 2, dim=1)
    assert loss + (q * q.log()).sum().item() == pytest.approx(0.091295, abs=SIX_DIGITS)  # the KL form
    bic = losses.distillation_loss(t64([[1, 2]]), t64([[0.5, 1.5]]))
    assert bic.item() == pytest.approx(0.662847, abs=SIX_DIGITS)
    batch = losses.distillation_loss(t64([[1, 2], [0, 0]]), t64([[0.5, 1.5], [2, -1]]))
    assert batch.item() == pytest.approx(0.677998, abs=1e-6)  # softmax over classes; over the batch: 0.653070


def test_task_wise_distillation_worked_example() -> None:
    """methods, 6.5: KL times T^2; a second group of the same logits doubles it, a group of one class adds nothing."""
    student, teacher = t64([[3, 0, 1]]), t64([[2, 1, 0]])
    one = losses.task_wise_distillation_loss(student, teacher, torch.tensor([[0, 1, 2]]))
    assert one.item() == pytest.approx(0.365180, abs=SIX_DIGITS)
    student, teacher = (torch.cat([logits, logits + 5, logits[:, :1]], dim=1) for logits in (student, teacher))
    groups, z = torch.tensor([[0, 1, 2], [3, 4, 5], [6, -1, -1]]), student.requires_grad_()
    loss = losses.task_wise_distillation_loss(z, teacher, groups)
    assert loss.item() == pytest.approx(2 * 0.365180, abs=2 * SIX_DIGITS)
    (gradient,) = torch.autograd.grad(loss, z)
    assert gradient.isfinite().all() and gradient[0, 6] == 0
    assert torch.allclose(gradient[0, :3], gradient[0, 3:6]) and gradient[0, :3].any()


def test_task_wise_distillation_in_one_group_is_distillation_up_to_a_constant() -> None:
    student, teacher = torch.randn(2, 4, 6, dtype=torch.float64).unbind()
    z, w = student.clone().requires_grad_(), student.clone().requires_grad_()
    (one,) = torch.autograd.grad(losses.task_wise_distillation_loss(z, teacher, torch.arange(6)[None], 3.0), z)
    (other,) = torch.autograd.grad(9 * losses.distillation_loss(w, teacher, 3.0), w)
    assert torch.allclose(one, other)


def test_distillation_survives_large_logits() -> None:
    big = torch.tensor([[2000.0, -2000.0]], requires_grad=True)
    losses.distillation_loss(big, torch.tensor([[0.0, 1.0]])).backward()
    assert big.grad is not None and torch.isfinite(big.grad).all()


@pytest.mark.parametrize("function", [losses.distillation_loss, losses.asymmetric_distillation_loss])
def test_distillation_rejects_unequal_widths(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        function(torch.zeros(2, 5), torch.zeros(2, 3))


def test_distillation_rejects_temperature_zero() -> None:
    with pytest.raises(ValueError, match="temperature"):
        losses.distillation_loss(torch.zeros(2, 3), torch.zeros(2, 3), 0)


@pytest.mark.parametrize(("suffix", "dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("case", ["dakd0", "dakd1", "dakd2", "dakd3", "dakd7"])
def test_dakd_golden(case: str, suffix: str, dtype: torch.dtype, tolerance: float) -> None:
    teacher = torch.tensor(GOLDEN[f"{case}.teacher"], dtype=dtype)
    lost = torch.tensor(GOLDEN[f"{case}.lost"])
    temperature = float(GOLDEN[f"{case}.T"])
    loss, gradient = loss_and_gradient(
        lambda z: losses.distribution_aware_distillation_loss(z, teacher, lost, temperature),
        GOLDEN[f"{case}.student"],
        dtype,
    )
    assert_golden(loss, f"{case}.loss_{suffix}", tolerance)
    assert_golden(gradient, f"{case}.grad_{suffix}", tolerance)
    assert_golden(losses.normalised_entropy(lost), f"{case}.R", tolerance)


def test_dakd_worked_example() -> None:
    weights = losses.lost_class_weights([100, 10, 0])
    assert weights.tolist() == pytest.approx([0.995037, 0.099504, 0], abs=SIX_DIGITS)
    loss = losses.distribution_aware_distillation_loss(t64([[2, 0, 1]]), t64([[1, 1, 0]]), [100, 10, 0])
    assert loss.item() == pytest.approx(1.128435, abs=SIX_DIGITS)


@pytest.mark.parametrize(("lost", "columns"), [([0, 0, 0], 3), ([5], 1), ([4, 4, 4], 3)])
def test_dakd_is_vanilla_distillation_in_the_limits(lost: list[int], columns: int) -> None:
    """Nothing lost; one old class; even losses (R = 1)."""
    teacher = torch.randn(4, columns, dtype=torch.float64)
    point = torch.randn(4, columns, dtype=torch.float64).numpy()
    dakd = loss_and_gradient(
        lambda z: losses.distribution_aware_distillation_loss(z, teacher, lost), point, torch.float64
    )
    vanilla = loss_and_gradient(lambda z: losses.distillation_loss(z, teacher), point, torch.float64)
    torch.testing.assert_close(dakd, vanilla, rtol=1e-12, atol=1e-12)


def test_dakd_rejects_wrong_number_of_lost_counts() -> None:
    with pytest.raises(ValueError, match="one count per old column"):
        losses.distribution_aware_distillation_loss(torch.zeros(2, 3), torch.zeros(2, 3), [1, 2])


@pytest.mark.parametrize("case", [0, 1, 2, 3])
def test_normalised_entropy_golden(case: int) -> None:
    assert_golden(losses.normalised_entropy(torch.tensor(GOLDEN[f"ent{case}.lost"])), f"ent{case}.value", 1e-10)


def test_normalised_entropy_worked_example() -> None:
    assert losses.normalised_entropy([100, 10, 0]).item() == pytest.approx(0.277409, abs=SIX_DIGITS)
    assert losses.normalised_entropy([7]).item() == 1
    assert losses.normalised_entropy([0, 0, 0, 0]).item() == pytest.approx(1, abs=1e-12)


# iCaRL, LUCIR --------------------------------------------------------------------------------------------------------


def test_icarl_worked_example() -> None:
    z = t64([[0, 1, 2, -1], [2, -1, -2, 0.5]])
    teacher = t64([[1, -1], [0.5, 0]])
    loss = losses.icarl_loss(z, teacher, torch.tensor([2, 0])).item()
    assert loss == pytest.approx(0.621742, abs=SIX_DIGITS)
    assert loss * 4 == pytest.approx(2.486967, abs=4 * SIX_DIGITS)
    other_old_label = losses.icarl_loss(z, teacher, torch.tensor([2, 1])).item()
    assert other_old_label == loss  # an old exemplar's label is ignored


def test_icarl_first_task_is_one_vs_all() -> None:
    z = torch.randn(3, 4)
    wanted = F.binary_cross_entropy_with_logits(z, F.one_hot(torch.tensor([1, 3, 0]), 4).float())
    assert losses.icarl_loss(z, None, torch.tensor([1, 3, 0])).item() == pytest.approx(wanted.item())
    with pytest.raises(ValueError, match="more than the 4"):
        losses.icarl_loss(z, torch.zeros(3, 5), torch.tensor([1, 3, 0]))


def test_less_forget_worked_example() -> None:
    loss = losses.less_forget_loss(t64([[1, 0], [3, 4]]), t64([[1, 1], [4, 3]]))
    assert loss.item() == pytest.approx(0.166447, abs=SIX_DIGITS)
    assert 5 * math.sqrt(50 / 10) * loss.item() == pytest.approx(1.860930, abs=1e-5)
    with pytest.raises(ValueError, match="differ in shape"):
        losses.less_forget_loss(torch.zeros(2, 3), torch.zeros(2, 4))


MARGIN_SCORES = [[0.70, 0.10, 0.40, 0.35, -0.20], [0.05, 0.30, 0.55, 0.10, 0.20], [0.2, 0.1, 0.6, 0, 0.1]]


def test_margin_ranking_worked_example() -> None:
    loss = losses.margin_ranking_loss(t64(MARGIN_SCORES), torch.tensor([0, 1, 2]), num_old=2)
    assert loss.item() == pytest.approx(0.375, abs=1e-12)
    printed = losses.margin_ranking_loss(t64(MARGIN_SCORES), torch.tensor([0, 1, 2]), num_old=2, reduction="sum")
    assert printed.item() == pytest.approx(0.75, abs=1e-12)
    one = losses.margin_ranking_loss(t64(MARGIN_SCORES), torch.tensor([0, 1, 2]), num_old=2, k=1)
    assert one.item() == pytest.approx((0.20 + 0.75) / 2, abs=1e-12)


def test_margin_ranking_clamps_k_and_is_zero_without_old_samples() -> None:
    scores, y = t64(MARGIN_SCORES), torch.tensor([0, 1, 2])
    assert losses.margin_ranking_loss(scores, y, 2, k=9) == losses.margin_ranking_loss(scores, y, 2, k=3)
    leaf = scores.clone().requires_grad_()
    loss = losses.margin_ranking_loss(leaf, torch.tensor([2, 3, 4]), num_old=2)
    loss.backward()
    assert loss.item() == 0 and leaf.grad is not None and (leaf.grad == 0).all()
    assert losses.margin_ranking_loss(scores, y, num_old=0) == 0
    with pytest.raises(ValueError, match="num_old is 6"):
        losses.margin_ranking_loss(scores, y, num_old=6)


# multi-label ---------------------------------------------------------------------------------------------------------


def test_asymmetric_loss_without_focusing_is_binary_cross_entropy() -> None:
    z = torch.randn(5, 3, dtype=torch.float64) * 30  # large logits: 1 - p underflows
    y = (torch.rand(5, 3) > 0.5).double()
    loss = losses.asymmetric_loss(z, y, gamma_pos=0, gamma_neg=0, clip=0)
    bce = F.binary_cross_entropy_with_logits(z, y, reduction="none").sum(1).mean()
    assert loss.item() == pytest.approx(bce.item(), rel=1e-12)


def test_asymmetric_loss_by_hand() -> None:
    p = t64([[0.8, 0.3, 0.02]])
    loss = losses.asymmetric_loss(torch.logit(p), t64([[1, 0, 0]]))
    by_hand = -(0.2 * math.log(0.8) + 0.25**4 * math.log(0.75))  # 0.02 lies under the clip: no loss
    assert loss.item() == pytest.approx(by_hand, abs=1e-12)


def test_asymmetric_loss_weights_carry_no_gradient() -> None:
    z = torch.logit(t64([[0.8]])).requires_grad_()
    losses.asymmetric_loss(z, t64([[1]]), gamma_pos=1).backward()
    assert z.grad is not None and z.grad.item() == pytest.approx(-0.2 * 0.2, abs=1e-12)  # (1-p) d log p / dz


def test_asymmetric_loss_mask_removes_loss_and_gradient() -> None:
    z = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([[1.0, 0, 1]] * 4, dtype=torch.float64)
    mask = torch.tensor([[1, 0, 1]] * 4)
    loss = losses.asymmetric_loss(z, y, mask)
    loss.backward()
    assert z.grad is not None and (z.grad[:, 1] == 0).all() and (z.grad[:, 0] != 0).all()
    assert loss.item() == pytest.approx(losses.asymmetric_loss(z[:, [0, 2]], y[:, [0, 2]]).item(), abs=1e-12)


def test_asymmetric_distillation() -> None:
    z, teacher = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    q, p = torch.sigmoid(teacher), torch.sigmoid(z)
    plain = losses.asymmetric_distillation_loss(z, teacher, eta=0)
    bce = F.binary_cross_entropy_with_logits(z, q, reduction="none").sum(1).mean()
    assert plain.item() == pytest.approx(bce.item(), abs=1e-12)
    by_hand = -(torch.exp(-0.5 * q) * q * p.log() + (1 - q) * (1 - p).log()).sum(1).mean()
    assert losses.asymmetric_distillation_loss(z, teacher).item() == pytest.approx(by_hand.item(), abs=1e-12)


def test_asymmetric_distillation_of_every_confident_output() -> None:
    z, teacher = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    q, p = torch.sigmoid(teacher), torch.sigmoid(z)
    weight = torch.exp(-0.5 * (2 * q - 1).abs())
    by_hand = -(weight * (q * p.log() + (1 - q) * (1 - p).log())).sum(1).mean()
    assert losses.asymmetric_distillation_loss(z, teacher, variant="both").item() == pytest.approx(by_hand.item())
    plain = losses.asymmetric_distillation_loss(z, teacher, eta=0, variant="both")
    assert plain.item() == pytest.approx(losses.asymmetric_distillation_loss(z, teacher, eta=0).item(), abs=1e-12)
    with pytest.raises(ValueError, match='variant is "neither"'):
        losses.asymmetric_distillation_loss(z, teacher, variant="neither")


def released_asl(x: torch.Tensor, y: torch.Tensor, gamma_neg: float, gamma_pos: float, clip: float) -> torch.Tensor:
    """The loss of github.com/Alibaba-MIIL/ASL (src/loss_functions/losses.py), as KRT carries it, written out."""
    positive = torch.sigmoid(x)
    negative = (1 - positive + clip).clamp(max=1)
    loss = y * torch.log(positive.clamp(min=1e-8)) + (1 - y) * torch.log(negative.clamp(min=1e-8))
    with torch.no_grad():
        weight = torch.pow(1 - positive * y - negative * (1 - y), gamma_pos * y + gamma_neg * (1 - y))
    return -(loss * weight).sum()


def test_asymmetric_loss_is_the_released_one() -> None:
    z = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    y = (torch.rand(6, 4) > 0.6).double()
    for gamma_pos in (0, 1):
        ours = losses.asymmetric_loss(z, y, None, gamma_pos, 4, 0.05, reduction="asl_sum")
        theirs = released_asl(z, y, 4, gamma_pos, 0.05)
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-9)
        assert losses.asymmetric_loss(z, y, None, gamma_pos).item() == pytest.approx(theirs.item() / 6, rel=1e-9)
        mine, other = (torch.autograd.grad(loss, z)[0] for loss in (ours, theirs))
        assert torch.allclose(mine, other)
