"""The training loop, schedules, stages and networks; foreign Avalanche benchmarks; stock templates."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.templates import SupervisedTemplate
from foreign_stream import CHANCE, SHUFFLED_IDS, foreign_benchmark
from torch import Tensor, nn

from benchmark import backbones
from benchmark.contract.probes import copied, differences
from benchmark.contract.workbench import BATCH_SIZE, COUNTS, LR, Trained, Workbench, seen_tests
from benchmark.loading.loader import ArrayLoader
from strategies import registry
from strategies.finetune import Finetune
from strategies.lucir import LUCIR
from strategies.networks.heads import LinearHead
from strategies.networks.incremental import IncrementalNetwork
from strategies.networks.passes import Compute
from strategies.replay import Replay
from strategies.training.learner import IncrementalLearner, Optimisation
from strategies.training.recipe import Context, MemoryPolicy, Recipe
from strategies.training.schedule import Schedule
from strategies.training.seeds import derive_seed
from strategies.training.stages import FreshFeatures, Images, NonFiniteLossError, Stage, StageProgress, StageRunner
from strategies.training.teacher import Teacher

# --- schedules -----------------------------------------------------------------------------------------------------


def test_multistep_falls_after_80_and_120_of_160_epochs() -> None:
    factors = [Schedule().factor(epoch, 160) for epoch in range(160)]
    assert factors[:80] == [1.0] * 80
    assert factors[80:120] == pytest.approx([0.1] * 40) and factors[120:] == pytest.approx([0.01] * 40)


def test_other_milestones_and_warm_up() -> None:
    """LT-CIL's joint training: five epochs of linear rise, a tenth after 160 and again after 180 of 200."""
    schedule = Schedule("multistep", (0.8, 0.9), 0.1, warmup_epochs=5)
    factors = [schedule.factor(epoch, 200) for epoch in range(200)]
    assert factors[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert factors[159:161] == pytest.approx([1.0, 0.1]) and factors[179:181] == pytest.approx([0.1, 0.01])


@pytest.mark.parametrize("warmup", [0, 10])
def test_cosine_falls_from_one_towards_zero(warmup: int) -> None:
    schedule = Schedule("cosine", warmup_epochs=warmup)
    factors = [schedule.factor(epoch, 160) for epoch in range(160)][warmup:]
    assert factors[0] == 1.0 and factors[len(factors) // 2] == pytest.approx(0.5)
    assert 0 < factors[-1] < 0.001 and factors == sorted(factors, reverse=True)


def test_few_epochs_constant_and_unknown() -> None:
    assert [Schedule().factor(epoch, 4) for epoch in range(4)] == pytest.approx([1, 1, 0.1, 0.01])
    assert Schedule().factor(0, 1) == 1.0 and Schedule("multistep", (0.2,)).factor(0, 2) == 1.0  # none is complete yet
    assert Schedule("constant").factor(99, 100) == 1.0
    with pytest.raises(ValueError, match=r'"step" is unknown. Valid choices: multistep, cosine, constant'):
        Schedule("step")


# --- the loop ------------------------------------------------------------------------------------------------------


class Spy(SupervisedPlugin):
    """Calls functions at hooks, with the strategy."""

    def __init__(self, **hooks: Any) -> None:
        super().__init__()
        for name, function in hooks.items():
            setattr(self, name, lambda strategy, function=function, **kwargs: function(strategy))


def spied(recipe: Recipe, epochs: int = 2, experiences: int = 3, **hooks: Any) -> Trained:
    bench = Workbench(recipe)
    trained = bench.start(epochs=epochs)
    trained.learner.plugins.append(Spy(**hooks))
    bench.go_on(trained, range(experiences))
    return trained


def test_the_optimiser_is_fresh_in_every_experience_and_follows_the_schedule() -> None:
    optimisers: list[Any] = []
    rates: list[float] = []

    def first_step(strategy: Any) -> None:
        if not any(strategy.optimizer is optimiser for optimiser in optimisers):
            assert not strategy.optimizer.state  # no momentum of the experience before
            optimisers.append(strategy.optimizer)
        if strategy.clock.train_epoch_iterations == 0:
            rates.append(strategy.optimizer.param_groups[0]["lr"])

    spied(Replay(), epochs=4, before_update=first_step)
    assert len(optimisers) == 3
    assert rates == pytest.approx([LR * Schedule("cosine").factor(epoch, 4) for epoch in range(4)] * 3)


def test_settings_reach_the_optimiser_and_frozen_rows_do_not() -> None:
    def look(strategy: Any) -> None:
        (group,) = strategy.optimizer.param_groups
        assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 5e-4, False)
        head = strategy.model.head
        ids = {id(p) for p in group["params"]}
        assert id(head.old) not in ids and {id(head.new), id(head.eta)} <= ids
        assert ids == {id(p) for p in strategy.model.parameters() if p.requires_grad}
        nonlocal_before.setdefault(strategy.experience.current_experience, head.old.detach().clone())
        assert torch.equal(head.old, nonlocal_before[strategy.experience.current_experience])  # not even weight decay

    nonlocal_before: dict[int, Tensor] = {}
    spied(LUCIR(), after_update=look)
    assert [len(rows) for rows in nonlocal_before.values()] == [0, 3, 6]


def test_every_image_is_seen_once_an_epoch_exemplars_included() -> None:
    seen: list[list[int]] = []

    def count(strategy: Any) -> None:
        seen[-1] += strategy.mb_y.tolist()

    trained = spied(
        Replay(),
        before_training_epoch=lambda s: seen.append([]),
        before_forward=count,
        after_training_epoch=lambda s: None,
    )
    new, kept = [COUNTS[:3], COUNTS[3:6], COUNTS[6:]], [min(3, n) for n in COUNTS]
    for t in range(3):
        expected = [*kept[: 3 * t], *new[t]]
        for epoch in seen[2 * t : 2 * t + 2]:
            assert [epoch.count(label) for label in range(len(expected))] == expected
    assert seen[0] != seen[1]  # another order
    assert trained.learner.images_trained == 2 * (sum(kept[:6]) + sum(new[2]))


def test_on_epoch_tells_progress_and_mean_loss() -> None:
    told: list[tuple[int, int, float, int]] = []
    losses: list[float] = []
    bench = Workbench(Finetune())
    trained = bench.start(epochs=2)
    trained.learner.on_epoch = lambda *event: told.append(event)
    trained.learner.plugins.append(Spy(after_update=lambda strategy: losses.append(strategy.loss.item())))
    bench.go_on(trained, [0])
    steps, images = math.ceil(38 / BATCH_SIZE), sum(COUNTS[:3])
    assert [event[:2] + event[3:] for event in told] == [(1, 2, images), (2, 2, 2 * images)]
    assert told[0][2] == pytest.approx(sum(losses[:steps]) / steps) and told[1][2] < told[0][2]


@pytest.mark.parametrize("after", [1, 4])
def test_early_stopping_ends_one_experience(after: int) -> None:
    """Also where one call trains the whole stream, and where it is asked for in the last epoch."""
    epochs: list[int] = []

    def stop_once(strategy: Any) -> None:
        epochs[-1] += 1
        if len(epochs) == 1 and epochs[0] == after:
            strategy.stop_training()

    trained = Workbench(Finetune()).start(epochs=4)
    spy = Spy(before_training_exp=lambda strategy: epochs.append(0), after_training_epoch=stop_once)
    trained.learner.plugins.append(spy)
    trained.learner.train(trained.stream.train_stream, eval_streams=[])
    assert epochs == [after, 4, 4]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run(bad: float) -> None:
    def spoil(strategy: Any) -> None:
        if strategy.experience.current_experience == 1 and strategy.epoch == 1:
            strategy.loss = strategy.loss * bad

    with pytest.raises(NonFiniteLossError, match=f"the loss became {bad} in epoch 2 of experience 1"):
        spied(Finetune(), before_backward=spoil)


def test_a_last_step_that_diverges_stops_the_run() -> None:
    """No loss comes after it."""

    def spoil(strategy: Any) -> None:
        if strategy.epoch == 2:  # of 2: the last is complete
            with torch.no_grad():
                strategy.model.head.linear.bias[0] = torch.inf

    with pytest.raises(NonFiniteLossError, match="the last step of experience 0 left parameters"):
        spied(Finetune(), after_training_epoch=spoil)


@pytest.mark.parametrize("name", ["replay", "lucir", "bic"])
def test_evaluation_between_experiences_grows_nothing_and_changes_nothing(name: str) -> None:
    bench = Workbench(registry.get(name)())
    trained = bench.start(epochs=2)
    for t in range(3):
        bench.go_on(trained, [t])
        before = copied(trained.weights)
        trained.learner.eval(trained.stream.test_stream)  # classes to come as well
        trained.learner.predict(seen_tests(trained.stream, 2))
        assert not differences(before, trained.weights)
        assert trained.learner.model.head.num_classes == 3 * (t + 1)
    plain = bench.train(epochs=2)
    assert not differences(plain.weights, trained.weights)


def test_every_experience_is_seeded_on_its_own() -> None:
    """New head rows and batches of an experience depend on the seed and its number, not on what ran before."""
    rows: dict[str, list[Tensor]] = {"plain": [], "disturbed": []}
    for name in rows:
        bench = Workbench(Finetune())
        trained = bench.start(epochs=1)
        spy = Spy(
            before_training_epoch=lambda s, n=name: rows[n].append(s.model.head.linear.weight[-3:].detach().clone())
        )
        trained.learner.plugins.append(spy)
        for t in range(2):
            if name == "disturbed":
                torch.rand(100 + t)
            bench.go_on(trained, [t])
    assert all(torch.equal(a, b) for a, b in zip(rows["plain"], rows["disturbed"], strict=True))
    assert not torch.equal(rows["plain"][0], rows["plain"][1])


def test_derived_seeds_are_stable_and_distinct() -> None:
    assert derive_seed(0, 1) == derive_seed(0, 1) == 9034587163810503764
    seeds = {derive_seed(a, b) for a in range(30) for b in [*range(30), "network"]}
    assert len(seeds) == 930 and all(0 <= seed < 2**63 for seed in seeds)


def test_bf16_keeps_losses_and_head_in_fp32() -> None:
    dtypes: set[Any] = set()

    def look(strategy: Any) -> None:
        model = strategy.model
        dtypes.add((model.last_features.dtype, strategy.mb_output.dtype, strategy.loss.dtype))
        with strategy.autocast():
            dtypes.add(("backbone", model.backbone(strategy.mb_x).dtype))
        assert model.head.linear.weight.grad.dtype == torch.float32

    bench = Workbench(registry.get("dgr")())
    trained = bench.start(epochs=1)
    trained.learner.precision = "bf16"
    trained.learner.plugins.append(Spy(before_update=look))
    bench.go_on(trained, range(2))
    assert dtypes == {(torch.float32,) * 3, ("backbone", torch.bfloat16)}
    assert all(math.isfinite(loss) for loss in trained.losses)


# --- stages --------------------------------------------------------------------------------------------------------


def stage(**changes: Any) -> Stage:
    """Trains the head's bias alone on the experience's data."""
    settings = {
        "name": "bias",
        "epochs": 2,
        "batch_size": 8,
        "lr": 0.1,
        "data": lambda strategy: strategy.experience.dataset,
        "parameters": lambda strategy: [strategy.model.head.linear.bias],
        "loss": lambda strategy, features, logits, targets: strategy._criterion(strategy.model.head(features), targets),
    }
    return Stage(**{**settings, **changes})


def test_a_stage_trains_its_parameters_and_nothing_else() -> None:
    bench = Workbench(Finetune())
    trained = bench.start(epochs=1)
    bench.go_on(trained, [0])
    learner = trained.learner
    learner.experience = trained.stream.train_stream[0]
    learner.model.train()
    before = copied(trained.weights)
    learner.model.compute.reset()
    stage().run(learner, torch.Generator().manual_seed(0))
    images = sum(COUNTS[:3])
    assert learner.model.compute == Compute(frozen=images, stage_steps=2 * math.ceil(images / 8))
    assert differences(before, trained.weights) == ["head.linear.bias"]  # no batch statistics either
    assert learner.model.training
    again = copied(trained.weights)
    learner.model.load_state_dict(before)
    stage().run(learner, torch.Generator().manual_seed(0))
    assert not differences(again, trained.weights)


def test_a_stage_skips_freezes_again_and_follows_its_schedule() -> None:
    bench = Workbench(Finetune())
    trained = bench.start(epochs=1)
    bench.go_on(trained, [0])
    learner = trained.learner
    learner.experience = trained.stream.train_stream[0]
    before = copied(trained.weights)
    learner.model.compute.reset()
    stage(data=lambda strategy: None).run(learner, torch.Generator())
    assert learner.model.compute == Compute()
    stage(lr=0.0).run(learner, torch.Generator())
    stage(schedule=Schedule("multistep", (0.0,), gamma=0.0)).run(learner, torch.Generator())
    assert not differences(before, trained.weights)
    bias = learner.model.head.linear.bias.requires_grad_(False)
    stage().run(learner, torch.Generator())
    assert differences(before, trained.weights) == ["head.linear.bias"] and not bias.requires_grad


def trained_once() -> Any:
    """A learner behind its first experience, as a stage finds it."""
    bench = Workbench(Finetune())
    trained = bench.start(epochs=1)
    bench.go_on(trained, [0])
    trained.learner.experience = trained.stream.train_stream[0]
    return trained.learner


def whole_network(**changes: Any) -> Stage:
    settings = {
        "batches": Images,
        "parameters": lambda strategy: list(strategy.model.parameters()),
        "loss": lambda strategy, x, targets: strategy._criterion(strategy.model(x), targets),
    }
    return stage(**{**settings, **changes})


def test_a_stage_may_train_the_whole_network_and_repeats_from_its_beginning() -> None:
    learner = trained_once()
    before = copied(learner.model.state_dict())
    learner.model.compute.reset()
    whole_network().run(learner, torch.Generator().manual_seed(0))
    images = sum(COUNTS[:3])
    assert learner.model.compute == Compute(trained=2 * images, stage_steps=2 * math.ceil(images / 8))
    after = copied(learner.model.state_dict())
    assert set(differences(before, after)) == set(before)  # batch statistics as well
    assert all(p.grad is None for p in learner.model.parameters())
    learner.model.load_state_dict(before)
    whole_network().run(learner, torch.Generator().manual_seed(0))
    assert not differences(after, learner.model.state_dict())
    learner.model.load_state_dict(before)
    whole_network().run(learner, torch.Generator().manual_seed(1))
    assert differences(after, learner.model.state_dict())


def test_a_stage_goes_on_from_a_state_of_its_progress() -> None:
    """The whole network with its batch statistics, a parameter besides, momentum, rates and the order of batches."""
    learner = trained_once()
    before = copied(learner.model.state_dict())
    scale = nn.Parameter(torch.ones(()))
    training = whole_network(
        epochs=4,
        schedule=Schedule("multistep", (0.5,)),
        parameters=lambda strategy: [*strategy.model.parameters(), scale],
        loss=lambda strategy, x, targets: strategy._criterion(scale * strategy.model(x), targets),
    )
    states = []

    def keep(progress: StageProgress) -> None:
        states.append(copy.deepcopy(progress.state_dict()))

    learner.model.compute.reset()
    training.run(learner, torch.Generator().manual_seed(0), on_epoch=keep)
    end, scaled, compute = copied(learner.model.state_dict()), scale.detach().clone(), replace(learner.model.compute)
    assert [state["epoch"] for state in states] == [1, 2, 3, 4] and scaled != 1
    for state in states:
        learner.model.load_state_dict(before)
        with torch.no_grad():
            scale.fill_(1)
        learner.model.compute.reset()
        training.run(learner, torch.Generator(), resumed=state)
        assert not differences(end, learner.model.state_dict())
        assert scale == scaled and learner.model.compute == compute


@pytest.mark.parametrize("augments", [False, True])
def test_features_of_a_frozen_backbone_are_the_same_fresh_or_cached(augments: bool) -> None:
    """There is no augmentation here, so that all ways see the same batches; the backbone stays as it is."""
    learner = trained_once()
    learner.loader.augments = augments  # a loader that says it augments is run in every epoch
    before = copied(learner.model.state_dict())
    stage().run(learner, torch.Generator().manual_seed(0))
    cached = copied(learner.model.state_dict())
    learner.model.load_state_dict(before)

    def loss(strategy: Any, features: Tensor, targets: Tensor) -> Tensor:
        assert not features.requires_grad and strategy.model.head.training
        assert strategy.model.backbone.training is not augments
        return strategy._criterion(strategy.model.head(features), targets)

    learner.model.compute.reset()
    stage(batches=FreshFeatures, loss=loss).run(learner, torch.Generator().manual_seed(0))
    images = sum(COUNTS[:3])
    expected = Compute(frozen=(2 if augments else 1) * images, stage_steps=2 * math.ceil(images / 8))
    assert learner.model.compute == expected and learner.model.backbone.training
    assert differences(before, learner.model.state_dict()) == ["head.linear.bias"]
    assert torch.allclose(learner.model.head.linear.bias, cached["head.linear.bias"], atol=1e-5)


def test_augmented_images_are_other_features_in_every_epoch() -> None:
    learner = trained_once()
    arrays = Workbench(Finetune()).start(epochs=1).arrays
    learner.loader = ArrayLoader(learner.loader.images, arrays, "crop")
    sums: list[float] = []

    def loss(strategy: Any, features: Tensor, targets: Tensor) -> Tensor:
        sums.append(float(features.double().sum()))
        return strategy._criterion(strategy.model.head(features), targets)

    everything = stage(batches=FreshFeatures, loss=loss, batch_size=100)
    everything.run(learner, torch.Generator().manual_seed(0))
    everything.run(learner, torch.Generator().manual_seed(0))
    assert len(sums) == 4 and sums[0] != pytest.approx(sums[1], rel=1e-4) and sums[:2] == sums[2:]


@pytest.mark.parametrize("cached", [False, True])
def test_features_come_in_the_order_a_stage_is_given(cached: bool) -> None:
    learner, visited = trained_once(), []
    learner.loader.augments = not cached

    def loss(strategy: Any, features: Tensor, targets: Tensor) -> Tensor:
        visited.extend(targets.tolist())
        return strategy._criterion(strategy.model.head(features), targets)

    def batches(*args: Any) -> FreshFeatures:
        return FreshFeatures(*args, order=lambda targets, generator: [len(targets) - 1, 0, 0])

    stage(batches=batches, loss=loss, epochs=1).run(learner, torch.Generator())
    assert visited == [2, 0, 0]


def test_a_stage_visits_images_in_the_order_it_is_given() -> None:
    visited: list[int] = []

    def loss(strategy: Any, x: Tensor, targets: Tensor) -> Tensor:
        visited.extend(targets.tolist())
        return strategy._criterion(strategy.model(x), targets)

    def rarest_first(targets: Any, generator: Any) -> list[int]:
        return [*range(len(targets))[::-1], 0]

    def batches(*args: Any) -> Images:
        return Images(*args, order=rarest_first)

    learner = trained_once()
    learner.model.compute.reset()
    whole_network(batches=batches, loss=loss, epochs=1).run(learner, torch.Generator())
    assert learner.model.compute.trained == len(visited) == sum(COUNTS[:3]) + 1
    assert visited == [2] * COUNTS[2] + [1] * COUNTS[1] + [0] * (COUNTS[0] + 1)


def test_a_stage_gives_groups_their_own_rates_and_changes_gradients_before_the_step() -> None:
    learner = trained_once()
    linear = learner.model.head.linear
    before = copied(learner.model.state_dict())
    seen: list[tuple[int, int, int]] = []

    def ones(parameters: Any, epoch: int, images: int, generator: torch.Generator) -> None:
        seen.append((len(parameters), epoch, images))
        for p in parameters:
            p.grad.fill_(1.0)

    stage(
        epochs=2,
        batch_size=100,
        momentum=0.0,
        schedule=Schedule("multistep", (0.5,), gamma=0.5),
        parameters=lambda strategy: [{"params": [linear.bias]}, {"params": [linear.weight], "lr": 0.01}],
        after_backward=ones,
    ).run(learner, torch.Generator())
    assert seen == [(2, 0, sum(COUNTS[:3])), (2, 1, sum(COUNTS[:3]))]
    moved = {key: before[key] - value for key, value in learner.model.state_dict().items()}
    assert torch.allclose(moved["head.linear.bias"], torch.tensor(0.15), atol=1e-6)
    assert torch.allclose(moved["head.linear.weight"], torch.tensor(0.015), atol=1e-6)


def test_a_stage_has_no_gradient_for_anything_else_and_restores_what_was_trained() -> None:
    learner = trained_once()
    model = learner.model
    model.zero_grad()
    model.backbone.stages[0][0].weight.requires_grad_(False)
    trainable = {name: p.requires_grad for name, p in model.named_parameters()}

    def look(parameters: Any, *_: Any) -> None:
        assert [name for name, p in model.named_parameters() if p.grad is not None] == ["head.linear.bias"]

    whole_network(parameters=lambda s: [model.head.linear.bias], after_backward=look).run(learner, torch.Generator())
    assert trainable == {name: p.requires_grad for name, p in model.named_parameters()}
    with pytest.raises(ZeroDivisionError):
        whole_network(loss=lambda *batch: 1 / 0).run(learner, torch.Generator())  # type: ignore[arg-type, return-value]
    assert trainable == {name: p.requires_grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_stage_that_diverges_stops_the_run(bad: float) -> None:
    """In the last experience nothing else would tell: scores that are no numbers make the first class win."""
    learner = trained_once()
    spoiled = stage(loss=lambda strategy, features, logits, targets: bad * strategy.model.head(features).sum())
    with pytest.raises(NonFiniteLossError, match='the second stage "bias" of experience 0 diverged'):
        StageRunner([stage(), spoiled]).after_training_exp(learner)


def test_a_stage_trains_under_a_stock_template() -> None:
    torch.manual_seed(0)
    backbone: Any = backbones.build("convnet")
    model = IncrementalNetwork(backbone, LinearHead(backbone.num_features))
    stages = [
        whole_network(data=lambda s: s.adapted_dataset, lr=0.0),
        stage(batches=FreshFeatures, data=lambda s: s.adapted_dataset, loss=lambda s, f, y: s.model.head(f).sum()),
    ]
    strategy = SupervisedTemplate(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), 0.0),
        plugins=[StageRunner(stages)],
        train_mb_size=16,
        evaluator=EvaluationPlugin(),
    )
    strategy.train(foreign_benchmark().train_stream[0], eval_streams=[])
    assert model.head.linear.bias[SHUFFLED_IDS[:3]].max() < -5 and model.training  # every step pushed it down


