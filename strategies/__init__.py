"""What is compared: one file per class-incremental method, each a recipe of Avalanche plugins.

Authors of methods import the parts they build from here, `from strategies import Recipe, Context, Parts, LinearHead`;
each is imported from its module on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from strategies.networks.heads import CosineHead, GrowingHead, LinearHead, SplitHead, SplitLinearHead
    from strategies.networks.incremental import IncrementalNetwork
    from strategies.registry import register
    from strategies.training.classifiers import Classifier, HeadClassifier, NearestMeanClassifier
    from strategies.training.criteria import BalancedSoftmax, NewCrossEntropy, SeenCrossEntropy
    from strategies.training.distillation import TeacherPlugin
    from strategies.training.learner import IncrementalLearner
    from strategies.training.losses import (
        balanced_softmax_loss,
        distillation_loss,
        icarl_loss,
        less_forget_loss,
        margin_ranking_loss,
    )
    from strategies.training.memory import ExemplarMemoryPlugin, herding_order
    from strategies.training.recipe import Context, MemoryPolicy, Parts, Recipe
    from strategies.training.stages import Stage

_HOME = {
    "BalancedSoftmax": "training.criteria",
    "Classifier": "training.classifiers",
    "Context": "training.recipe",
    "CosineHead": "networks.heads",
    "ExemplarMemoryPlugin": "training.memory",
    "GrowingHead": "networks.heads",
    "HeadClassifier": "training.classifiers",
    "IncrementalLearner": "training.learner",
    "IncrementalNetwork": "networks.incremental",
    "LinearHead": "networks.heads",
    "MemoryPolicy": "training.recipe",
    "NearestMeanClassifier": "training.classifiers",
    "NewCrossEntropy": "training.criteria",
    "Parts": "training.recipe",
    "Recipe": "training.recipe",
    "SeenCrossEntropy": "training.criteria",
    "SplitHead": "networks.heads",
    "SplitLinearHead": "networks.heads",
    "Stage": "training.stages",
    "TeacherPlugin": "training.distillation",
    "balanced_softmax_loss": "training.losses",
    "distillation_loss": "training.losses",
    "herding_order": "training.memory",
    "icarl_loss": "training.losses",
    "less_forget_loss": "training.losses",
    "margin_ranking_loss": "training.losses",
    "register": "registry",
}

__all__ = [
    "BalancedSoftmax",
    "Classifier",
    "Context",
    "CosineHead",
    "ExemplarMemoryPlugin",
    "GrowingHead",
    "HeadClassifier",
    "IncrementalLearner",
    "IncrementalNetwork",
    "LinearHead",
    "MemoryPolicy",
    "NearestMeanClassifier",
    "NewCrossEntropy",
    "Parts",
    "Recipe",
    "SeenCrossEntropy",
    "SplitHead",
    "SplitLinearHead",
    "Stage",
    "TeacherPlugin",
    "balanced_softmax_loss",
    "distillation_loss",
    "herding_order",
    "icarl_loss",
    "less_forget_loss",
    "margin_ranking_loss",
    "register",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
