"""GVAlign on LUCIR: Kalla and Biswas, Robust feature learning and global variance-driven classifier alignment for
long-tail class incremental learning, WACV 2024.

Stage 1: LUCIR on each batch, and cross-entropy on the same batch mixed with itself (mixup with alpha = 1); one forward
pass for both halves, LUCIR's own losses on the plain one. Stage 2, after every experience: the backbone is frozen and
the whole head, old rows included, takes 100 SGD steps at rate 0.1 on one virtual feature per class, drawn from
N(mu_c, Sigma): mu_c is the mean of its normalised features over new data and exemplars, Sigma the covariance of the
largest class of the first experience, kept for good. A tail class so borrows a head class's variance.

Deviations: means are taken of un-augmented images (the released code augments them); new rows are imprinted as in our
`lucir` (the released code does not); the released CIFAR script trains 500 epochs an experience, ours as many as the
run says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge
from avalanche.benchmarks.utils import AvalancheDataset
from torch import Tensor, nn

from strategies.lucir import LUCIR
from strategies.networks.precision import full_precision, sent
from strategies.training.features import class_means, extract_features
from strategies.training.memory import ExemplarMemoryPlugin
from strategies.training.recipe import Context, Parts
from strategies.training.schedule import Schedule
from strategies.training.seen_classes import SeenClassesPlugin
from strategies.training.stages import Stage


class MixupPlugin(SeenClassesPlugin):
    """Adds the cross-entropy of a mixed copy of the batch, forwarded together with it.

    Between the hooks the strategy sees the plain half alone: `mb_x`, `mb_output`, `model.last_features`.
    """

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        x, labels = strategy.mb_x, strategy.mb_y
        generator = getattr(strategy, "generator", None)
        self._share = float(torch.rand((), generator=generator))  # Beta(1, 1)
        order = sent(torch.randperm(len(x), generator=generator), x.device)
        self._labels, self._plain = (labels, labels[order]), x
        strategy.mbatch[0] = torch.cat([x, torch.lerp(x[order], x, self._share)])

    def after_forward(self, strategy: Any, **kwargs: Any) -> None:
        n, model = len(self._plain), strategy.model
        strategy.mbatch[0] = self._plain
        strategy.mb_output, self._mixed = strategy.mb_output[:n], strategy.mb_output[n:]
        model.last_features = model.last_features[:n]

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        logits = full_precision(self.seen.logits(self._mixed))
        own, other = (F.cross_entropy(logits, self.seen.targets(labels)) for labels in self._labels)
        strategy.loss = strategy.loss + self._share * own + (1 - self._share) * other
        del self._mixed, self._plain, self._labels


class VirtualFeatures:
    """One batch an epoch: a feature (C, d) of every class, drawn from a Gaussian around its mean."""

    def __init__(self, means: Tensor, factor: Tensor, labels: Tensor, generator: torch.Generator) -> None:
        self.means, self.factor, self.labels, self.generator = means, factor, labels, generator

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        noise = sent(torch.randn(self.means.shape, generator=self.generator), self.means.device).to(self.means)
        yield self.means + noise @ self.factor.T, self.labels


class GaussianPlugin(SeenClassesPlugin):
    """Keeps the covariance and knows what the alignment trains on; put it behind the exemplar memory.

    Attributes
    ----------
    covariance : (d, d) of the normalised features of the largest class of the first experience; empty before.
    """

    def __init__(self, memory: ExemplarMemoryPlugin) -> None:
        super().__init__()
        self.memory = memory
        self.covariance = torch.zeros(0, 0)

    def images(self, strategy: Any) -> AvalancheDataset:
        """New data and exemplars of old classes."""
        exemplars = self.memory.dataset(self.seen.class_ids[: self.seen.num_old])
        return strategy.experience.dataset if exemplars is None else strategy.experience.dataset.concat(exemplars)

    def virtual(
        self, strategy: Any, dataset: AvalancheDataset, batch_size: int, generator: torch.Generator
    ) -> VirtualFeatures:
        """Means of all classes that have images, and the covariance's root."""
        extracted = extract_features(strategy, dataset)
        features = F.normalize(extracted.features, dim=1)
        means, counts = class_means(features, extracted.targets, extracted.logits.shape[1])
        if not self.covariance.numel():
            self.covariance = covariance(features[extracted.targets == counts.argmax()])
        labels = counts.nonzero().flatten()
        return VirtualFeatures(means[labels], root(self.covariance).to(means), labels, generator)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "covariance": self.covariance}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.covariance = state["covariance"].cpu()


def covariance(features: Tensor) -> Tensor:
    """Sample covariance (d, d) of features (n, d), float64 on the CPU; 0 for a single one."""
    centred = features.cpu().double()  # mps has no float64
    centred = centred - centred.mean(dim=0)
    return centred.T @ centred / max(len(centred) - 1, 1)


def root(covariance: Tensor) -> Tensor:
    """A (d, d) with A A^T = covariance, which need not have full rank (fewer images than dimensions)."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp_min(0).sqrt()


@dataclass(frozen=True, kw_only=True)
class LUCIRGVAlign(LUCIR):
    """LUCIR with mixup, and its head aligned on Gaussian virtual features."""

    name: ClassVar[str] = "lucir_gvalign"
    reference: ClassVar[str] = (
        "Kalla and Biswas, Robust feature learning and global variance-driven classifier alignment for long-tail class "
        "incremental learning, WACV 2024"
    )
    mixup: bool = True
    stage_steps: Annotated[int, Ge(1)] = 100
    stage_lr: Annotated[float, Ge(0)] = 0.1

    def build(self, context: Context) -> Parts:
        parts = super().build(context)
        memory = next(plugin for plugin in parts.plugins if isinstance(plugin, ExemplarMemoryPlugin))
        gaussian = GaussianPlugin(memory)
        parts.plugins += [*([MixupPlugin()] if self.mixup else []), gaussian]
        alignment = Stage(
            name="alignment",
            epochs=self.stage_steps,
            batch_size=context.batch_size,
            lr=self.stage_lr,
            momentum=context.momentum,
            weight_decay=context.weight_decay,
            schedule=Schedule("constant"),
            data=gaussian.images,
            parameters=whole_head,
            loss=virtual_loss,
            batches=gaussian.virtual,
        )
        parts.stages.append(alignment)
        return parts


def whole_head(strategy: Any) -> list[nn.Parameter]:
    """Old rows, new rows and the scale."""
    return list(strategy.model.head.parameters())


def virtual_loss(strategy: Any, features: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the head on virtual features."""
    return strategy._criterion(strategy.model.head(features), labels)
