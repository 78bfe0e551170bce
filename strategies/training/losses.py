"""Loss functions of the compared methods: pure functions of tensors, no state.

`class_counts`, `lost_counts` and the columns of logits are in arrival order, old classes first. All logarithms are
natural. Softmaxes with a temperature are taken of `logits / T`; probabilities are never raised to a power.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Counts = Tensor | Sequence[float]

_ENTROPY_FLOOR = 1e-3  # added to every lost count inside the entropy, as in the released code of GR


def balanced_softmax_loss(logits: Tensor, targets: Tensor, class_counts: Counts) -> Tensor:
    """Cross-entropy of `logits + log(class_counts)`, mean over the batch.

    Balanced softmax (Ren et al. 2020; Jodelet et al. 2021), the regularised softmax of gradient reweighting (Eq. 4).
    Counts and relative frequencies give the same loss. A class with count 0 is left out: its offset is -inf, so its
    probability and its gradient are exactly 0.

    Parameters
    ----------
    logits: (B, C) raw scores, for a cosine head the scaled ones.
    targets: (B,) class columns.
    class_counts: (C,) training images per class.

    Raises
    ------
    ValueError: not one count per column, a negative count, or a target whose class has count 0. Values are only looked
        at on the CPU, where that costs no synchronisation; on an accelerator such a target gives an infinite loss.
    """
    counts = torch.as_tensor(class_counts, dtype=torch.promote_types(logits.dtype, torch.float32), device=logits.device)
    if counts.shape != logits.shape[1:]:
        raise ValueError(
            f"class_counts has shape {tuple(counts.shape)}; expected one count per logit column, ({logits.shape[1]},)"
        )
    if counts.device.type == "cpu":
        if bool((counts < 0).any()):
            raise ValueError("class_counts has a negative entry; expected counts of 0 or more")
        if bool((counts[targets] == 0).any()):
            raise ValueError("a target's class has class_counts 0; each class in the batch needs a count of at least 1")
    return F.cross_entropy(logits + counts.log(), targets)


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 2.0) -> Tensor:
    """Cross-entropy form of knowledge distillation: `-sum_j q_j log p_j`, mean over the batch, no factor T^2.

    q = softmax(teacher / T), p = softmax(student / T), both (B, C_old). Its minimum is the teacher's entropy, not 0.

    Raises
    ------
    ValueError: the two logits differ in shape (slice the student to the old columns first) or T is not positive.
    """
    _check_distillation(student_logits, teacher_logits, temperature)
    return _soft_cross_entropy(student_logits, F.softmax(teacher_logits / temperature, dim=1), temperature)


def task_wise_distillation_loss(
    student_logits: Tensor, teacher_logits: Tensor, groups: Tensor, temperature: float = 2.0
) -> Tensor:
    """Sum over groups of columns of `T^2 KL(q || p)`, softmaxes within each group, mean over the batch (SS-IL).

    Parameters
    ----------
    student_logits, teacher_logits: (B, C_old).
    groups: (G, m) the columns of each group, for instance those of one experience; -1 fills up shorter groups.

    Raises
    ------
    ValueError: the two logits differ in shape or T is not positive.
    """
    _check_distillation(student_logits, teacher_logits, temperature)
    padding = groups < 0
    columns = groups.clamp_min(0).flatten()

    def log_softmax(logits: Tensor) -> Tensor:
        grouped = (logits / temperature).index_select(1, columns).unflatten(1, groups.shape)
        return F.log_softmax(grouped.masked_fill(padding, -torch.inf), dim=2).masked_fill(padding, 0.0)

    log_q, log_p = log_softmax(teacher_logits), log_softmax(student_logits)
    divergence = (log_q.exp() * (log_q - log_p)).sum(dim=(1, 2)).mean()  # padding: log q = log p = 0
    return temperature**2 * divergence


def mixed_distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    class_weights: Tensor,
    entropy: Tensor | float,
    temperature: float = 2.0,
) -> Tensor:
    """Distil through the student's logits and through logits mixed class by class with the teacher's.

    `-mean_b sum_j q_j [R log softmax(z/T)_j + (1 - R) log softmax(z~/T)_j]` with `z~ = w z + (1 - w) teacher`.
    R = 1, or w = 1 everywhere, is `distillation_loss`.

    Parameters
    ----------
    class_weights: (C_old,) w in [0, 1].
    entropy: R in [0, 1].
    """
    _check_distillation(student_logits, teacher_logits, temperature)
    teacher = F.softmax(teacher_logits / temperature, dim=1)
    mixed = class_weights * student_logits + (1 - class_weights) * teacher_logits
    plain = _soft_cross_entropy(student_logits, teacher, temperature)
    return entropy * plain + (1 - entropy) * _soft_cross_entropy(mixed, teacher, temperature)


def lost_class_weights(lost_counts: Counts) -> Tensor:
    """w_j = l_j / ||l||_2 in [0, 1], (C_old,) float64; all 0 when no class lost an image."""
    lost = _as_float64(lost_counts)
    return lost / torch.linalg.vector_norm(lost).clamp_min(torch.finfo(lost.dtype).tiny)


def normalised_entropy(counts: Counts) -> Tensor:
    """R = H(p) / log C with p_j proportional to `counts_j + 0.001`, a float64 scalar in [0, 1].

    1 for even counts, near 0 when one class has everything. Defined as 1 for a single class (0/0 in the released code);
    all counts 0 gives 1.
    """
    values = _as_float64(counts)
    if values.numel() <= 1:
        return torch.ones((), dtype=values.dtype, device=values.device)
    smoothed = values + _ENTROPY_FLOOR
    p = smoothed / smoothed.sum()
    return -(p * p.log()).sum() / math.log(values.numel())


def distribution_aware_distillation_loss(
    student_logits: Tensor, teacher_logits: Tensor, lost_counts: Counts, temperature: float = 2.0
) -> Tensor:
    """Distribution-aware knowledge distillation (GR, CVPR 2024), without T^2 and without its weight.

    `mixed_distillation_loss` with w = l / ||l||_2 and R = `normalised_entropy(l)`, l the images each old class lost.
    Guards absent from the released code (nan there): no class lost anything, or one old class -> plain distillation.

    Parameters
    ----------
    student_logits, teacher_logits: (B, C_old).
    lost_counts: (C_old,) images of each old class that are no longer available.

    Raises
    ------
    ValueError: unequal widths, or not one lost count per column.
    """
    weights = lost_class_weights(lost_counts).to(student_logits)
    if weights.shape != student_logits.shape[1:]:
        raise ValueError(
            f"lost_counts has shape {tuple(weights.shape)}; expected one count per old column, "
            f"({student_logits.shape[1]},)"
        )
    return mixed_distillation_loss(
        student_logits, teacher_logits, weights, normalised_entropy(lost_counts).to(student_logits), temperature
    )


def icarl_loss(logits: Tensor, teacher_logits: Tensor | None, targets: Tensor) -> Tensor:
    """Binary cross-entropy of iCaRL (Rebuffi et al. 2017, Alg. 3), mean over all B x C entries.

    New columns are one-hot; old columns take sigmoid(teacher) for every sample, exemplars of old classes included, so
    their labels play no part.

    Parameters
    ----------
    logits: (B, C). teacher_logits: (B, C_old), or None in the first task. targets: (B,) class columns.

    Raises
    ------
    ValueError: the teacher has more columns than the student.
    """
    wanted = F.one_hot(targets, logits.shape[1]).to(logits.dtype)
    if teacher_logits is not None:
        old = teacher_logits.shape[1]
        if old > logits.shape[1]:
            raise ValueError(f"teacher_logits has {old} columns, more than the {logits.shape[1]} of logits")
        wanted = torch.cat([torch.sigmoid(teacher_logits).to(logits.dtype), wanted[:, old:]], dim=1)
    return F.binary_cross_entropy_with_logits(logits, wanted)


def less_forget_loss(features: Tensor, teacher_features: Tensor) -> Tensor:
    """1 - cosine similarity of student and teacher features (B, d), mean over the batch (LUCIR, Eq. 6)."""
    if features.shape != teacher_features.shape:
        raise ValueError(
            f"features {tuple(features.shape)} and teacher_features {tuple(teacher_features.shape)} differ in shape"
        )
    return 1 - F.cosine_similarity(features, teacher_features, dim=1).mean()


def margin_ranking_loss(
    scores: Tensor, targets: Tensor, num_old: int, k: int = 2, margin: float = 0.5, reduction: str = "pairs"
) -> Tensor:
    """Inter-class separation of LUCIR (Eq. 8): old samples must beat their k strongest new classes by a margin.

    Hinges `max(0, margin - s_y + s_new)` on unscaled cosine scores. 0 without old samples or new classes.

    Parameters
    ----------
    scores: (B, C) cosines in [-1, 1]. targets: (B,). num_old: old classes, columns [0, num_old).
    k: hard negatives per sample, clamped to the number of new classes.
    reduction: "pairs", the mean over all (old sample, new class) pairs as in the released code, or "sum", the printed
        formula: the sum over k, mean over the old samples, k times as large.

    Raises
    ------
    ValueError: num_old is outside [0, C], k < 1, or there is no such reduction.
    """
    num_new = scores.shape[1] - num_old
    if num_old < 0 or num_new < 0:
        raise ValueError(f"num_old is {num_old}; expected 0 to {scores.shape[1]}, the number of columns of scores")
    if k < 1:
        raise ValueError(f"k is {k}; expected at least 1")
    if reduction not in ("pairs", "sum"):
        raise ValueError(f'reduction is "{reduction}"; expected "pairs" or "sum"')
    if num_old == 0 or num_new == 0:
        return scores.sum() * 0
    k = min(k, num_new)
    own = scores.gather(1, targets[:, None])
    hardest = scores[:, num_old:].topk(k, dim=1).values
    is_old = (targets < num_old).to(scores.dtype)[:, None]  # a mask: an index's size would have to reach the host
    hinges = F.relu(margin - own + hardest) * is_old
    terms = k if reduction == "pairs" else 1  # per old sample
    return hinges.sum() / (terms * is_old.sum()).clamp_min(1)


def asymmetric_loss(
    logits: Tensor,
    targets: Tensor,
    mask: Tensor | None = None,
    gamma_pos: float = 1,
    gamma_neg: float = 4,
    clip: float = 0.05,
    reduction: str = "mean",
) -> Tensor:
    """Asymmetric multi-label loss (Ben-Baruch et al. 2021), sum over classes, mean over the batch.

    `-[y (1-p)^gamma_pos log p + (1-y) p_m^gamma_neg log(1-p_m)]`, p = sigmoid(z), p_m = max(p - clip, 0); the focusing
    weights carry no gradient. gamma_pos = gamma_neg = clip = 0 is binary cross-entropy.

    Parameters
    ----------
    logits: (B, C). targets: (B, C) in {0, 1}. mask: (B, C), 1 where an entry is annotated; other entries contribute
        neither loss nor gradient. None: all are annotated.
    reduction: "mean" over the batch, or "asl_sum": the released code's plain sum over classes and images.
    """
    y = targets.to(logits.dtype)
    p = torch.sigmoid(logits)
    shifted = (p - clip).clamp_min(0) if clip > 0 else p
    # without a shift log(1 - p) = logsigmoid(-z) stays exact for large z
    log_negative = torch.log1p(-shifted) if clip > 0 else F.logsigmoid(-logits)
    with torch.no_grad():
        weight_pos, weight_neg = (1 - p) ** gamma_pos, shifted**gamma_neg
    loss = -(y * weight_pos * F.logsigmoid(logits) + (1 - y) * weight_neg * log_negative)
    return _masked_sum(loss, mask) * (len(logits) if reduction == "asl_sum" else 1)


def asymmetric_distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    eta: float = 0.5,
    mask: Tensor | None = None,
    variant: str = "positive",
) -> Tensor:
    """Multi-label distillation that down-weights confident outputs, sum over old classes, mean over the batch.

    `-[w q log p + v (1-q) log(1-p)]`, q = sigmoid(teacher), p = sigmoid(student), both on the (B, C_old) old columns.
    eta = 0 is sigmoid distillation. Verified of RebLL (AAAI 2025): over-confident predictions are down-weighted in the
    distillation loss by an exponential decay factor. Interpretation: its form, since neither code nor formula was
    public when this was written.

    Parameters
    ----------
    variant: "positive": w = exp(-eta q), v = 1, decays what a confident teacher calls positive; "both":
        w = v = exp(-eta |2q - 1|), decays every confident output.
    mask: (B, C_old), 1 where an entry counts. None: all count.

    Raises
    ------
    ValueError: the two logits differ in shape, or there is no such variant.
    """
    _check_distillation(student_logits, teacher_logits, 1.0)
    if variant not in ("positive", "both"):
        raise ValueError(f'variant is "{variant}"; expected "positive" or "both"')
    q = torch.sigmoid(teacher_logits.detach())
    positive, negative = q * F.logsigmoid(student_logits), (1 - q) * F.logsigmoid(-student_logits)
    if variant == "positive":
        loss = -(torch.exp(-eta * q) * positive + negative)
    else:
        loss = -torch.exp(-eta * (2 * q - 1).abs()) * (positive + negative)
    return _masked_sum(loss, mask)


def _soft_cross_entropy(logits: Tensor, teacher_probabilities: Tensor, temperature: float) -> Tensor:
    return -(teacher_probabilities * F.log_softmax(logits / temperature, dim=1)).sum(dim=1).mean()


def _masked_sum(loss: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None:  # where, not a product: an unannotated entry may hold nan or inf
        loss = torch.where(mask.bool(), loss, torch.zeros_like(loss))
    return loss.sum(dim=1).mean()


def _check_distillation(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> None:
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student_logits {tuple(student_logits.shape)} and teacher_logits {tuple(teacher_logits.shape)} differ in "
            "shape; slice the student to the teacher's columns"
        )
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; expected a positive number")


def _as_float64(counts: Counts) -> Tensor:
    tensor = torch.as_tensor(counts)
    return tensor.to(torch.float32 if tensor.device.type == "mps" else torch.float64)  # mps has no float64