def test_stages_run_after_every_plugin() -> None:
    order: list[str] = []
    parts = Finetune().build(Context(4, nn.Identity()))
    parts.plugins.append(Spy(after_training_exp=lambda strategy: order.append("plugin")))
    parts.stages.append(stage(data=lambda strategy: order.append("stage")))
    plugins = parts.all_plugins()
    assert isinstance(plugins[-1], StageRunner)
    for plugin in plugins:
        plugin.after_training_exp(SimpleNamespace(experience=SimpleNamespace(current_experience=0)))  # type: ignore[attr-defined]
    assert order == ["plugin", "stage"]


# --- the network ---------------------------------------------------------------------------------------------------


def network(num_classes: int = 3) -> IncrementalNetwork:
    made = IncrementalNetwork(backbones.build("convnet"), LinearHead(backbones.build("convnet").num_features))
    made.head.adaptation(SimpleNamespace(classes_in_this_experience=list(range(num_classes))))
    return made


def test_a_copy_shares_nothing_with_its_network() -> None:
    model, x = network(), torch.randn(4, 3, 8, 8)
    expected = model.eval()(x)
    teacher = copy.deepcopy(model)
    assert teacher.last_features is None and torch.equal(teacher(x), expected)
    with torch.no_grad():
        for value in model.state_dict().values():
            value.add_(1)
    assert torch.equal(teacher(x), expected) and not torch.allclose(model(x), expected)


