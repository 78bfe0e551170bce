"""Names of methods. A static map, so that listing them imports neither torch nor Avalanche.

Three sources: the methods of this package, the entry-point group `imcil.strategies` of installed packages, and files
named in a config as `path/to/file.py:Class`. Two methods of one name are an error.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from strategies.user_code import import_file

if TYPE_CHECKING:
    from strategies.training.recipe import Recipe

NAMES: dict[str, tuple[str, str]] = {
    "finetune": ("strategies.finetune:Finetune", "cross-entropy on the new data alone; the lower bound"),
    "replay": ("strategies.replay:Replay", "cross-entropy on new data and exemplars"),
    "lwf": ("strategies.lwf:LearningWithoutForgetting", "distillation of old logits, with exemplars (ECCV 2016)"),
    "icarl": ("strategies.icarl:ICaRL", "distillation and nearest mean of exemplars (CVPR 2017)"),
    "eeil": ("strategies.eeil:EEIL", "distillation per experience, balanced finetuning (ECCV 2018)"),
    "bic": ("strategies.bic:BiC", "two-number correction of the new logits (CVPR 2019)"),
    "wa": ("strategies.wa:WA", "new rows of the head scaled to the old rows' norm (CVPR 2020)"),
    "lucir": ("strategies.lucir:LUCIR", "cosine head, less-forget constraint, margin ranking (CVPR 2019)"),
    "lucir_cn": ("strategies.lucir_ablations:LUCIRCosineNormalisation", "lucir's ladder: cosine head, scores mimicked"),
    "lucir_cn_lc": ("strategies.lucir_ablations:LUCIRLessForget", "lucir without margin ranking"),
    "lucir_constant": ("strategies.lucir_ablations:LUCIRConstant", "lucir with a constant lambda"),
    "lucir_cbf": ("strategies.lucir_ablations:LUCIRBalanced", "lucir with class-balance finetuning of its head"),
    "podnet": ("strategies.podnet:PODNet", "proxies, pooled-outputs distillation, balanced finetuning (ECCV 2020)"),
    "il2m": ("strategies.il2m:IL2M", "scores rectified by statistics of each class's first experience (ICCV 2019)"),
    "ssil": (
        "strategies.ssil:SSIL",
        "softmaxes apart for old and new classes, task-wise distillation (ICCV 2021)",
    ),
    "lucir_gvalign": ("strategies.gvalign:LUCIRGVAlign", "lucir, mixup, head aligned on virtual features (WACV 2024)"),
    "lucir_adaprior": ("strategies.adaprior:LUCIRAdaPrior", "lucir with a prior that follows the model (CVPR 2026)"),
    "balanced_softmax": ("strategies.balanced_softmax:BalancedSoftmaxReplay", "replay, logits + log counts (2021)"),
    "lucir_bsce": ("strategies.balanced_softmax:LUCIRBalancedSoftmax", "lucir with balanced softmax"),
    "icarl_bsce": ("strategies.balanced_softmax:ICaRLBalancedSoftmax", "icarl with balanced softmax"),
    "podnet_bsce": (
        "strategies.balanced_softmax:PODNetBalancedSoftmax",
        "podnet with balanced softmax, without finetuning",
    ),
    "lucir_logn": ("strategies.logit_adjustment:LUCIRLogN", "lucir with log N of the stream in its loss"),
    "lucir_posthoc": ("strategies.logit_adjustment:LUCIRPostHoc", "lucir predicting with z - log n (ICLR 2021)"),
    "lucir_lws": (
        "strategies.weight_scaling:LUCIRWeightScaling",
        "lucir, then a learned scale per class (ECCV 2022)",
    ),
    "eeil_lws": ("strategies.weight_scaling:EEILWeightScaling", "eeil, then a learned scale per class"),
    "podnet_lws": ("strategies.weight_scaling:PODNetWeightScaling", "podnet, then a learned scale per class"),
    "gr": ("strategies.dgr.recipes:UnifiedGR", "gradient reweighting, one group over all classes"),
    "dgr": (
        "strategies.dgr.recipes:DGR",
        "decoupled gradient reweighting and distribution-aware distillation (CVPR 2024)",
    ),
    "dgr_symmetric": ("strategies.dgr.recipes:DGRSymmetric", "dgr with a ratio that may boost new classes"),
    "gr_intra": ("strategies.dgr.recipes:IntraGR", "dgr without ratios between old and new, beta = 1"),
    "dgr_no_attenuation": ("strategies.dgr.recipes:DGRNoAttenuation", "dgr with gamma = 1"),
    "dgr_no_beta": ("strategies.dgr.recipes:DGRNoBeta", "dgr with beta = 1"),
    "dgr_no_offset": ("strategies.dgr.recipes:DGRNoOffset", "dgr with plain softmax"),
    "dgr_vanilla_kd": ("strategies.dgr.recipes:DGRVanillaKD", "dgr with plain distillation (R = 1, or w = 1)"),
    "dgr_mixed_kd": ("strategies.dgr.recipes:DGRMixedKD", "dgr with R = 0: distillation of the mixed logits alone"),
    "dgr_reweighted_kd": (
        "strategies.dgr.recipes:DGRReweightedKD",
        "dgr that reweights distillation too; a negative control",
    ),
    "dgr_feature_kd": ("strategies.dgr.recipes:DGRFeatureKD", "dgr with feature distillation"),
    "dgr_no_kd": ("strategies.dgr.recipes:DGRNoKD", "dgr without distillation"),
    "dgr_static": ("strategies.dgr.recipes:DGRStatic", "dgr on image counts in place of accumulated gradients"),
    "ce_kd": (
        "strategies.dgr.recipes:CrossEntropyKD",
        "cross-entropy and plain distillation: the baseline of dgr's ablation",
    ),
    "bsce_kd": ("strategies.dgr.recipes:BalancedSoftmaxKD", "ce_kd with balanced softmax"),
    "gdumb": ("strategies.gdumb:GDumb", "a new network on the memory alone, in every experience (ECCV 2020)"),
    "ncm": ("strategies.ncm:NCM", "nearest class mean on the features of the first experience (TPAMI 2013)"),
    "joint": ("strategies.joint:Joint", "retrained from scratch on all data seen; the plain upper bound"),
    "joint_bsce": ("strategies.joint:JointBalancedSoftmax", "joint with balanced softmax; bound on a balanced test"),
    "ml_finetune": (
        "strategies.multilabel.replay:MultiLabelFinetune",
        "multi-label: binary cross-entropy on the new data alone",
    ),
    "ml_replay": (
        "strategies.multilabel.replay:MultiLabelReplay",
        "multi-label: exemplars, missing labels masked or negative",
    ),
    "ml_lwf": ("strategies.multilabel.lwf:MultiLabelLwF", "multi-label: sigmoid distillation, with exemplars"),
    "ml_asl": ("strategies.multilabel.lwf:MultiLabelASL", "multi-label: ml_lwf with the asymmetric loss (ICCV 2021)"),
    "ml_akd": ("strategies.multilabel.rebll:MultiLabelAKD", "multi-label: rebll without relabeling"),
    "rebll": (
        "strategies.multilabel.rebll:RebLL",
        "multi-label: asymmetric distillation, memory relabeled online (AAAI 2025)",
    ),
    "ml_oracle": ("strategies.multilabel.rebll:MultiLabelOracle", "multi-label: rebll with true labels in memory"),
    "ml_joint": (
        "strategies.multilabel.joint:MultiLabelJoint",
        "multi-label: all images seen, completely annotated; the bound",
    ),
}
ENTRY_POINTS = "imcil.strategies"
_registered: dict[str, type[Recipe]] = {}
_R = TypeVar("_R", bound="type[Recipe]")


def names() -> tuple[str, ...]:
    """All known method names: built in, installed, registered."""
    return (*NAMES, *sorted({*_entry_points(), *_registered} - set(NAMES)))


def register(name: str) -> Callable[[_R], _R]:
    """Class decorator for a method defined in a notebook or script: `@register("mine")`."""

    def add(recipe: _R) -> _R:
        if name in NAMES or name in _entry_points():
            raise ValueError(f'A strategy named "{name}" exists already; choose another name.')
        _registered[name] = recipe
        return recipe

    return add


def get(name: str) -> type[Recipe]:
    """The recipe class of a name, or of `path/to/file.py:Class`.

    Raises
    ------
    ValueError : unknown name (with a suggestion), file or class; a class that is no Recipe.
    """
    if name in _registered:
        return _registered[name]
    if name in NAMES:
        return _load(NAMES[name][0])
    if name in _entry_points():
        return _load(_entry_points()[name])
    if ".py:" in name:
        return _load_file(name)
    if name.endswith(".py"):
        raise ValueError(f'"{name}" names a file without its class: write {name}:Class.')
    close = difflib.get_close_matches(name, names(), n=1)
    hint = f' Did you mean "{close[0]}"?' if close else ""
    raise ValueError(f'Unknown strategy "{name}".{hint} Valid choices: {", ".join(names())}; or path/to/file.py:Class.')


@cache  # what is installed stays for as long as the process; to look takes 20 ms
def _entry_points() -> dict[str, str]:
    return {point.name: point.value for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}


def _load(target: str) -> type[Recipe]:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _load_file(name: str) -> type[Recipe]:
    from strategies.training.recipe import Recipe

    file, _, attribute = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise ValueError(f'The strategy file "{file}" does not exist.')
    module = import_file(path)
    recipe = getattr(module, attribute, None)
    if not (isinstance(recipe, type) and issubclass(recipe, Recipe)):
        found = [key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, Recipe)]
        found = [key for key in found if key != "Recipe"]
        if isinstance(recipe, type):
            raise ValueError(
                f'"{attribute}" in "{file}" is no recipe: derive it from strategies.training.recipe.Recipe.'
            )
        raise ValueError(f'"{file}" has no recipe class "{attribute}". Valid choices: {", ".join(found) or "none"}.')
    return recipe


def describe(name: str) -> str:
    """One line on a method, without importing it."""
    return NAMES[name][1] if name in NAMES else "a method from outside imcil"
