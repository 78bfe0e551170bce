"""PODNet: Douillard et al., PODNet: Pooled outputs distillation for small-tasks incremental learning, ECCV 2020.

Cosine head with several proxies per class (LSC), distillation of pooled stage maps (POD-spatial) and of features
(POD-flat), both weighted by sqrt(C / C_n), old proxies frozen and new ones imprinted by k-means; after each experience
but the first the proxies of all classes are finetuned on the exemplars. Gradients are clamped to [-5, 5]. No ReLU
behind the last block; POD reads every stage before its ReLU. The paper's schedule is cosine: `training.schedule=cosine`
with the finetuning; LT-CIL has the default `multistep` and no finetuning, `finetune_epochs=0`.

Where paper and released code (arthurdouillard/incremental_learning.pytorch) differ:

- `loss` "official", the default, is what the code computes, and so what the published numbers are from: the margin is
  taken off every class, so that it cancels, the true class leaves a 1 in the denominator, and there is no hinge.
  "paper" is the printed hinge with margin on the true class (Eq. 8), with the deviation below. "cross_entropy" is the
  code of LT-CIL and FACIL.
- A proxy's similarity is the cosine s. The code has 2 s - 2: a softmax over proxies that is twice as sharp, and class
  scores that lie twice as far apart until the learned eta has made up for it.
- POD-flat is 1 - cos, as in the code; the paper's squared distance of normalised features is twice that.

Deviations: batch statistics stay fixed in the finetuning; a class with fewer images than proxies repeats its proxies.
With `loss=paper` the margin eta delta sends no gradient to the learned eta, and eta stays positive. Taken literally,
Eq. 8 shrinks with eta whatever the features are: SGD drives eta below 0 in a few steps, where the margin is a bonus and
equal similarities have loss 0. Where the margin cannot be kept, eta, and with it the value of this loss, keeps growing.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor, nn

from strategies.networks.heads import CosineHead
from strategies.networks.precision import full_precision
from strategies.training.classifiers import HeadClassifier, NearestMeanClassifier
from strategies.training.criteria import SeenCrossEntropy
from strategies.training.distillation import TeacherPlugin
from strategies.training.features import extract_features
from strategies.training.labels import class_positions
from strategies.training.losses import less_forget_loss
from strategies.training.memory import ExemplarMemoryPlugin
from strategies.training.recipe import Context, Parts, Recipe
from strategies.training.seeds import derive_seed
from strategies.training.stages import FreshFeatures, Stage
from strategies.training.teacher import autocast_of

REFERENCE = "Douillard et al., PODNet: Pooled outputs distillation for small-tasks incremental learning, ECCV 2020"
KMEANS_ITERATIONS = 30
SMALLEST_ETA = 1e-2  # of the printed loss


def local_similarity(similarities: Tensor) -> Tensor:
    """LSC (Eq. 7): the similarities (B, C, P) of each class's proxies, averaged with their softmax as weights: (B, C).

    Large where any of the class's proxies is close.
    """
    return (similarities.softmax(dim=2) * similarities).sum(dim=2)


def nca_loss(logits: Tensor, targets: Tensor, margin: Tensor | float) -> Tensor:
    """[-log(exp(z_y - margin) / sum over i != y of exp z_i)]_+ (Eq. 8), mean over the batch.

    Parameters
    ----------
    logits : (B, C) eta times the class similarities. targets : (B,). margin : eta times delta.
    """
    if logits.shape[1] == 1:  # a sum over no class
        return logits.sum() * 0
    own = logits.gather(1, targets[:, None])
    others = logits.scatter(1, targets[:, None], -torch.inf)
    return F.relu(others.logsumexp(dim=1) - own[:, 0] + margin).mean()


def nca_loss_as_released(logits: Tensor, targets: Tensor) -> Tensor:
    """-log(exp(s_y) / (1 + sum over i != y of exp s_i)), s = z - max z, mean over the batch: the released code."""
    shifted = logits - logits.amax(dim=1, keepdim=True)
    own = shifted.gather(1, targets[:, None])
    return (shifted.scatter(1, targets[:, None], 0.0).logsumexp(dim=1) - own[:, 0]).mean()


def pod_spatial_loss(maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    """POD-spatial (Eq. 4): distance of pooled maps, mean over images and stages.

    Each map (B, c, H, W) is squared, summed over its width and over its height; both sums together (B, c (H + W)) are
    L2-normalised. The distance is Euclidean, not squared.
    """

    def pooled(map: Tensor) -> Tensor:
        squared = full_precision(map).square()
        return F.normalize(torch.cat([squared.sum(dim=3).flatten(1), squared.sum(dim=2).flatten(1)], dim=1), dim=1)

    pairs = zip(maps, teacher_maps, strict=True)
    return torch.stack([(pooled(a) - pooled(b)).norm(dim=1).mean() for a, b in pairs]).mean()


def kmeans_proxies(features: Tensor, num_proxies: int, seed: int) -> Tensor:
    """Proxies (P, d) of a class: unit vectors along the k-means centres of its normalised features (n, d).

    With no more than P different features each of them is a centre, and centres are repeated in turn.
    """
    from scipy.cluster.vq import kmeans2

    points = np.unique(F.normalize(features, dim=1).cpu().double().numpy(), axis=0)
    if len(points) > num_proxies:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "One of the clusters is empty")  # its centre stays where it was
            points, _ = kmeans2(points, num_proxies, iter=KMEANS_ITERATIONS, minit="++", rng=seed)
    centres = torch.from_numpy(points).to(features)
    return F.normalize(centres[torch.arange(num_proxies, device=centres.device) % len(centres)], dim=1)


class ProxyHead(CosineHead):
    """eta * LSC over `num_proxies` proxies per class; the row of a class is (P, d). Old proxies are frozen."""

    def __init__(self, num_features: int, num_proxies: int) -> None:
        super().__init__(num_features, freeze_old=True, row_shape=(num_proxies, num_features))
        self.num_proxies = num_proxies

    def cosines(self, features: Tensor) -> Tensor:
        """Unscaled class similarities (B, C) in [-1, 1]."""
        proxies = F.normalize(self.weight, dim=2).flatten(0, 1)
        return local_similarity((F.normalize(features, dim=1) @ proxies.T).unflatten(1, (-1, self.num_proxies)))

    def reset(self) -> None:
        self.__init__(self.num_features, self.num_proxies)  # type: ignore[misc]


class LocalSimilarityLoss(SeenCrossEntropy):
    """The classification loss of PODNet over the seen classes; `form` "paper" or "official".

    With "paper", eta is a constant in the margin and is kept above `SMALLEST_ETA` after every step.
    """

    def __init__(self, head: CosineHead, form: str, margin: float) -> None:
        super().__init__()
        self.head, self.form, self.margin = head, form, margin

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.form == "official":
            return nca_loss_as_released(logits, targets)
        return nca_loss(logits, targets, self.head.eta.detach() * self.margin)

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        if self.form == "paper":
            with torch.no_grad():
                self.head.eta.clamp_(min=SMALLEST_ETA)


class PooledOutputsPlugin(TeacherPlugin):
    """Adds sqrt(C / C_n) (flat POD-flat + spatial POD-spatial); imprints the proxies of new classes if `imprint`."""

    def __init__(self, flat: float, spatial: float, imprint: bool, seed: int) -> None:
        super().__init__()
        self.flat, self.spatial, self.imprint, self.seed = flat, spatial, imprint, seed

    @property
    def scale(self) -> float:
        """sqrt(C / C_n) of the current experience, C with the new classes."""
        return math.sqrt(self.seen.num_seen / (self.seen.num_seen - self.seen.num_old))

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        super().before_training_exp(strategy)
        if not self.seen.num_old:
            return
        strategy.model.keep_maps()
        if self.imprint:
            self._imprint(strategy)

    @torch.no_grad()
    def _imprint(self, strategy: Any) -> None:
        head, dataset = strategy.model.head, strategy.experience.dataset
        features = extract_features(strategy, dataset).features
        mean_old_norm = head.old.norm(dim=2).mean()
        for label, positions in class_positions(dataset).items():
            seed = derive_seed(self.seed, "proxies", self.seen.class_ids.index(label))
            proxies = kmeans_proxies(features[positions], head.num_proxies, seed)
            head.new[head.new_columns.index(label)] = proxies * mean_old_norm

    def combine(self, strategy: Any, loss: Tensor) -> Tensor:
        with autocast_of(strategy):
            teacher_maps, teacher_features = self.teacher.maps_and_features(strategy.mb_x)
        flat = less_forget_loss(strategy.model.last_features, teacher_features)
        spatial = pod_spatial_loss(strategy.model.last_maps, teacher_maps)
        return loss + self.scale * (self.flat * flat + self.spatial * spatial)


class GradientClampPlugin(SupervisedPlugin):
    """Clamps every entry of every gradient to [-limit, limit]."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        self.clamp(list(strategy.model.parameters()))

    def clamp(self, parameters: Sequence[nn.Parameter], *_: Any) -> None:
        nn.utils.clip_grad_value_(parameters, self.limit)