@pytest.mark.parametrize("name", ["convnet", "resnet20"])
def test_kept_maps_are_those_of_the_training_pass(name: str) -> None:
    backbone: Any = backbones.build(name, last_relu=False)
    model, x = IncrementalNetwork(backbone, LinearHead(backbone.num_features)), torch.randn(4, 3, 8, 8)
    model.head.adaptation(SimpleNamespace(classes_in_this_experience=[0, 1]))
    plain = model(x)
    assert model.last_maps is None
    model.keep_maps()
    assert torch.equal(model(x), plain) and model.last_features is not None and model.last_maps is not None
    assert torch.equal(model.last_maps[-1].mean(dim=(2, 3)), model.last_features) and model.last_maps[0].requires_grad
    kept = model.last_maps
    teacher = Teacher()
    teacher.snapshot(model)
    maps, features = teacher.maps_and_features(x)
    assert not features.requires_grad and [m.shape for m in maps] == [m.shape for m in kept]
    expected = model.eval()(x)
    assert model.last_maps is kept  # evaluation leaves none
    assert torch.equal(model.classify(features), expected) and not torch.equal(maps[0], kept[0])


def test_maps_need_a_backbone_that_gives_them() -> None:
    with pytest.raises(ValueError, match=r"the backbone Flatten has no forward_maps"):
        IncrementalNetwork(nn.Flatten(), LinearHead(4)).keep_maps()


