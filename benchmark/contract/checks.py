"""The contract every strategy passes: `check_strategy(recipe)`, for the methods of this package and for anyone's.

Each check looks at one promise, on training runs of the `Workbench` that take a fraction of a second.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from avalanche.core import BasePlugin
from pydantic import TypeAdapter, ValidationError

from benchmark.contract.probes import copied, differences
from benchmark.contract.workbench import (
    COUNTS,
    FEW_EPOCHS,
    FROM_HALF,
    FROM_SCRATCH,
    MEMORY,
    STAGE_EPOCHS,
    TEST_IMAGES,
    Trained,
    Workbench,
    seen_tests,
)
from benchmark.errors import place
from benchmark.runs.evaluation import SCORES
from strategies.training.recipe import MemoryPolicy, Parts, Recipe

RARE = COUNTS.index(1)
POLICIES = (
    MEMORY,
    MemoryPolicy(3, "per_class", "random"),
    MemoryPolicy(20, "total", "herding"),
    MemoryPolicy(20, "total", "random"),
)


class ContractError(AssertionError):
    """A strategy broke the contract; the message names the check and what was seen."""


def require(condition: bool, seen: str) -> None:
    """Fail a check with what was seen."""
    if not condition:
        raise ContractError(seen)


# --- the checks; their docstrings are the sentences that `imcil check` prints ----------------------------------------


def check_parts(bench: Workbench) -> None:
    """it is a named dataclass whose build(context) makes fresh parts every time"""
    recipe, kind = bench.recipe, type(bench.recipe).__name__
    require(bool(recipe.name), f"{kind}.name is empty; a method needs a name in tables")
    decorated = "__dataclass_fields__" in vars(type(recipe))  # else its own fields would be no options
    require(decorated, f"{kind} is no dataclass itself; decorate it with @dataclass(frozen=True, kw_only=True)")
    try:
        TypeAdapter(type(recipe)).validate_python({f.name: getattr(recipe, f.name) for f in fields(recipe)})
    except ValidationError as error:
        wrong = error.errors()[0]
        name, value = ".".join(map(str, wrong["loc"])), wrong["input"]
        require(False, f"{kind}.{name} is {value!r}, which its type does not allow; give another default")
    first, second = bench.parts()[1], bench.parts()[1]
    require(
        isinstance(first, Parts),
        f"build(context) returned {type(first).__name__}, not strategies.training.recipe.Parts",
    )
    require(bool(first.classifiers), "Parts.classifiers is empty; the first one is the method's way to predict")
    kept, made = ([parts.head, parts.criterion, *parts.plugins] for parts in (first, second))
    stateful = [part for part in made if isinstance(part, BasePlugin | torch.nn.Module)]
    shared = [type(part).__name__ for part in stateful if any(part is other for other in kept)]
    require(not shared, f"two builds share {', '.join(shared)}; the second run would start with the first one's state")


def check_from_scratch(bench: Workbench) -> None:
    """it trains from scratch (LFS), with a class of one image and an experience smaller than a batch"""
    require_finite_losses(bench.plain)


def check_from_half(bench: Workbench) -> None:
    """it trains from half of the classes on (LFH)"""
    trained = bench.train(sizes=FROM_HALF, epochs=FEW_EPOCHS)
    require_finite_losses(trained)
    require_scores(trained, FROM_HALF)


def check_learning(bench: Workbench) -> None:
    """after three experiences its accuracy (multi-label: mAP) on all seen classes is above twice chance"""
    classifier, record = next(iter(bench.plain.records[-1]["classifiers"].items()))
    kind = bench.recipe.task_kind
    reached, chance = SCORES[kind](record), CHANCE[kind](record)
    require(reached > 2 * chance, f"{classifier} reaches {reached:.3f}, twice chance is {2 * chance:.3f}")


def check_predictions(bench: Workbench) -> None:
    """every classifier gives a finite score to every seen class"""
    require_scores(bench.plain, FROM_SCRATCH)


def check_evaluation(bench: Workbench) -> None:
    """Avalanche's eval(stream) works, agrees with predict and changes no weight"""
    trained = bench.plain
    before = copied(trained.weights)
    trained.watch.outputs.clear()
    trained.learner.eval(trained.stream.test_stream)
    changed = differences(before, trained.weights)
    require(not changed, f"eval(stream) changed {', '.join(changed[:3])}")
    head = trained.predictions[-1].get("head")
    if head is not None:
        outputs = torch.cat(trained.watch.outputs)
        same = outputs.shape == head.shape and torch.allclose(outputs, head, rtol=1e-3, atol=1e-3)
        require(same, "eval(stream) and predict give other logits")


