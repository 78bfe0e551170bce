"""Classifier heads that grow as classes arrive: linear, and cosine with a split into frozen old and trainable new rows.

A head's columns are class ids. On imcil's streams ids are the arrival order, so after experience t the columns are
0 … C_t - 1, old ones first. On a foreign benchmark a column whose class was not seen yet gets the logit -1000, and its
row, which weight decay reaches meanwhile, is drawn anew when the class arrives.
"""

from __future__ import annotations

import math
import warnings

import torch
from avalanche.models import DynamicModule
from torch import Tensor, nn

UNSEEN_LOGIT = -1000.0


class GrowingHead(DynamicModule):
    """Base of all heads: grows in training mode to hold every class of the experience, and masks unseen columns.

    Subclasses implement `extend(num_new)`, which appends rows, `scores(features)`, the unmasked logits (B, C), and
    `renew(columns)`, which draws the rows of classes that arrive in columns already there; by default they stay.
    """

    unseen: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.num_classes = 0
        self.register_buffer("unseen", torch.zeros(0, dtype=torch.bool), persistent=False)
        self._any_unseen = False

    def extend(self, num_new: int) -> None:
        raise TypeError(f"{type(self).__name__} must define extend(num_new)")

    def renew(self, columns: list[int]) -> None:
        """Draw the rows of these columns as `extend` does."""

    def scores(self, features: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} must define scores(features)")

    def adaptation(self, experience: object) -> None:
        """Avalanche's hook. Evaluation never grows the head: a test experience must not reveal classes to come."""
        if not self.training:
            return
        classes = sorted(int(c) for c in experience.classes_in_this_experience)  # type: ignore[attr-defined]
        old_width = self.num_classes
        width = max(old_width, classes[-1] + 1)
        if width > old_width:
            self.extend(width - old_width)
            self.num_classes = width
        unseen = torch.ones(width, dtype=torch.bool)
        unseen[:old_width] = self.unseen.cpu()
        arrived = [c for c in classes if c < old_width and unseen[c]]
        if arrived:
            self.renew(arrived)
        unseen[classes] = False
        self.unseen = unseen.to(self.unseen.device)
        self._any_unseen = bool(unseen.any())

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, d) -> logits (B, C)."""
        logits = self.scores(features)
        if self._any_unseen:
            logits = logits.masked_fill(self.unseen, UNSEEN_LOGIT)
        return logits

    def become_teacher(self) -> None:
        """Called on the frozen copy that distillation uses. What calibrates predictions stays in it (WA, BiC), unless
        a head takes it out here."""

    def reset(self) -> None:
        """Forget every class: the next experience starts the head anew (joint training from scratch)."""
        self.__init__(self.num_features)  # type: ignore[misc]


class LinearHead(GrowingHead):
    """W f + b. New rows are drawn like `nn.Linear`'s, U(-1/sqrt(d), 1/sqrt(d)); old rows are copied."""

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        with warnings.catch_warnings():  # nothing to draw yet, which torch would tell every time
            warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
            self.linear = nn.utils.skip_init(nn.Linear, num_features, 0)

    def extend(self, num_new: int) -> None:
        old = self.linear
        grown = nn.Linear(self.num_features, old.out_features + num_new).to(old.weight)
        with torch.no_grad():
            grown.weight[: old.out_features] = old.weight
            grown.bias[: old.out_features] = old.bias
        self.linear = grown

    @torch.no_grad()
    def renew(self, columns: list[int]) -> None:
        drawn = nn.Linear(self.num_features, len(columns)).to(self.linear.weight)
        self.linear.weight[columns], self.linear.bias[columns] = drawn.weight, drawn.bias

    def scores(self, features: Tensor) -> Tensor:
        return self.linear(features)


