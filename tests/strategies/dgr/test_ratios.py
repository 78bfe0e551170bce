"""The ratios of gradient reweighting as plain functions, and what is said of wrong arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from strategies.dgr.distillation import DistributionAwareDistillationPlugin
from strategies.dgr.ratios import attenuation_factor, class_balance_ratios, decoupled_ratios, group_ratios
from strategies.dgr.reweighting import GradientReweightingPlugin
from strategies.training.teacher import Teacher, last_linear

pytestmark = pytest.mark.filterwarnings("ignore:No loggers specified")


def test_ratios_worked_examples() -> None:
    assert class_balance_ratios([2, 1, 4]).tolist() == [0.5, 1, 0.25]
    gamma = attenuation_factor(4000, 1000)
    assert gamma == pytest.approx(0.449329, abs=1e-6)
    expected = [0.666667, 0.333333, 0.299553, 0.149776]
    assert decoupled_ratios([6, 12, 4, 8], 2, gamma).tolist() == pytest.approx(expected, abs=1e-6)
    assert decoupled_ratios([2, 1, 4, 8], 2, gamma).tolist() == [0.5, 1, 1, 0.5]


def test_equal_phi() -> None:
    """First task: alpha = 1. Later: old rows 1, new rows gamma."""
    assert class_balance_ratios(torch.full((5,), 3.0)).tolist() == [1] * 5
    assert decoupled_ratios(torch.full((4,), 3.0, dtype=torch.float64), 2, 0.6).tolist() == [1, 1, 0.6, 0.6]
    assert decoupled_ratios([3, 3, 3], 0, 0.6).tolist() == decoupled_ratios([3, 3, 3], 3, 0.6).tolist() == [1, 1, 1]


def test_official_rule_never_favours_the_new_classes_and_symmetric_does() -> None:
    for mean_new in (0.1, 0.9, 1.5, 10.0):
        r_old, r_new = group_ratios([1.0, mean_new], 1, 0.5)
        assert r_new <= r_old
    assert [r.item() for r in group_ratios([1.0, 1.6], 1, 0.5)] == [1, pytest.approx(0.8)]
    assert [r.item() for r in group_ratios([1.0, 4.0], 1, 0.5, "symmetric")] == [1, 0.5]
    assert [r.item() for r in group_ratios([1.0, 0.5], 1, 0.5, "symmetric")] == [0.5, 1]


def test_classes_without_images_are_left_out() -> None:
    assert class_balance_ratios([0, 2, 1]).tolist() == [1, 0.5, 1]
    assert class_balance_ratios([0, 0]).tolist() == [1, 1]
    with_absent = decoupled_ratios([0, 6, 12, 0, 4, 8], 3, 0.5)
    without = decoupled_ratios([6, 12, 4, 8], 2, 0.5)
    assert with_absent[[1, 2, 4, 5]].tolist() == without.tolist()
    assert with_absent[[0, 3]].tolist() == [1, 1]
    assert decoupled_ratios([0, 0, 4, 8], 2, 0.5).tolist() == [1, 1, 1, 0.5]  # no memory at all: no ratio of groups
    assert decoupled_ratios([0, 0, 4, 8], 2, 0.5, "symmetric").tolist() == [1, 1, 1, 0.5]


def test_attenuation() -> None:
    assert attenuation_factor(0, 10) == 1
    assert attenuation_factor(900, 100, strength=0) == 1
    assert attenuation_factor(10**9, 1, 1) > math.exp(-1)
    r_old, r_new = group_ratios([4.0, 2.0], 1, attenuation_factor(50, 50, strength=0))
    assert r_old == r_new == 0.5  # g = 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decoupled_ratios([1, 2], 1, 0.5, "inverse"), "official, symmetric"),
        (lambda: decoupled_ratios([1, 2], 3, 0.5), "num_old is 3"),
        (lambda: attenuation_factor(0, 0), "not both 0"),
        (lambda: GradientReweightingPlugin(groups="one"), "decoupled, unified, intra, none"),
        (lambda: GradientReweightingPlugin(balance="on"), '"norm" or a number'),
        (lambda: GradientReweightingPlugin(rule="x"), 'rule "x"'),
        (lambda: DistributionAwareDistillationPlugin("kd"), "dakd, vanilla, feature, none"),
        (lambda: DistributionAwareDistillationPlugin(entropy=2), "entropy is 2"),
        (lambda: DistributionAwareDistillationPlugin(temperature=0), "temperature positive"),
        (lambda: Teacher().logits(torch.zeros(1)), "no model yet"),
        (lambda: last_linear(nn.ReLU()), r"no nn\.Linear"),
    ],
)
def test_mistakes_are_told_in_a_sentence(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
