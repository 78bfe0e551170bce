"""EEIL: Castro et al., End-to-end incremental learning, ECCV 2018.

Stage 1, on new data and exemplars: cross-entropy plus, for every earlier experience, distillation at temperature 2 with
a softmax over that experience's columns. Stage 2, balanced finetuning of the whole network from the second experience
on: new classes are reduced by herding to as many images as the exemplars have per class; the model after stage 1
teaches the columns of every experience, the new ones included; 30 epochs at 0.01, a tenth of it after each ten. Then
exemplars are chosen with the finetuned network. Noise N(0, 1) eta / (1 + e)^gamma is added to gradients in both stages.

As in the released code (fmcp/EndToEndIncrementalLearning): noise is added to the sum of gradients over a batch, so that
it is divided by the batch's size, and its epochs e go on counting in stage 2; old columns too have the model after
stage 1 as teacher there. LT-CIL's version has no noise (`noise=0`), leaves the newest of the old experiences without
distillation, and takes as many new images for stage 2 as there are exemplars, whatever their class: errors, not copied.

Deviations: e counts from 0, as printed (the released code starts at 1); augmentation and the epochs of stage 1 are the
run's, not twelve fixed copies of every image and 40 epochs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor, nn

from strategies.networks.heads import LinearHead
from strategies.networks.precision import full_precision
from strategies.training.criteria import SeenCrossEntropy
from strategies.training.distillation import TaskWiseDistillationPlugin, column_groups
from strategies.training.memory import ExemplarMemoryPlugin, concatenate
from strategies.training.recipe import Context, Parts, Recipe
from strategies.training.schedule import Schedule
from strategies.training.stages import Images, Stage
from strategies.training.teacher import autocast_of

NOISE_DECAY = 0.55  # gamma


class LateMemoryPlugin(ExemplarMemoryPlugin):
    """Chooses exemplars once the stages before it have run; one of a recipe's plugins and of its stages."""

    name = "exemplars"

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        pass

    def run(self, strategy: Any, generator: torch.Generator) -> None:
        super().after_training_exp(strategy)


class GradientNoisePlugin(SupervisedPlugin):
    """Adds N(0, 1) scale / (1 + epoch)^0.55 / batch size to every entry of every gradient."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        epoch, generator = strategy.clock.train_exp_epochs, getattr(strategy, "generator", None)
        self.disturb(list(strategy.model.parameters()), epoch, len(strategy.mb_y), generator)

    @torch.no_grad()
    def disturb(
        self, parameters: Sequence[nn.Parameter], epoch: int, images: int, generator: torch.Generator | None
    ) -> None:
        """Change the gradients of `parameters`; one number is drawn from `generator`, the noise on their device."""
        if not self.scale:
            return
        seed = int(torch.randint(2**62, (), generator=generator))
        gradients = [p.grad for p in parameters if p.grad is not None]
        noise = torch.Generator(gradients[0].device).manual_seed(seed)
        for gradient in gradients:
            drawn = torch.randn(gradient.shape, generator=noise, device=gradient.device, dtype=gradient.dtype)
            gradient.add_(drawn, alpha=self.scale / (1 + epoch) ** NOISE_DECAY / images)


class BalancedFinetuning:
    """Data and loss of stage 2."""

    def __init__(self, memory: ExemplarMemoryPlugin, distillation: TaskWiseDistillationPlugin) -> None:
        self.memory, self.distillation = memory, distillation

    def data(self, strategy: Any) -> AvalancheDataset | None:
        """Exemplars, and as many images of each new class; what the model is now becomes the teacher."""
        seen, exemplars, new = self.distillation.seen, self.memory.dataset(), strategy.experience.dataset
        if exemplars is None:
            return None
        self.distillation.teacher.snapshot(strategy.model)
        sizes = [*self.distillation.sizes, seen.num_seen - seen.num_old]
        self.groups = column_groups(sizes).to(strategy.device)
        chosen = self.memory.choose(strategy, new, self.memory.quota(seen.num_old))
        return concatenate([exemplars, new.subset([p for positions in chosen.values() for p in positions])])

    def loss(self, strategy: Any, images: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy and distillation of the columns of every experience."""
        seen = self.distillation.seen
        with autocast_of(strategy):
            output, taught = strategy.model(images), self.distillation.teacher.logits(images)
        student, teacher = (full_precision(seen.logits(logits)) for logits in (output, taught))
        return strategy._criterion(output, labels) + self.distillation.task_wise(student, teacher, self.groups)


@dataclass(frozen=True, kw_only=True)
class EEIL(Recipe):
    """Distillation per experience, then balanced finetuning of the whole network.

    Fields
    ------
    weight, temperature : of the distillation (without the squared temperature). noise : eta of the gradient noise.
    finetune_epochs, finetune_lr : of stage 2; 0.01 is a tenth of the paper's first rate.
    """

    name: ClassVar[str] = "eeil"
    reference: ClassVar[str] = "Castro et al., End-to-end incremental learning, ECCV 2018"
    requires_memory: ClassVar[bool] = True
    weight: Annotated[float, Ge(0)] = 1.0
    temperature: Annotated[float, Gt(0)] = 2.0
    noise: Annotated[float, Ge(0)] = 0.3
    finetune_epochs: Annotated[int, Ge(0)] = 30
    finetune_lr: Annotated[float, Ge(0)] = 0.01

    def build(self, context: Context) -> Parts:
        policy = context.memory
        memory = LateMemoryPlugin(policy.budget, policy.mode, policy.selection, context.seed)
        distillation = TaskWiseDistillationPlugin(self.weight / self.temperature**2, self.temperature)
        noise = GradientNoisePlugin(self.noise)
        balanced = BalancedFinetuning(memory, distillation)
        finetuning = Stage(
            name="balanced_finetuning",
            epochs=self.finetune_epochs,
            batch_size=context.batch_size,
            lr=self.finetune_lr,
            momentum=context.momentum,
            weight_decay=context.weight_decay,
            schedule=Schedule("multistep", (1 / 3, 2 / 3)),
            data=balanced.data,
            parameters=lambda strategy: list(strategy.model.parameters()),
            loss=balanced.loss,
            batches=Images,
            after_backward=lambda parameters, epoch, images, generator: noise.disturb(
                parameters, context.epochs + epoch, images, generator
            ),
        )
        return Parts(
            head=LinearHead(context.num_features),
            criterion=SeenCrossEntropy(),
            plugins=[memory, distillation, noise],
            stages=[finetuning, memory],
        )
