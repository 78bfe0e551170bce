"""Multi-label joint training: every image seen so far, once, with its complete labels of the seen classes.

The upper bound. Under partial annotation the union of the experiences' own annotations is none: an image that has no
label of an experience is never annotated as a negative of its classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from strategies.joint import AllSeenDataPlugin, Joint
from strategies.multilabel.base import AnnotatedLoss
from strategies.networks.heads import LinearHead
from strategies.training.labels import rows_array, with_annotations
from strategies.training.recipe import Context, Parts


class CompleteDataPlugin(AllSeenDataPlugin):
    """Joins all data seen, keeps each image once and annotates it completely; classes to come stay unknown."""

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        super().after_train_dataset_adaptation(strategy)
        joined = strategy.adapted_dataset
        _, first = np.unique(np.fromiter(joined.sample_index, dtype=np.int64), return_index=True)
        once = joined.subset(np.sort(first).tolist())
        rows = rows_array(once.truth)
        seen = {c for e in (*self.earlier, strategy.experience) for c in e.classes_in_this_experience}
        rows[:, [c for c in range(rows.shape[1]) if c not in seen]] = -1
        strategy.adapted_dataset = with_annotations(once, rows)


@dataclass(frozen=True, kw_only=True)
class MultiLabelJoint(Joint):
    """Binary cross-entropy on complete labels; `mode` "scratch" (definition of the bound) or "continue"."""

    name: ClassVar[str] = "ml_joint"
    task_kind: ClassVar[str] = "multi"

    def build(self, context: Context) -> Parts:
        return Parts(
            head=LinearHead(context.num_features),
            criterion=AnnotatedLoss(),
            plugins=[CompleteDataPlugin(self.mode == "scratch")],
        )