@dataclass(frozen=True, kw_only=True)
class PooledOutputs(Recipe):
    """What PODNet and its variants share: multi-proxy cosine head, pooled-outputs distillation, clamped gradients.

    Fields
    ------
    flat, spatial : lambda_f and lambda_c: 1 and 3 for CIFAR-100, 10 and 8 for ImageNet-100.
    proxies : P. imprint : start new proxies at k-means centres of the class. clamp : limit of a gradient's entries.
    """

    requires_memory: ClassVar[bool] = True
    last_relu: ClassVar[bool] = False
    flat: Annotated[float, Ge(0)] = 1.0
    spatial: Annotated[float, Ge(0)] = 3.0
    proxies: Annotated[int, Ge(1)] = 10
    imprint: bool = True
    clamp: Annotated[float, Gt(0)] = 5.0

    def head(self, context: Context) -> ProxyHead:
        return ProxyHead(context.num_features, self.proxies)

    def criterion(self, head: ProxyHead) -> SeenCrossEntropy:
        raise TypeError(f"{type(self).__name__} must define criterion(head)")

    def build(self, context: Context) -> Parts:
        memory, head = context.exemplars(), self.head(context)
        distillation = PooledOutputsPlugin(self.flat, self.spatial, self.imprint, context.seed)
        return Parts(
            head=head,
            criterion=self.criterion(head),
            plugins=[memory, distillation, GradientClampPlugin(self.clamp)],
            classifiers=[HeadClassifier(), NearestMeanClassifier(memory)],
        )