def test_kept_maps_survive_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []

    def compile(module: Any, **kwargs: Any) -> Any:
        compiled.append(module.__name__)
        return module

    monkeypatch.setattr(torch, "compile", compile)
    model = network()
    keys = list(model.state_dict())
    model.compile_backbone(batch_size=4)
    model.keep_maps()
    model.keep_maps()
    assert list(model.state_dict()) == keys
    model(torch.randn(4, 3, 8, 8))
    assert compiled == ["forward", "forward_maps"] and model.last_maps is not None and len(model.last_maps) == 4


def test_reset_brings_back_the_first_weights_and_forgets_classes() -> None:
    model = network()
    first = copied(model.backbone.state_dict())
    with torch.no_grad():
        for value in model.state_dict().values():
            value.add_(1)
    model.reset()
    assert not differences(first, model.backbone.state_dict()) and model.head.num_classes == 0


def test_a_backbone_that_cannot_be_compiled_runs_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(module: Any, **kwargs: Any) -> Any:
        def fail(x: Tensor) -> Tensor:
            raise RuntimeError("no compiler\nsecond line")

        return fail

    model, x = network(), torch.randn(4, 3, 8, 8)
    monkeypatch.setattr(torch, "compile", broken)
    model.compile_backbone(batch_size=4)
    model(x[:2])  # another batch size never goes through the compiler
    with pytest.warns(UserWarning, match="the backbone runs uncompiled: no compiler$"):
        logits = model(x)
    assert logits.shape == (4, 3) and model._compiled is None


