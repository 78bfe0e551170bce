"""The registered rows of gradient reweighting's ablation are those of the specification, field by field."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from torch import nn

from strategies import registry
from strategies.dgr.distillation import DistributionAwareDistillationPlugin
from strategies.dgr.recipes import DGR
from strategies.dgr.reweighting import GradientReweightingPlugin, StaticReweightingPlugin
from strategies.training.criteria import BalancedSoftmax, SeenCrossEntropy
from strategies.training.recipe import Context

COLUMNS = ("offset", "groups", "rule", "attenuation", "distillation", "entropy", "balance", "reweight_distillation")
LADDER: dict[str, tuple[Any, ...]] = {
    "ce_kd": (False, "none", "official", 1.0, "vanilla", None, 1.0, False),
    "bsce_kd": (True, "none", "official", 1.0, "vanilla", None, 1.0, False),
    "gr_intra": (True, "intra", "official", 1.0, "dakd", None, 1.0, False),
    "gr": (True, "unified", "official", 1.0, "dakd", None, "norm", False),
    "dgr": (True, "decoupled", "official", 1.0, "dakd", None, "norm", False),
    "dgr_static": (True, "decoupled", "official", 1.0, "dakd", None, "norm", False),  # on image counts
    "dgr_symmetric": (True, "decoupled", "symmetric", 1.0, "dakd", None, "norm", False),
    "dgr_no_attenuation": (True, "decoupled", "official", 0.0, "dakd", None, "norm", False),
    "dgr_no_beta": (True, "decoupled", "official", 1.0, "dakd", None, 1.0, False),
    "dgr_no_offset": (False, "decoupled", "official", 1.0, "dakd", None, "norm", False),
    "dgr_no_kd": (True, "decoupled", "official", 1.0, "none", None, "norm", False),
    "dgr_vanilla_kd": (True, "decoupled", "official", 1.0, "vanilla", None, "norm", False),
    "dgr_feature_kd": (True, "decoupled", "official", 1.0, "feature", None, "norm", False),
    "dgr_mixed_kd": (True, "decoupled", "official", 1.0, "dakd", 0.0, "norm", False),
    "dgr_reweighted_kd": (True, "decoupled", "official", 1.0, "dakd", None, "norm", True),
}
SAME_IN_ALL = {"attenuation_counts": "samples", "weight": 0.7}  # n_seen and n_new in images; lambda_b


@pytest.mark.parametrize("name", LADDER)
def test_a_registered_row_is_the_specifications(name: str) -> None:
    """Of the recipe's fields, and of the parts that it builds from them."""
    recipe = registry.get(name)()
    assert isinstance(recipe, DGR)
    row = dict(zip(COLUMNS, LADDER[name], strict=True))
    assert dataclasses.asdict(recipe) | {"offset": recipe.offset} == row | SAME_IN_ALL

    parts = recipe.build(Context(num_features=4, backbone=nn.Identity()))
    assert type(parts.criterion) is (BalancedSoftmax if row["offset"] else SeenCrossEntropy)
    _, kd, reweighting = parts.plugins
    assert isinstance(kd, DistributionAwareDistillationPlugin) and isinstance(reweighting, GradientReweightingPlugin)
    assert type(reweighting) is (StaticReweightingPlugin if name == "dgr_static" else GradientReweightingPlugin)
    assert reweighting.distillation is kd
    of_reweighting = ("groups", "rule", "attenuation", "attenuation_counts", "balance", "reweight_distillation")
    assert {field: getattr(reweighting, field) for field in of_reweighting} == {
        field: (row | SAME_IN_ALL)[field] for field in of_reweighting
    }
    assert (kd.kind, kd.fixed_entropy, kd.fixed_class_weight) == (row["distillation"], row["entropy"], None)
    assert (kd.weight, kd.temperature) == (0.7, 2.0)


def test_no_registered_row_is_left_out() -> None:
    assert {name for name in registry.NAMES if issubclass(registry.get(name), DGR)} == set(LADDER)