@dataclass(frozen=True, kw_only=True)
class PODNetWithoutFinetuning(PooledOutputs):
    """PODNet up to its balanced finetuning; `loss` is the form of the classification loss, `margin` its delta."""

    loss: Literal["official", "paper", "cross_entropy"] = "official"
    margin: Annotated[float, Ge(0)] = 0.6  # of "paper"

    def criterion(self, head: ProxyHead) -> SeenCrossEntropy:
        if self.loss == "cross_entropy":
            return SeenCrossEntropy()
        return LocalSimilarityLoss(head, self.loss, self.margin)


@dataclass(frozen=True, kw_only=True)
class PODNet(PODNetWithoutFinetuning):
    """The paper's method; `finetune_lr` 0.05 is for CIFAR-100, ImageNet has 0.01."""

    name: ClassVar[str] = "podnet"
    reference: ClassVar[str] = REFERENCE
    finetune_epochs: Annotated[int, Ge(0)] = 20
    finetune_lr: Annotated[float, Ge(0)] = 0.05

    def build(self, context: Context) -> Parts:
        parts = super().build(context)
        memory, distillation, clamp = parts.plugins
        assert isinstance(memory, ExemplarMemoryPlugin)
        assert isinstance(distillation, PooledOutputsPlugin) and isinstance(clamp, GradientClampPlugin)
        parts.stages = [
            Stage(
                name="balanced_finetuning",
                epochs=self.finetune_epochs,
                batch_size=context.batch_size,
                lr=self.finetune_lr,
                momentum=context.momentum,
                weight_decay=context.weight_decay,
                data=lambda strategy: memory.dataset() if distillation.seen.num_old else None,
                parameters=lambda strategy: [strategy.model.head.old, strategy.model.head.new],
                loss=classification_loss,
                batches=FreshFeatures,
                after_backward=clamp.clamp,
            )
        ]
        return parts


def classification_loss(strategy: Any, features: Tensor, targets: Tensor) -> Tensor:
    """The strategy's criterion on the head's output; distillation has no gradient where the backbone is frozen."""
    return strategy._criterion(strategy.model.head(features), targets)
