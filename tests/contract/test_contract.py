"""The contract holds for every registered strategy, and every check can fail."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from avalanche.training.plugins import SupervisedPlugin

from benchmark.contract import checks, workbench
from benchmark.contract.checks import CHECKS, ContractError, check_strategy, make_workbench, print_check, run_check
from benchmark.contract.probes import differences
from strategies import registry
from strategies.finetune import Finetune
from strategies.joint import Joint
from strategies.networks.heads import LinearHead
from strategies.replay import Replay
from strategies.training.classifiers import HeadClassifier
from strategies.training.criteria import SeenCrossEntropy
from strategies.training.distillation import DistillationPlugin
from strategies.training.memory import ExemplarMemoryPlugin
from strategies.training.recipe import Context, Parts, Recipe
from strategies.training.stages import Stage


@pytest.mark.parametrize("name", registry.names())
def test_every_registered_strategy_keeps_the_contract(name: str) -> None:
    check_strategy(registry.get(name))


# --- every check can fail ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Broken(Replay):
    """Replay with one part changed by `spoil`, a function of the parts."""

    name: ClassVar[str] = "broken"
    spoil: Any = None

    def build(self, context: Context) -> Parts:
        parts = super().build(context)
        parts.plugins.append(DistillationPlugin())
        self.spoil(parts)
        return parts


class Hook(SupervisedPlugin):
    """A plugin made of one function at one hook."""

    def __init__(self, hook: str, function: Any) -> None:
        super().__init__()
        setattr(self, hook, lambda strategy, **kwargs: function(strategy))


def hook(name: str, function: Any) -> Any:
    return lambda parts: parts.plugins.append(Hook(name, function))


SHARED = Hook("before_training", lambda strategy: None)


def spoil_loss(factor: float) -> Any:
    def change(strategy: Any) -> None:
        strategy.loss = strategy.loss * factor

    return hook("before_backward", change)


def nan_in_half(strategy: Any) -> None:
    if len(strategy.experience.classes_in_this_experience) == 5:
        strategy.loss = strategy.loss * float("nan")


class OneColumnMore(HeadClassifier):
    def scores(self, features: Any, logits: Any) -> Any:
        return torch.cat([logits, logits[:, :1]], dim=1)


class Infinite(HeadClassifier):
    def scores(self, features: Any, logits: Any) -> Any:
        return logits.masked_fill(logits < 0, -torch.inf)


def classify_with(classifier: HeadClassifier) -> Any:
    return lambda parts: parts.classifiers.append(classifier)


class CountsInEvaluation(LinearHead):
    """A head with a counter of evaluation batches among its weights."""

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, features: Any) -> Any:
        if not self.training:
            self.batches += 1
        return super().forward(features)


def count_in_evaluation(parts: Parts) -> None:
    parts.head = CountsInEvaluation(parts.head.num_features)


class ForgetsRare(ExemplarMemoryPlugin):
    """Loses classes with a single image, as selectors do that demand a full quota."""

    def update(self, strategy: Any, dataset: Any) -> None:
        super().update(strategy, dataset)
        self.positions = {label: kept if len(kept) > 1 else [] for label, kept in self.positions.items()}


class Greedy(ExemplarMemoryPlugin):
    """Does not shrink to the quota of a total budget."""

    def quota(self, num_classes: int) -> int:
        return super().quota(3)


def remember_with(kind: type[ExemplarMemoryPlugin]) -> Any:
    def change(parts: Parts) -> None:
        old = parts.plugins[0]
        assert isinstance(old, ExemplarMemoryPlugin)
        parts.plugins[0] = kind(old.budget, old.mode, old.selection, old.seed)

    return change


def needs_exemplars(strategy: Any) -> None:
    assert strategy.experience.current_experience == 0 or len(strategy.adapted_dataset) > len(
        strategy.experience.dataset
    )


def noise(strategy: Any) -> None:
    strategy.loss = strategy.loss * float(np.random.default_rng().uniform(0.9, 1.1))


class Counter(SupervisedPlugin):
    """Weights the loss by the number of experiences so far, and does not save that number."""

    def __init__(self) -> None:
        super().__init__()
        self.experiences = 0

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.experiences += 1

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        strategy.loss = strategy.loss * self.experiences


class Rising(SupervisedPlugin):
    """Weights the loss by the number of steps in this experience, and does not save that number."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.steps = 0

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        self.steps += 1
        strategy.loss = strategy.loss * (1 + 0.1 * self.steps)


