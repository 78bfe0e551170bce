"""What every method does unless told otherwise: hyper-parameters and second stages of the papers and their code.

A default that changes makes numbers of the same name another method's, and no test of a formula would notice.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from torch import nn

from strategies import registry
from strategies.training.recipe import Context
from strategies.training.stages import CachedFeatures, FreshFeatures, Images, Stage

LUCIR = {"lambda_base": 5.0, "adaptive": True, "margin": 0.5, "k": 2, "mr_reduction": "pairs", "imprint": True}
EEIL = {"weight": 1.0, "temperature": 2.0, "noise": 0.3, "finetune_epochs": 30, "finetune_lr": 0.01}
POD = {"flat": 1.0, "spatial": 3.0, "proxies": 10, "imprint": True, "clamp": 5.0}
NCA = {"loss": "official", "margin": 0.6}
LWS = {"lws_epochs": 30, "lws_lr": 0.1}
DGR = {
    "groups": "decoupled", "rule": "official", "attenuation": 1.0, "attenuation_counts": "samples", "balance": "norm",
    "distillation": "dakd", "weight": 0.7, "entropy": None, "reweight_distillation": False,
}  # fmt: skip
ICARL = {"loss": "ce_kd", "weight": 1.0, "temperature": 2.0}
AKD = {
    "memory_share": 0.0, "weight": 1.0, "eta": 0.5, "variant": "positive", "gamma_pos": 1.0, "gamma_neg": 0.0,
    "clip": 0.0,
}  # fmt: skip
DEFAULTS: dict[str, dict[str, Any]] = {
    "finetune": {"masked": False},
    "replay": {"replay_mode": "concat"},
    "balanced_softmax": {"replay_mode": "concat"},
    "lwf": {"weight": 1.0, "temperature": 2.0, "masked": False},
    "icarl": ICARL,
    "icarl_bsce": ICARL,
    "eeil": EEIL,
    "eeil_lws": EEIL | LWS,
    "bic": {"apply": "newest", "stage_epochs": 200, "stage_lr": 0.1},
    "wa": {"temperature": 2.0},
    "lucir": LUCIR,
    "lucir_bsce": LUCIR,
    "lucir_logn": LUCIR,
    "lucir_posthoc": LUCIR | {"strength": 1.0},
    "lucir_cn": {"weight": 1.0, "imprint": True},
    "lucir_cn_lc": LUCIR | {"margin": None},
    "lucir_constant": LUCIR | {"adaptive": False},
    "lucir_cbf": LUCIR | {"cbf_epochs": 20, "cbf_lr": 0.01},
    "lucir_gvalign": LUCIR | {"mixup": True, "stage_steps": 100, "stage_lr": 0.1},
    "lucir_adaprior": LUCIR | {"update_rate": 0.05, "adjustment": 0.65},
    "lucir_lws": LUCIR | LWS,
    "podnet": POD | NCA | {"finetune_epochs": 20, "finetune_lr": 0.05},
    "podnet_bsce": POD,
    "podnet_lws": POD | NCA | LWS,
    "il2m": {"scores": "softmax"},
    "ssil": {"weight": 1.0, "temperature": 2.0, "replay_share": 0.25},
    "dgr": DGR,
    "gdumb": {},
    "ncm": {},
    "joint": {"mode": "scratch"},
    "joint_bsce": {"mode": "scratch"},
    "ml_finetune": {},
    "ml_joint": {"mode": "scratch"},
    "ml_replay": {"memory_share": 0.0, "missing": "masked"},
    "ml_lwf": {"memory_share": 0.0, "weight": 1.0},
    "ml_asl": {"memory_share": 0.0, "weight": 1.0, "gamma_pos": 0.0, "gamma_neg": 4.0, "clip": 0.05},
    "ml_akd": AKD,
    "rebll": AKD | {"threshold": 0.5},
    "ml_oracle": AKD | {"threshold": 0.5},
}
LADDER = (  # of dgr: tests/strategies/dgr/test_ladder.py
    "gr", "gr_intra", "ce_kd", "bsce_kd", "dgr_symmetric", "dgr_no_attenuation", "dgr_no_beta", "dgr_no_offset",
    "dgr_vanilla_kd", "dgr_mixed_kd", "dgr_reweighted_kd", "dgr_feature_kd", "dgr_no_kd", "dgr_static",
)  # fmt: skip


@pytest.mark.parametrize("name", DEFAULTS)
def test_hyper_parameters_are_those_of_the_specification(name: str) -> None:
    assert asdict(registry.get(name)()) == DEFAULTS[name]


def test_every_method_is_here_or_in_the_ladder() -> None:
    assert {*DEFAULTS, *LADDER} == set(registry.NAMES)


# Name, epochs, rate, weight decay, what it sees, the epochs after which the rate falls (None: cosine).
STAGES: dict[str, tuple[str, int, float, float, Any, list[int] | None]] = {
    "bic": ("bias_correction", 200, 0.1, 0.0, CachedFeatures, [60, 120, 160, 180]),
    "eeil": ("balanced_finetuning", 30, 0.01, 3e-4, Images, [10, 20]),
    "lucir_cbf": ("class_balance_finetuning", 20, 0.01, 3e-4, FreshFeatures, [10]),
    "lucir_gvalign": ("alignment", 100, 0.1, 3e-4, None, []),
    "podnet": ("balanced_finetuning", 20, 0.05, 3e-4, FreshFeatures, []),
    "lucir_lws": ("weight_scaling", 30, 0.1, 3e-4, None, None),
    "eeil_lws": ("weight_scaling", 30, 0.1, 3e-4, None, None),
    "podnet_lws": ("weight_scaling", 30, 0.1, 3e-4, None, None),
}


def stages_of(name: str) -> list[Stage]:
    context = Context(8, nn.Identity(), batch_size=64, momentum=0.8, weight_decay=3e-4)
    return [unit for unit in registry.get(name)().build(context).stages if isinstance(unit, Stage)]


@pytest.mark.parametrize("name", STAGES)
def test_a_second_stage_has_its_paper_s_schedule(name: str) -> None:
    """Batches, momentum and, but for BiC's two numbers, weight decay are the run's."""
    title, epochs, lr, weight_decay, batches, falls = STAGES[name]
    stage = stages_of(name)[-1]
    assert (stage.name, stage.epochs, stage.lr, stage.weight_decay) == (title, epochs, lr, weight_decay)
    assert stage.batch_size == 64 and stage.momentum == (0.9 if name == "bic" else 0.8)
    assert batches is None or stage.batches is batches
    factors = [stage.schedule.factor(epoch, epochs) for epoch in range(epochs)]
    if falls is None:
        assert stage.schedule.name == "cosine"
    else:
        assert [e for e in range(1, epochs) if factors[e] != factors[e - 1]] == falls
        assert factors == pytest.approx([0.1 ** sum(e >= fall for fall in falls) for e in range(epochs)])


def test_no_other_method_has_a_second_stage() -> None:
    assert {name for name in registry.NAMES if stages_of(name)} == set(STAGES)
    assert [stage.name for stage in stages_of("eeil_lws")] == ["balanced_finetuning", "weight_scaling"]
    assert [stage.name for stage in stages_of("podnet_lws")] == ["weight_scaling"]  # in place of the finetuning
