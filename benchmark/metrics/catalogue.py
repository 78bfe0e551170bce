"""The metrics by name: title, direction, bounds, and which of them tables show."""

from __future__ import annotations

from benchmark.metrics.multi_label import LABELS, THRESHOLDS
from benchmark.metrics.single_label import GROUPS

SEEN = "accuracy on all test images of seen classes"
TASKS = "unweighted mean over experiences of their test accuracy"
CLASS_MEAN = "mean of the per-class recalls of seen classes"
MAP = "mean over seen classes of average precision on test images that show one of them"
AVERAGE, LAST = "mean over experiences, base included, of the", "after the last experience,"
TITLES = {
    "average_accuracy_seen": f"Average incremental accuracy (seen): {AVERAGE} {SEEN}",
    "average_accuracy_tasks": f"Average incremental accuracy (tasks): {AVERAGE} {TASKS}",
    "average_accuracy_class_mean": f"Average incremental accuracy (class mean): {AVERAGE} {CLASS_MEAN}",
    "last_accuracy_seen": f"Last accuracy (seen): {LAST} {SEEN}",
    "last_accuracy_tasks": f"Last accuracy (tasks): {LAST} {TASKS}",
    "last_accuracy_class_mean": f"Last accuracy (class mean): {LAST} {CLASS_MEAN}",
    "forgetting": f"Forgetting: {LAST} mean over old experiences of best minus current accuracy; lower is better",
    "backward_transfer": f"Backward transfer: {LAST} mean over old experiences of current minus first accuracy",
    "average_map": f"Average mAP: {AVERAGE} {MAP}",
    "last_map": f"Last mAP: {LAST} {MAP}",
    **{
        f"{name}_at_{threshold}": text.format(LAST, threshold)
        for threshold in THRESHOLDS
        for name, text in {
            "cf1": "CF1: {} mean over seen classes of F1, positive above {}",
            "cf1_of_means": "CF1 of means: {} F1 of mean precision and recall over seen classes, positive above {}",
            "of1": "OF1: {} F1 of all images and seen classes, positive above {}",
            "fpr": "False-positive rate: {} share of absent seen classes predicted above {}; lower is better",
            "memory_fpr": "False-positive rate on exemplars: {} share of absent seen classes predicted above {}; lower "
            "is better",
        }.items()
    },
}
LOWER_IS_BETTER = (
    "forgetting",
    *(f"{group}_forgetting" for group in GROUPS),
    *(f"{name}_at_{threshold}" for name in ("fpr", "memory_fpr") for threshold in THRESHOLDS),
    *(name for name in LABELS if "fpr" in name or "fnr" in name),
)
# They keep all data or know all labels, so they neither win a column nor are its runner-up.
BOUNDS = ("joint", "joint_bsce", "ml_joint", "ml_oracle")
WRITTEN = ("average_accuracy_seen", "last_accuracy_seen", "forgetting")
WRITTEN_MULTI = ("average_map", "last_map", "cf1_at_0.5", "of1_at_0.5", "fpr_at_0.5")