def check_rare_class(bench: Workbench) -> None:
    """a class with one training image stays in memory and counts in the metrics"""
    record = bench.plain.records[-1]
    held = record["memory_held"][RARE]
    require(held == 1 or not bench.plain.memories, f"memory holds {held} images of the class that had one")
    for classifier, found in record["classifiers"].items():
        total, wanted = TESTED[bench.recipe.task_kind](found), [TEST_IMAGES] * len(COUNTS)
        require(total == wanted, f"{classifier} was tested on {total} images a class, not {wanted}")


def check_memory(bench: Workbench) -> None:
    """memory holds min(quota, images) of every seen class, per class and in total, by herding and at random"""
    if not bench.plain.memories:
        require(not bench.recipe.requires_memory, "it requires memory but has none; use context.exemplars()")
        return
    for policy in POLICIES:
        trained = bench.plain if policy == MEMORY else bench.train(memory=policy, epochs=FEW_EPOCHS)
        for record, seen in zip(trained.records, np.cumsum(FROM_SCRATCH), strict=True):
            quota = policy.budget if policy.mode == "per_class" else policy.budget // int(seen)
            held, wanted = record["memory_held"], [min(quota, n) for n in COUNTS[:seen]]
            require(held == wanted, f"{policy.budget} {policy.mode} by {policy.selection}: holds {held}, not {wanted}")


def check_no_memory(bench: Workbench) -> None:
    """it trains without exemplars, unless it says requires_memory"""
    if bench.recipe.requires_memory:
        return
    trained = bench.train(memory=MemoryPolicy(0, "per_class", "herding"), epochs=FEW_EPOCHS)
    require_finite_losses(trained)
    held = trained.records[-1]["memory_held"]
    require(not any(held), f"with a budget of 0 the memory holds {held}")


def check_deterministic(bench: Workbench) -> None:
    """one seed gives one result, another seed another"""
    require_same_end(bench.plain, bench.train(), "a second run with the same seed")
    scores, others = (
        next(iter(run.predictions[0].values())) for run in (bench.plain, bench.train(experiences=1, seed=1))
    )
    require(not torch.equal(scores, others), "runs with seeds 0 and 1 give the same predictions")


def check_resume(bench: Workbench) -> None:
    """its state, saved between experiences or inside one and loaded again, leads to the same end bit for bit"""
    for saved in bench.states():
        require_same_end(bench.plain, bench.resume(saved), f"a run resumed {saved.where} of {len(FROM_SCRATCH)}")


def check_teachers(bench: Workbench) -> None:
    """teachers are frozen, in eval mode and do not change during an experience"""
    require(not bench.plain.watch.complaints, "; ".join(bench.plain.watch.complaints))


def check_parameters(bench: Workbench) -> None:
    """an experience ends with the parameters trainable and frozen as in its first step, its stages notwithstanding"""
    changed = sorted(set(bench.plain.thawed))
    require(not changed, f"requires_grad of {', '.join(changed[:3])} was left changed")


def check_data(bench: Workbench) -> None:
    """training leaves images and stream as they were"""
    changed = bench.plain.data_changes
    require(not changed, f"training changed {', '.join(changed[:3])}")


def check_global_state(bench: Workbench) -> None:
    """training leaves torch's global settings as they were"""
    changed = bench.plain.global_changes
    require(not changed, f"training changed {', '.join(changed)}")


CHECKS: dict[str, Callable[[Workbench], None]] = {
    "parts": check_parts,
    "from_scratch": check_from_scratch,
    "from_half": check_from_half,
    "learning": check_learning,
    "predictions": check_predictions,
    "evaluation": check_evaluation,
    "rare_class": check_rare_class,
    "memory": check_memory,
    "no_memory": check_no_memory,
    "deterministic": check_deterministic,
    "resume": check_resume,
    "teachers": check_teachers,
    "parameters": check_parameters,
    "data": check_data,
    "global_state": check_global_state,
}


def _positives(record: Mapping[str, Any]) -> list[int]:
    counts = record["counts"]["0.5"]
    return [tp + fn for tp, fn in zip(counts["tp"], counts["fn"], strict=True)]


def _chance_of_map(record: Mapping[str, Any]) -> float:
    """The mean share of positives."""
    images = sum(sum(values) for values in record["counts"]["0.5"].values()) / len(COUNTS)
    return sum(_positives(record)) / len(COUNTS) / images