class Pickled(SupervisedPlugin):
    """Saves an object, which `weights_only` does not load."""

    def state_dict(self) -> dict[str, Any]:
        return {"path": Path("somewhere")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def teacher_of(strategy: Any) -> Any:
    return next(plugin for plugin in strategy.plugins if isinstance(plugin, DistillationPlugin)).teacher.model


def teacher_in_training_mode(strategy: Any) -> None:
    if teacher_of(strategy):
        teacher_of(strategy).train()


def teacher_with_gradients(strategy: Any) -> None:
    if teacher_of(strategy):
        teacher_of(strategy).requires_grad_(True)


def teacher_that_moves(strategy: Any) -> None:
    if teacher_of(strategy):
        teacher_of(strategy).head.linear.weight.mul_(0.99)


def freezing_stage(parts: Parts) -> None:
    """A stage that freezes the backbone and forgets to thaw it."""

    def parameters(strategy: Any) -> Any:
        strategy.model.backbone.requires_grad_(False)
        return strategy.model.head.parameters()

    parts.stages.append(
        Stage(
            "tuning", 1, 8, 0.0, lambda s: s.experience.dataset, parameters, lambda s, f, z, y: s.model.head(f).mean()
        )
    )


def replaced_dataset(strategy: Any) -> None:
    strategy.experience.dataset = strategy.experience.dataset.subset([0, 1])


def blackened_images(strategy: Any) -> None:
    strategy.loader.images.train[:2] = 0


BROKEN = {
    "parts: two builds share Hook": lambda parts: parts.plugins.append(SHARED),
    "parts: Parts.classifiers is empty": lambda parts: parts.classifiers.clear(),
    "from_scratch: NonFiniteLossError": spoil_loss(float("nan")),
    "from_scratch: 3 epochs were trained, not 18": hook("after_training_epoch", lambda s: s.stop_training()),
    "from_half: NonFiniteLossError": hook("before_backward", nan_in_half),
    "learning: head reaches": spoil_loss(0.0),
    "predictions: head gives scores": classify_with(OneColumnMore()),
    "predictions: head gives infinite or nan": classify_with(Infinite()),
    "evaluation: eval(stream) changed head.batches": count_in_evaluation,
    "evaluation: eval(stream) and predict": hook("after_eval_forward", lambda s: s.mb_output.mul_(2)),
    "rare_class: memory holds 0 images": remember_with(ForgetsRare),
    "memory: 3 per_class by herding: holds": remember_with(ForgetsRare),
    "memory: 20 total by herding: holds": remember_with(Greedy),
    "memory: it requires memory but has none": lambda parts: parts.plugins.pop(0),
    "no_memory: AssertionError": hook("after_train_dataset_adaptation", needs_exemplars),
    "deterministic: a second run": hook("before_backward", noise),
    "resume: a run resumed after 1 of 3 ends with other weights": lambda parts: parts.plugins.append(Counter()),
    "resume: a run resumed in experience 2 of 3 ends with other weights": lambda parts: parts.plugins.append(Rising()),
    "resume: UnpicklingError": lambda parts: parts.plugins.append(Pickled()),
    "teachers: DistillationPlugin.teacher is in training mode (itself": hook(
        "before_forward", teacher_in_training_mode
    ),
    "teachers: DistillationPlugin.teacher is not frozen": hook("before_forward", teacher_with_gradients),
    "teachers: DistillationPlugin.teacher changed": hook(
        "after_update", lambda s: torch.no_grad()(teacher_that_moves)(s)
    ),
    "parameters: requires_grad of backbone.": freezing_stage,
    "data: training changed targets of train_stream[0]": hook("after_training_exp", replaced_dataset),
    "data: training changed the training images": hook("after_training_exp", blackened_images),
    "global_state: training changed torch.get_default_dtype()": hook(
        "after_training_exp", lambda strategy: torch.set_default_dtype(torch.float64)
    ),
}


@pytest.mark.parametrize("seen", BROKEN)
def test_every_check_can_fail(seen: str) -> None:
    check = seen.partition(":")[0]
    recipe = Broken(spoil=BROKEN[seen])
    if check == "no_memory":
        recipe = ClaimsNoMemory(spoil=BROKEN[seen])
    before = workbench.global_state()
    with pytest.raises(ContractError) as raised:
        run_check(check, make_workbench(recipe))
    assert str(raised.value).startswith(f"broken, {seen}")
    assert workbench.global_state() == before


@dataclass(frozen=True, kw_only=True)
class ClaimsNoMemory(Broken):
    requires_memory: ClassVar[bool] = False


def test_no_check_is_without_a_broken_strategy() -> None:
    assert {seen.partition(":")[0] for seen in BROKEN} == set(CHECKS)


def test_the_unspoiled_strategy_passes() -> None:
    check_strategy(Broken(spoil=lambda parts: None))


def test_the_first_failure_is_raised_and_all_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Broken(spoil=hook("before_backward", noise))
    with pytest.raises(
        ContractError, match=r"^broken, deterministic: a second run with the same seed ends with other weights"
    ):
        check_strategy(recipe)
    assert print_check(recipe) == 1
    printed = capsys.readouterr().out.splitlines()
    assert [line[0] for line in printed[:-1]] == ["✗" if n in ("deterministic", "resume") else "✓" for n in CHECKS]
    assert printed[-1].startswith("broken: 2 of 15 checks failed in ")
    assert print_check(Finetune) == 0
    assert "finetune: all 15 checks passed in" in capsys.readouterr().out


def test_a_mistake_in_the_code_is_told_once_with_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    def mistaken(strategy: Any) -> None:
        raise LookupError("no such thing")  # the line that is told

    recipe = Broken(spoil=hook("before_backward", mistaken))
    assert print_check(recipe) == 1
    out = capsys.readouterr().out
    number = 1 + Path(__file__).read_text().splitlines().index(
        '        raise LookupError("no such thing")  # the line that is told'
    )
    assert out.count(f"LookupError: no such thing (test_contract.py, line {number})") == 1
    assert "✗ from_half: as from_scratch\n" in out


def test_a_default_of_another_type_is_told() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Mistyped(Replay):
        name: ClassVar[str] = "mistyped"
        weight: float = "two"  # type: ignore[assignment]

    with pytest.raises(ContractError, match=r"Mistyped\.weight is 'two', which its type does not allow"):
        run_check("parts", make_workbench(Mistyped))


def test_a_seed_without_effect_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make_workbench(Finetune)
    train = bench.train
    monkeypatch.setattr(bench, "train", lambda *args, **kwargs: train(*args, **{**kwargs, "seed": 0}))
    with pytest.raises(ContractError, match="runs with seeds 0 and 1 give the same predictions"):
        run_check("deterministic", bench)


def test_what_is_no_recipe_is_told() -> None:
    @dataclass(frozen=True)
    class NeedsArgument(Recipe):
        name: ClassVar[str] = "needs"
        argument: int

    class Undecorated(Finetune):
        option: int = 1

    for wrong, sentence in (
        (Undecorated, "finetune, parts: Undecorated is no dataclass itself"),
        (NeedsArgument, "every hyper-parameter needs a default"),
        (dict, "neither an instance nor a subclass"),
        ("replay", "neither an instance nor a subclass"),
    ):
        with pytest.raises(ContractError, match=sentence):
            check_strategy(wrong)  # type: ignore[arg-type]


def test_the_callers_random_numbers_are_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    make_workbench(Finetune).train(experiences=1, epochs=1)
    assert torch.equal(torch.rand(3), expected)


def test_an_instance_is_checked_as_it_is() -> None:
    assert make_workbench(Joint(mode="continue")).recipe.mode == "continue"  # type: ignore[attr-defined]


# --- the registry --------------------------------------------------------------------------------------------------


def test_no_two_names_are_the_same_method() -> None:
    """Same seed, same stream: two names that end with the same weights and classifiers would be one configuration."""
    ends = {name: make_workbench(registry.get(name)).train(epochs=2) for name in registry.names()}
    for (one, first), (other, second) in itertools.combinations(ends.items(), 2):
        same = not differences(first.weights, second.weights)
        same = same and not differences(first.predictions[-1], second.predictions[-1])
        assert not same, f"{one} and {other} are the same method"


THIRD_PARTY = """
from dataclasses import dataclass
from typing import ClassVar

import torch

from strategies.training.criteria import SeenCrossEntropy
from strategies.networks.heads import LinearHead
from strategies.training.recipe import Context, Parts, Recipe


class Smoothed(SeenCrossEntropy):
    def __init__(self, smoothing):
        super().__init__()
        self.smoothing = smoothing

    def loss(self, logits, targets):
        return torch.nn.functional.cross_entropy(logits, targets, label_smoothing=self.smoothing)


@dataclass(frozen=True, kw_only=True)
class SmoothedReplay(Recipe):
    name: ClassVar[str] = "smoothed_replay"
    requires_memory: ClassVar[bool] = True
    smoothing: float = 0.1

    def build(self, context: Context) -> Parts:
        return Parts(
            head=LinearHead(context.num_features),
            criterion=Smoothed(self.smoothing),
            plugins=[context.exemplars()],
        )
"""


def test_a_file_of_someone_else_passes_registry_config_and_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmark.config.checks import build_recipe
    from benchmark.config.sections import StrategyConfig

    file = tmp_path / "smoothed.py"
    file.write_text(THIRD_PARTY)
    recipe = registry.get(f"{file}:SmoothedReplay")
    check_strategy(recipe)
    configured = build_recipe(StrategyConfig(name=f"{file}:SmoothedReplay", smoothing=0.3))
    assert configured.smoothing == 0.3 and configured != replace(configured, smoothing=0.1)
    assert print_check(configured) == 0
    assert "smoothed_replay: all 15 checks passed" in capsys.readouterr().out


def test_a_file_cannot_replace_a_module_of_its_name(tmp_path: Path) -> None:
    import json
    import sys

    file = tmp_path / "json.py"
    file.write_text(THIRD_PARTY)
    registry.get(f"{file}:SmoothedReplay")
    assert sys.modules["json"] is json


def test_a_registered_method_is_checked_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})

    @registry.register("mine")
    @dataclass(frozen=True, kw_only=True)
    class Mine(Recipe):
        name: ClassVar[str] = "mine"

        def build(self, context: Context) -> Parts:
            return Parts(head=LinearHead(context.num_features), criterion=SeenCrossEntropy())

    assert "mine" in registry.names()
    run_check("from_scratch", make_workbench(registry.get("mine")))


def test_checks_are_sentences() -> None:
    assert all(check.__doc__ for check in CHECKS.values())
    assert checks.RARE == 4 and sum(workbench.COUNTS[3:6]) < workbench.BATCH_SIZE