# --- foreign benchmarks; test_stock.py has the others ------------------------------------------------------


@pytest.mark.parametrize("name", ["finetune", "replay", "icarl", "dgr"])
def test_our_learner_trains_on_a_foreign_benchmark(name: str) -> None:
    torch.manual_seed(0)
    recipe, stream = registry.get(name)(), foreign_benchmark()
    backbone: Any = backbones.build("convnet", recipe.last_relu)
    parts = recipe.build(Context(backbone.num_features, backbone, MemoryPolicy(4), 0, 6, 16, LR))
    learner = IncrementalLearner(
        network=IncrementalNetwork(backbone, parts.head),
        parts=parts,
        optimisation=Optimisation(6, 16, LR),
        loader=ArrayLoader(None, None, "crop"),
    )
    for experience in stream.train_stream:
        learner.train(experience, eval_streams=[])
    tests = [experience.dataset for experience in stream.test_stream]
    correct = 0
    for dataset in tests:
        scores = next(iter(learner.predict(dataset).values()))
        assert scores.shape == (15, 9)
        correct += int((scores.argmax(dim=1).cpu() == torch.tensor(list(dataset.targets))).sum())
    assert correct / 45 > (
        CHANCE if name == "finetune" else 2 * CHANCE
    )  # finetuning keeps a third of the classes at most
