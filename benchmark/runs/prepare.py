"""A run before its first step: recipe, stream and images checked against each other, then network and learner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from avalanche.core import BasePlugin

from benchmark import backbones, datasets
from benchmark.config.checks import check
from benchmark.config.schema import RunConfig
from benchmark.config.sections import DatasetConfig
from benchmark.errors import UserError
from benchmark.loading.loader import ArrayLoader
from benchmark.runs.environment import Resolved
from benchmark.runs.loggers import check as check_loggers
from benchmark.streams import LongTailedBenchmark, long_tailed_benchmark
from strategies.networks.incremental import IncrementalNetwork
from strategies.training.learner import IncrementalLearner, Optimisation
from strategies.training.recipe import Context, MemoryPolicy, Parts, Recipe
from strategies.training.schedule import Schedule
from strategies.training.seeds import derive_seed

Prepared = tuple[Recipe, LongTailedBenchmark, datasets.ImageArrays]


def prepare(run: RunConfig) -> Prepared:
    """Check a run against its data: recipe, stream and images, or a UserError."""
    recipe = check(run)
    check_loggers(run.training.loggers)
    if ":" in run.training.backbone:  # from outside imcil: its mistakes come before any work
        backbones.build(run.training.backbone, recipe.last_relu)
    arrays = _load_dataset(run.dataset.model_copy(update={"classes": _generated_classes(run.dataset)}))
    if run.stream.evaluate == "holdout":  # from here on nothing can read the test set
        arrays = replace(arrays, test_images=arrays.test_images[:0], test_labels=arrays.test_labels[:0])
    keep = run.dataset.classes if _generated_classes(run.dataset) is None else None
    if isinstance(keep, int):
        if keep > len(arrays.class_names):
            raise UserError(f"dataset.classes is {keep}, but {run.dataset.name} has {len(arrays.class_names)} classes.")
        keep = list(range(keep))
    try:
        benchmark = long_tailed_benchmark(arrays, classes=keep, **run.stream.model_dump())
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from error
    num_classes = len(benchmark.info.class_order)
    if run.memory.mode == "total" and 0 < run.memory.budget < num_classes:
        raise UserError(
            f"memory.budget is {run.memory.budget} in total, fewer than the {num_classes} classes: some class would "
            f"hold no image; give at least {num_classes}."
        )
    return recipe, benchmark, arrays


def _generated_classes(dataset: DatasetConfig) -> int | None:
    """How many classes to generate, None for datasets that exist."""
    if datasets.generated(dataset.name) and isinstance(dataset.classes, int):
        return dataset.classes
    return None


@lru_cache(maxsize=1)  # the runs of one worker mostly share their dataset
def _load_dataset(dataset: DatasetConfig) -> datasets.ImageArrays:
    return datasets.load(**dataset.model_dump())


def build_learner(
    run: RunConfig,
    recipe: Recipe,
    loader: ArrayLoader,
    resolved: Resolved,
    observers: Sequence[BasePlugin] = (),
) -> IncrementalLearner:
    """Network, parts and template of a run, its weights drawn from the training seed."""
    training = run.training
    torch.manual_seed(derive_seed(training.seed, "network"))
    backbone = backbones.build(training.backbone, recipe.last_relu)
    context = Context(
        num_features=int(backbone.num_features),  # type: ignore[arg-type]
        backbone=backbone,
        memory=MemoryPolicy(**run.memory.model_dump()),
        seed=training.seed,
        epochs=training.epochs,
        batch_size=training.batch_size,
        lr=training.lr,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
    )
    parts = recipe.build(context)
    if not isinstance(parts, Parts):
        made = type(parts).__name__
        raise UserError(
            f"build(context) of {type(recipe).__name__} returned {made}, not strategies.training.recipe.Parts."
        )
    network = IncrementalNetwork(backbone, parts.head).to(memory_format=torch.channels_last).to(resolved.device)
    if resolved.compile == "on":
        network.compile_backbone(training.batch_size)
    schedule = Schedule(training.schedule, tuple(training.milestones), training.gamma, training.warmup_epochs)
    optimisation = Optimisation(
        training.epochs, training.batch_size, training.lr, training.momentum, training.weight_decay, schedule
    )
    return IncrementalLearner(
        network=network,
        parts=parts,
        optimisation=optimisation,
        loader=loader,
        device=resolved.device,
        precision=resolved.precision,
        seed=training.seed,
        plugins=observers,
    )