class SplitHead(GrowingHead):
    """Base of heads whose rows live in two blocks, so that old ones can be frozen while the head goes on training.

    `old` holds the classes of earlier experiences, `new` all other columns; at each growth the new block moves behind
    the old one. With `freeze_old` the old block gets no gradient and no weight decay. `new_columns` are the columns
    whose rows are in `new`, in its order. `row_shape` is the shape of one class's row.
    """

    row_of_column: Tensor | None

    def __init__(self, num_features: int, freeze_old: bool = False, row_shape: tuple[int, ...] | None = None) -> None:
        super().__init__(num_features)
        self.freeze_old = freeze_old
        self.row_shape = (num_features,) if row_shape is None else row_shape
        self.old = nn.Parameter(torch.empty(0, *self.row_shape), requires_grad=not freeze_old)
        self.new = nn.Parameter(torch.empty(0, *self.row_shape))
        self.new_columns: list[int] = []
        self.register_buffer("row_of_column", None, persistent=False)  # None: rows are in the order of columns

    @property
    def weight(self) -> Tensor:
        """The rows of all columns (C, *row_shape); on imcil's streams old ones first."""
        rows = torch.cat([self.old, self.new])
        return rows if self.row_of_column is None else rows[self.row_of_column]

    def adaptation(self, experience: object) -> None:
        known = self._known()
        super().adaptation(experience)
        if len(self._known()) > len(known):  # classes came: those known before are old now
            self._arrange(self.weight.detach(), known)

    def extend(self, num_new: int) -> None:
        self._arrange(torch.cat([self.weight.detach(), self._drawn(num_new)]), self._known())

    @torch.no_grad()
    def renew(self, columns: list[int]) -> None:
        self.new[[self.new_columns.index(column) for column in columns]] = self._drawn(len(columns))

    def _drawn(self, rows: int) -> Tensor:
        bound = 1 / math.sqrt(self.num_features)
        return torch.empty(rows, *self.row_shape).uniform_(-bound, bound).to(self.new)

    def _known(self) -> list[int]:
        return (~self.unseen).nonzero().flatten().tolist()

    def _arrange(self, weight: Tensor, old_columns: list[int]) -> None:
        """Put the rows of `old_columns` into the old block, all others into the new one."""
        old = set(old_columns)
        self.new_columns = [column for column in range(len(weight)) if column not in old]
        self.old = nn.Parameter(weight[old_columns], requires_grad=not self.freeze_old)
        self.new = nn.Parameter(weight[self.new_columns])
        columns = torch.tensor(old_columns + self.new_columns)
        in_order = torch.equal(columns, torch.arange(len(weight)))
        self.row_of_column = None if in_order else columns.argsort().to(weight.device)

    def reset(self) -> None:
        self.__init__(self.num_features, self.freeze_old)  # type: ignore[misc]


class SplitLinearHead(SplitHead):
    """A linear head in two blocks; the row of a class is its weights and, last, its bias: (d + 1,)."""

    def __init__(self, num_features: int, freeze_old: bool = False) -> None:
        super().__init__(num_features, freeze_old, row_shape=(num_features + 1,))

    def scores(self, features: Tensor) -> Tensor:
        rows = self.weight
        return nn.functional.linear(features, rows[:, :-1], rows[:, -1])


class CosineHead(SplitHead):
    """eta * cos(w_c, f) without bias; one learnable scale eta, from 1, shared by all classes (LUCIR, sec. 3.2).

    With `freeze_old` the rows of earlier classes stay, as in LUCIR with the less-forget constraint.
    """

    def __init__(self, num_features: int, freeze_old: bool = False, row_shape: tuple[int, ...] | None = None) -> None:
        super().__init__(num_features, freeze_old, row_shape)
        self.eta = nn.Parameter(torch.ones(()))

    def cosines(self, features: Tensor) -> Tensor:
        """Unscaled cosine scores (B, C) in [-1, 1]: what margin and mimic losses compare."""
        return nn.functional.normalize(features, dim=1) @ nn.functional.normalize(self.weight, dim=1).T

    def scores(self, features: Tensor) -> Tensor:
        return self.eta * self.cosines(features)
