"""Balanced softmax for class-incremental learning: Jodelet et al., Balanced softmax cross-entropy for incremental
learning, ICANN 2021 (loss: Ren et al., NeurIPS 2020).

Any host takes the loss in place of its cross-entropy; its distillation and its other terms stay, a balanced finetuning
falls away. With a cosine head the offset is added to the scaled logits.

Cross-entropy of z + log n, with n the images of each class really in the training data, exemplars included; recounted
in every experience. Training only: predictions use the raw logits. Replay with this loss is the paper's baseline; it
replaces the balanced finetuning of other methods. With `replay_mode` "balanced_batch" (`replay.py`) n is what an epoch
draws of each class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from strategies.icarl import ICaRL
from strategies.lucir import LUCIR
from strategies.networks.heads import LinearHead
from strategies.podnet import PooledOutputs, ProxyHead
from strategies.training.criteria import BalancedSoftmax
from strategies.training.paired_batches import PairedBalancedSoftmax, PairedBatchesPlugin
from strategies.training.recipe import Context, Parts, Recipe

REFERENCE = "Jodelet et al., Balanced softmax cross-entropy for incremental learning, ICANN 2021"


@dataclass(frozen=True, kw_only=True)
class BalancedSoftmaxReplay(Recipe):
    """Replay with balanced softmax."""

    name: ClassVar[str] = "balanced_softmax"
    reference: ClassVar[str] = REFERENCE
    requires_memory: ClassVar[bool] = True
    replay_mode: Literal["concat", "balanced_batch"] = "concat"

    def build(self, context: Context) -> Parts:
        memory = context.exemplars()
        parts = Parts(head=LinearHead(context.num_features), criterion=BalancedSoftmax(), plugins=[memory])
        if self.replay_mode == "balanced_batch":
            batches = PairedBatchesPlugin(memory, share=1.0)
            parts.plugins.append(batches)
            parts.criterion = PairedBalancedSoftmax(batches)
        return parts


@dataclass(frozen=True, kw_only=True)
class LUCIRBalancedSoftmax(LUCIR):
    """LUCIR with balanced softmax."""

    name: ClassVar[str] = "lucir_bsce"
    reference: ClassVar[str] = REFERENCE

    def build(self, context: Context) -> Parts:
        parts = super().build(context)
        parts.criterion = BalancedSoftmax()
        return parts


@dataclass(frozen=True, kw_only=True)
class ICaRLBalancedSoftmax(ICaRL):
    """iCaRL with softmax, distillation and balanced softmax."""

    name: ClassVar[str] = "icarl_bsce"
    reference: ClassVar[str] = REFERENCE
    loss: Literal["ce_kd"] = "ce_kd"

    def build(self, context: Context) -> Parts:
        parts = super().build(context)
        parts.criterion = BalancedSoftmax()
        return parts


@dataclass(frozen=True, kw_only=True)
class PODNetBalancedSoftmax(PooledOutputs):
    """PODNet with balanced softmax of eta times the class similarities, and without the balanced finetuning."""

    name: ClassVar[str] = "podnet_bsce"
    reference: ClassVar[str] = REFERENCE

    def criterion(self, head: ProxyHead) -> BalancedSoftmax:
        return BalancedSoftmax()
