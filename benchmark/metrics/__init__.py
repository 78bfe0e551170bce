"""Counts of correct images in, figures of merit out; and the catalogue of their names and titles."""

from benchmark.metrics.single_label import backward_transfer, forgetting, seen_accuracy, task_mean_accuracy

__all__ = ["backward_transfer", "forgetting", "seen_accuracy", "task_mean_accuracy"]