# What a record of metrics.jsonl says of one classifier, by task_kind.
CHANCE: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "single": lambda record: 1 / len(COUNTS),
    "multi": _chance_of_map,
}
TESTED: dict[str, Callable[[Mapping[str, Any]], list[int]]] = {
    "single": lambda record: record["total"],
    "multi": _positives,
}


def require_finite_losses(trained: Trained) -> None:
    """Every epoch was trained, with a finite mean loss."""
    epochs = trained.epochs
    require(len(trained.losses) == epochs, f"{len(trained.losses)} epochs were trained, not {epochs}")
    require(bool(np.isfinite(trained.losses).all()), f"the losses of its epochs are {trained.losses}")


def require_scores(trained: Trained, sizes: Sequence[int]) -> None:
    """One finite score per test image and seen class, after every experience and from every classifier."""
    for t, (predictions, seen) in enumerate(zip(trained.predictions, np.cumsum(sizes), strict=True)):
        require(bool(predictions), f"predict gives no scores after experience {t}")
        for classifier, scores in predictions.items():
            shape, wanted = tuple(scores.shape), (len(seen_tests(trained.stream, t)), int(seen))
            require(shape == wanted, f"{classifier} gives scores {shape} after experience {t}, not {wanted}")
            require(bool(scores.isfinite().all()), f"{classifier} gives infinite or nan scores after experience {t}")


def require_same_end(expected: Trained, found: Trained, which: str) -> None:
    """The same weights and predictions, bit for bit."""
    changed = differences(expected.weights, found.weights)
    require(not changed, f"{which} ends with other weights ({', '.join(changed[:3])})")
    changed = differences(expected.predictions[-1], found.predictions[-1])
    require(not changed, f"{which} ends with other predictions of {', '.join(changed)}")


# --- for users -----------------------------------------------------------------------------------------------------


def make_workbench(recipe: Recipe | type[Recipe]) -> Workbench:
    """A workbench for a recipe, or for a recipe class with its defaults; ContractError for anything else."""
    try:
        made = recipe() if isinstance(recipe, type) and issubclass(recipe, Recipe) else recipe
    except TypeError as error:
        raise ContractError(f"{recipe}: every hyper-parameter needs a default ({error}).") from error
    if not isinstance(made, Recipe):
        raise ContractError(f"{recipe!r} is neither an instance nor a subclass of strategies.training.recipe.Recipe.")
    return Workbench(made, STAGE_EPOCHS)


def run_check(name: str, bench: Workbench) -> None:
    """One check of `CHECKS`; whatever goes wrong in it becomes a ContractError that names it."""
    where = f"{bench.recipe.name or type(bench.recipe).__name__}, {name}"
    try:
        CHECKS[name](bench)
    except ContractError as error:
        raise ContractError(f"{where}: {error}.") from error
    except Exception as error:
        found = place(error, [inspect.getsourcefile(type(bench.recipe)) or ""])
        raise ContractError(f"{where}: {type(error).__name__}: {error}{found}") from error


def check_strategy(recipe: Recipe | type[Recipe]) -> None:
    """Put a recipe, or a recipe class with its defaults, through all checks; a few seconds on one core.

    Raises
    ------
    ContractError : the first check that failed, and what was seen.
    """
    bench = make_workbench(recipe)
    for name in CHECKS:
        run_check(name, bench)


def print_check(recipe: Recipe | type[Recipe]) -> int:
    """Run all checks and print a line for each; 0 if all passed, else 1."""
    from rich.console import Console
    from rich.text import Text

    console, failed, started = Console(), 0, time.perf_counter()
    told: dict[str, str] = {}  # what was seen -> the first check that failed by it
    bench = make_workbench(recipe)
    for name, check in CHECKS.items():
        try:
            run_check(name, bench)
            line = Text.assemble(("✓ ", "green"), (name, "bold"), f": {check.__doc__}")
        except ContractError as error:
            failed += 1
            seen = str(error).partition(f", {name}: ")[2]
            first = told.setdefault(seen, name)
            line = Text.assemble(("✗ ", "red"), (str(error) if first == name else f"{name}: as {first}", "red"))
        console.print(line, soft_wrap=True)
    verdict = f"{failed} of {len(CHECKS)} checks failed" if failed else f"all {len(CHECKS)} checks passed"
    seconds = time.perf_counter() - started
    console.print(f"{bench.recipe.name or type(bench.recipe).__name__}: {verdict} in {seconds:.1f} s", highlight=False)
    return 1 if failed else 0
