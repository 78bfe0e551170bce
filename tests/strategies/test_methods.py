"""Methods: worked numbers, equivalences in their limits, and that every part of a method matters."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor

from benchmark.contract import workbench
from benchmark.contract.probes import copied, differences
from benchmark.contract.workbench import FROM_SCRATCH, MEMORY, Trained, Workbench, patterns
from benchmark.streams import long_tailed_benchmark
from strategies import registry
from strategies.adaprior import LUCIRAdaPrior
from strategies.balanced_softmax import BalancedSoftmaxReplay
from strategies.bic import BiC, ValidationSplitPlugin
from strategies.dgr.recipes import DGR, DGRStatic
from strategies.dgr.reweighting import StaticReweightingPlugin
from strategies.finetune import Finetune
from strategies.gdumb import GDumb
from strategies.gvalign import LUCIRGVAlign
from strategies.icarl import ICaRL
from strategies.il2m import IL2M
from strategies.joint import Joint, JointBalancedSoftmax
from strategies.lucir import LUCIR, LessForgetPlugin, imprinted_weight
from strategies.lwf import LearningWithoutForgetting
from strategies.ncm import NCM
from strategies.networks.heads import CosineHead, LinearHead
from strategies.replay import Replay
from strategies.ssil import SSIL
from strategies.training.criteria import NewCrossEntropy, SeenCrossEntropy
from strategies.training.distillation import ClassShareDistillationPlugin, TeacherPlugin
from strategies.training.losses import distillation_loss
from strategies.training.recipe import Context, MemoryPolicy, Parts, Recipe
from strategies.wa import WA, WeightAligningPlugin, weight_aligning_factor

# --- worked numbers (methods, sec. 6) -------------------------------------------------------------------------------


def arrived(*sizes: int) -> list[Any]:
    """Experiences with that many classes each, numbered in order of arrival."""
    starts = [sum(sizes[:t]) for t in range(len(sizes))]
    return [
        SimpleNamespace(classes_in_this_experience=list(range(start, start + size)), current_experience=t)
        for t, (start, size) in enumerate(zip(starts, sizes, strict=True))
    ]


def test_weight_aligning_worked_example() -> None:
    weight = torch.tensor([[3.0, 4.0], [6.0, 8.0], [9.0, 12.0], [0.0, 15.0]])
    factor = weight_aligning_factor(weight, 2)
    assert factor.item() == 0.5
    aligned = torch.cat([weight[:2], factor * weight[2:]])
    assert aligned[2:].tolist() == [[4.5, 6.0], [0.0, 7.5]]
    assert weight_aligning_factor(aligned, 2).item() == 1.0


@pytest.mark.parametrize("num_old", [0, 4])
def test_weight_aligning_needs_both_groups(num_old: int) -> None:
    with pytest.raises(ValueError, match=f"needs old and new rows, got num_old = {num_old} of 4"):
        weight_aligning_factor(torch.ones(4, 2), num_old)


@pytest.mark.parametrize("shuffled", [False, True])
def test_weight_aligning_scales_new_rows_once_and_leaves_the_bias(shuffled: bool) -> None:
    experiences = arrived(2, 2)
    if shuffled:
        experiences[0].classes_in_this_experience, experiences[1].classes_in_this_experience = [3, 0], [4, 1]
    old, new = (experience.classes_in_this_experience for experience in experiences)
    head, plugin = LinearHead(2), WeightAligningPlugin()
    strategy = SimpleNamespace(model=SimpleNamespace(head=head))
    for strategy.experience in experiences:
        head.adaptation(strategy.experience)
        plugin.before_training_exp(strategy)
        if strategy.experience is experiences[0]:
            before = head.linear.weight.detach().clone()
            plugin.after_training_exp(strategy)
            assert torch.equal(head.linear.weight, before)  # nothing to align yet
    with torch.no_grad():
        head.linear.weight[old] = torch.tensor([[3.0, 4.0], [6.0, 8.0]])
        head.linear.weight[new] = torch.tensor([[9.0, 12.0], [0.0, 15.0]])
    bias, others = head.linear.bias.clone(), sorted(set(range(len(head.linear.weight))) - {*old, *new})
    untouched = head.linear.weight[others].clone()
    for _ in range(2):  # the second time the norms are equal and nothing changes
        plugin.after_training_exp(strategy)
        assert head.linear.weight[new].tolist() == [[4.5, 6.0], [0.0, 7.5]]
        assert head.linear.weight[old].tolist() == [[3.0, 4.0], [6.0, 8.0]]
    assert torch.equal(head.linear.bias, bias) and torch.equal(head.linear.weight[others], untouched)


def test_imprinting_worked_example() -> None:
    row = imprinted_weight(torch.tensor([[3.0, 0.0], [0.0, 5.0]]), torch.tensor(2.0))
    assert row.tolist() == pytest.approx([1.414214, 1.414214], abs=1e-6)


@pytest.mark.parametrize(
    ("step", "values"),
    [
        (10, [11.180, 12.247, 13.229, 14.142, 15.000]),
        (5, [15.811, 16.583, 17.321, 18.028, 18.708, 19.365, 20.000, 20.616, 21.213, 21.794]),
    ],
)
def test_adaptive_lambda_grows_along_the_stream(step: int, values: list[float]) -> None:
    """lambda_base sqrt(C_o / C_n); the printed equation has the fraction upside down."""
    plugin = LessForgetPlugin(5.0, adaptive=True, margin=None, k=2, imprint=False)
    constant = LessForgetPlugin(5.0, adaptive=False, margin=None, k=2, imprint=False)
    found = []
    for experience in arrived(50, *[step] * len(values)):
        plugin.seen.update(experience)
        constant.seen.update(experience)
        found.append(plugin.weight)
        assert constant.weight == 5.0
    assert found[0] == 0.0 and found[1:] == pytest.approx(values, abs=5e-4)


def test_less_forget_and_margin_terms_add_up() -> None:
    """CE + lambda 0.166447 (worked example) + margin term on unscaled cosines."""
    head = CosineHead(2)
    for experience in arrived(1, 1):
        head.adaptation(experience)
    with torch.no_grad():
        head.old.copy_(torch.tensor([[1.0, 0.0]]))
        head.new.copy_(torch.tensor([[0.0, 1.0]]))
        head.eta.fill_(9.0)  # must not reach the margin
    student, teacher = torch.tensor([[1.0, 0.0], [3.0, 4.0]]), torch.tensor([[1.0, 1.0], [4.0, 3.0]])
    strategy = SimpleNamespace(
        model=SimpleNamespace(head=head, last_features=student), mb_y=torch.tensor([0, 0]), experience=None
    )
    for margin, term in ((None, 0.0), (0.5, (0.0 + 0.5 - 0.6 + 0.8) / 2)):
        plugin = LessForgetPlugin(5.0, adaptive=True, margin=margin, k=2, imprint=False)
        for experience in arrived(1, 1):
            plugin.seen.update(experience)
        plugin.teacher_outputs = lambda strategy: (teacher, None)  # type: ignore[method-assign, assignment, return-value]
        loss = plugin.combine(strategy, torch.tensor(2.0))
        assert loss.item() == pytest.approx(2.0 + 5.0 * 0.166447 + term, abs=1e-5)


def test_bic_stage_1_worked_example() -> None:
    """methods, 6.4: 0.5 CE + 0.5 KD on the uncorrected logits."""
    plugin = ClassShareDistillationPlugin()
    for experience in arrived(2, 2):
        plugin.seen.update(experience)
    plugin.teacher_outputs = lambda strategy: (None, torch.tensor([[0.5, 1.5]]))  # type: ignore[method-assign, assignment, return-value]
    strategy = SimpleNamespace(mb_output=torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    assert plugin.distillation(strategy).item() == pytest.approx(0.662847, abs=1e-6)
    cross_entropy = torch.nn.functional.cross_entropy(strategy.mb_output, torch.tensor([3]))
    assert cross_entropy.item() == pytest.approx(0.440190, abs=1e-6)
    assert plugin.combine(strategy, cross_entropy).item() == pytest.approx(0.551519, abs=1e-6)


@pytest.mark.parametrize(("budget", "wanted"), [(20, 2), (30, 3), (5, 1)])
def test_bic_validation_is_balanced_and_never_a_class_s_last_image(budget: int, wanted: int) -> None:
    bench = Workbench(BiC())
    memory = MemoryPolicy(budget, "per_class", "random")
    trained = bench.start(memory=memory, epochs=1)
    split = next(plugin for plugin in trained.learner.plugins if isinstance(plugin, ValidationSplitPlugin))
    sizes: list[tuple[int, int]] = []

    class Look(SupervisedPlugin):
        def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
            if split.validation is None:
                return
            images = [list(data.sample_index) for data in (split.validation, strategy.adapted_dataset)]
            assert not set(images[0]) & set(images[1])
            held = [list(map(int, split.validation.targets)).count(c) for c in range(9)]
            kept = [list(map(int, strategy.adapted_dataset.targets)).count(c) for c in range(9)]
            seen = sum(FROM_SCRATCH[: strategy.experience.current_experience + 1])
            new = seen - 3
            have = [min(budget, n) if c < new else n for c, n in enumerate(workbench.COUNTS[:seen])]
            assert held[:seen] == [min(wanted, n - 1) for n in have]
            assert [a + b for a, b in zip(held, kept, strict=True)][:seen] == have
            sizes.append((len(split.validation), len(strategy.adapted_dataset)))

    trained.learner.plugins.append(Look())
    bench.go_on(trained, range(3))
    assert len(sizes) == 2


@pytest.mark.parametrize("name", registry.names())
def test_a_stream_of_single_images_trains(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing to validate on, one exemplar per class, a batch of new classes that never had more."""
    monkeypatch.setattr(workbench, "COUNTS", (3, 2, 1, 1, 1, 1, 1, 1, 1))
    trained = Workbench(of(name)).train(memory=MemoryPolicy(1), epochs=1)
    assert all(math.isfinite(loss) for loss in trained.losses) and len(trained.losses) == trained.epochs > 0


def test_a_masked_loss_without_new_images_is_zero() -> None:
    """Tiny experiences leave batches of exemplars alone; the mean over no image must not be nan."""
    criterion = NewCrossEntropy()
    for experience in arrived(2, 2):
        criterion.seen.update(experience)
    logits = torch.randn(3, 4, requires_grad=True)
    loss = criterion(logits, torch.tensor([0, 1, 1]))
    loss.backward()
    assert loss.item() == 0.0 and logits.grad is not None and not logits.grad.any()
    mixed = criterion(logits, torch.tensor([0, 3, 2]))
    assert torch.equal(mixed, torch.nn.functional.cross_entropy(logits[1:, 2:], torch.tensor([1, 0])))


def test_lwf_masked_survives_batches_of_exemplars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbench, "COUNTS", (20, 20, 20, 1, 1, 1, 1, 1, 1))
    recipe = LearningWithoutForgetting(masked=True)
    trained = Workbench(recipe).train(memory=MemoryPolicy(20), epochs=2)
    assert all(math.isfinite(loss) for loss in trained.losses) and len(trained.losses) == 6


# --- equivalences --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Composed(Recipe):
    """Parts put together by hand."""

    name: ClassVar[str] = "composed"
    make: Callable[[Context], Parts]

    def build(self, context: Context) -> Parts:
        return self.make(context)


def compose(head: Callable[[int], Any], *plugins: Callable[[Context], Any]) -> Composed:
    return Composed(
        make=lambda context: Parts(
            head=head(context.num_features), criterion=SeenCrossEntropy(), plugins=[make(context) for make in plugins]
        )
    )


_ENDS: dict[Any, Trained] = {}


def end_of(recipe: Recipe, memory: MemoryPolicy = MEMORY, epochs: int = 3) -> Trained:
    """The recipe trained on the tiny stream; equal recipes are trained once."""
    key = (type(recipe), recipe, memory, epochs)
    if key not in _ENDS:
        _ENDS[key] = Workbench(recipe).train(memory=memory, epochs=epochs)
    return _ENDS[key]


def changes(one: Trained, other: Trained) -> list[str]:
    """Where two runs differ, bit for bit: weights, and predictions after every experience."""
    found = differences(one.weights, other.weights)
    for first, second in zip(one.predictions, other.predictions, strict=True):
        found += differences(first, second)
    return found


def exemplars(context: Context) -> Any:
    return context.exemplars()


def test_lwf_without_distillation_is_replay() -> None:
    assert not changes(end_of(LearningWithoutForgetting(weight=0.0)), end_of(Replay()))


def test_replay_without_memory_is_finetuning() -> None:
    empty = MemoryPolicy(0, "per_class", "herding")
    assert not changes(end_of(Replay(), empty), end_of(Finetune()))


def test_icarl_trains_as_lwf_and_predicts_by_means() -> None:
    icarl, lwf = end_of(ICaRL()), end_of(LearningWithoutForgetting())
    assert not differences(icarl.weights, lwf.weights)
    assert torch.equal(icarl.predictions[-1]["head"], lwf.predictions[-1]["head"])
    assert list(icarl.predictions[-1]) == ["nme", "head"] and list(lwf.predictions[-1]) == ["head"]
    assert not torch.equal(icarl.predictions[-1]["nme"].argmax(1), icarl.predictions[-1]["head"].argmax(1))


def test_lucir_without_its_losses_is_replay_on_a_cosine_head() -> None:
    def no_losses(context: Context) -> Any:
        return LessForgetPlugin(0.0, adaptive=True, margin=None, k=2, imprint=False)

    bare = compose(CosineHead, exemplars, no_losses)
    assert not changes(end_of(bare), end_of(compose(CosineHead, exemplars)))
    frozen = compose(lambda d: CosineHead(d, freeze_old=True), exemplars, no_losses)
    assert changes(end_of(bare), end_of(frozen))


@dataclass(frozen=True, kw_only=True)
class LUCIRWithTrainedRows(LUCIR):
    """LUCIR as it is built, but that its old rows are trained."""

    def build(self, context: Context) -> Parts:
        parts = super().build(context)
        parts.head = CosineHead(context.num_features)
        return parts


@dataclass(frozen=True, kw_only=True)
class SignedComposed(Composed):
    last_relu: ClassVar[bool] = False


@pytest.mark.parametrize("frozen", [False, True])
def test_lucir_s_build_without_its_losses_is_replay_on_a_cosine_head(frozen: bool) -> None:
    recipe = LUCIR if frozen else LUCIRWithTrainedRows
    plain = compose(lambda d: CosineHead(d, freeze_old=frozen), exemplars)
    ends = end_of(recipe(lambda_base=0.0, margin=None, imprint=False)), end_of(SignedComposed(make=plain.make))
    assert not differences(ends[0].weights, ends[1].weights)
    for one, other in zip(ends[0].predictions, ends[1].predictions, strict=True):
        assert torch.equal(one["head"], other["head"])
    assert differences(end_of(recipe()).weights, ends[1].weights)


def test_bic_with_an_untrained_correction_corrects_nothing() -> None:
    plain = compose(
        LinearHead,
        lambda context: shared.setdefault("memory", context.exemplars()),
        lambda context: ValidationSplitPlugin(shared["memory"], 0.1, context.seed),
        lambda context: ClassShareDistillationPlugin(),
    )
    shared: dict[str, Any] = {}
    bic, plain_end = end_of(BiC(stage_lr=0.0)), end_of(plain)
    assert [c for c in changes(bic, plain_end) if "corrections" not in c] == []
    corrections = [value.tolist() for name, value in bic.weights.items() if "corrections" in name]
    assert corrections == [[1.0, 0.0]] * 3
    trained = [value.tolist() for name, value in end_of(BiC()).weights.items() if "corrections" in name]
    assert trained[0] == [1.0, 0.0] and [1.0, 0.0] not in trained[1:]


def test_dgr_without_its_parts_is_balanced_softmax() -> None:
    bare, plain = end_of(DGR(groups="none", distillation="none"), epochs=1), end_of(BalancedSoftmaxReplay(), epochs=1)
    for name, value in bare.weights.items():
        assert torch.allclose(value, plain.weights[name], rtol=1e-3, atol=1e-4), name


@pytest.mark.parametrize(("name", "plain"), [("ce_kd", Replay()), ("bsce_kd", BalancedSoftmaxReplay())])
def test_the_baselines_of_dgr_without_distillation_are_replay(name: str, plain: Recipe) -> None:
    ends = end_of(registry.get(name)(weight=0.0), epochs=1), end_of(plain, epochs=1)  # type: ignore[call-arg]
    for key, value in ends[0].weights.items():
        assert torch.allclose(value, ends[1].weights[key], rtol=1e-3, atol=1e-4), key
    assert changes(end_of(registry.get(name)(), epochs=1), ends[0])


def test_static_weights_are_ratios_of_image_counts() -> None:
    bench = Workbench(registry.get("dgr_static")())
    trained = bench.start(epochs=1)
    bench.go_on(trained, range(2))
    plugin = next(p for p in trained.learner.plugins if isinstance(p, StaticReweightingPlugin))
    old, new = (plugin.counts.available[s].double() for s in (slice(3), slice(3, None)))
    rho = float(new.mean() / old.mean())
    ratios = min(1.0, rho), min(1.0, rho * plugin.gamma)
    expected = torch.cat([r * n.min() / n for r, n in zip(ratios, (old, new), strict=True)])
    torch.testing.assert_close(plugin.row_factors.cpu(), expected)
    assert len(set(expected.tolist())) > 2


def test_balanced_softmax_on_equal_counts_is_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    def balanced(arrays: Any, sizes: Any = FROM_SCRATCH) -> Any:
        return long_tailed_benchmark(arrays, protocol=list(sizes), profile="conventional", max_count=6, order="ordered")

    monkeypatch.setitem(workbench.MATERIAL, "single", (workbench.patterns, balanced))
    everything = MemoryPolicy(6, "per_class", "random")
    ends = [Workbench(recipe).train(memory=everything, epochs=2) for recipe in (BalancedSoftmaxReplay(), Replay())]
    assert ends[0].losses == pytest.approx(ends[1].losses, rel=1e-4)
    for name, value in ends[0].weights.items():
        assert torch.allclose(value, ends[1].weights[name], rtol=1e-3, atol=1e-4), name
    unequal = [Workbench(recipe).train(memory=MEMORY, epochs=2) for recipe in (BalancedSoftmaxReplay(), Replay())]
    assert unequal[0].losses[:2] == pytest.approx(unequal[1].losses[:2], rel=1e-4)  # nothing old yet
    assert unequal[0].losses[2:] != pytest.approx(unequal[1].losses[2:], rel=1e-2)


def test_joint_training_from_scratch_forgets_the_weights_and_continued_training_does_not() -> None:
    starts: dict[str, list[dict[str, Tensor]]] = {}

    for mode in ("scratch", "continue"):
        trained = Workbench(Joint(mode=mode)).start(epochs=2)  # type: ignore[arg-type]
        initial = copied(trained.learner.model.backbone.state_dict())
        found = starts.setdefault(mode, [])

        class Look(SupervisedPlugin):
            def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
                starts[self.mode].append(copied(strategy.model.backbone.state_dict()))
                images = sum(workbench.COUNTS[: sum(FROM_SCRATCH[: strategy.experience.current_experience + 1])])
                assert len(strategy.adapted_dataset) == images  # all data seen so far

        look = Look()
        look.mode = mode  # type: ignore[attr-defined]
        trained.learner.plugins.append(look)
        Workbench(Joint()).go_on(trained, range(3))
        assert [bool(differences(initial, start)) for start in found] == [False] + 2 * [mode == "continue"]
    scratch, continued = end_of(Joint()), end_of(Joint(mode="continue"))
    assert torch.equal(scratch.predictions[0]["head"], continued.predictions[0]["head"])
    assert not torch.equal(scratch.predictions[1]["head"], continued.predictions[1]["head"])


def test_a_stream_without_imbalance_is_the_conventional_one() -> None:
    one = long_tailed_benchmark(patterns(), tasks=3, rho=1.0, order="shuffled")
    other = long_tailed_benchmark(patterns(), tasks=3, profile="conventional", order="shuffled")
    assert one.info == other.info and set(one.info.train_counts) == {20}


# --- every part matters --------------------------------------------------------------------------------------------

FEW_EPOCHS: dict[str, dict[str, Any]] = {  # of second stages
    "eeil": {"finetune_epochs": 3},
    "eeil_lws": {"finetune_epochs": 3, "lws_epochs": 3},
    "lucir_cbf": {"cbf_epochs": 3},
    "lucir_lws": {"lws_epochs": 3},
    "podnet": {"finetune_epochs": 3},
    "podnet_lws": {"lws_epochs": 3},
}


def of(name: str, **options: Any) -> Recipe:
    """The recipe of that name, with short stages."""
    return registry.get(name)(**{**FEW_EPOCHS.get(name, {}), **options})


OPTIONS: dict[str, dict[str, list[Any]]] = {
    "finetune": {"masked": [True]},
    "replay": {"replay_mode": ["balanced_batch"]},
    "lwf": {"weight": [0.0, 3.0], "temperature": [1.0], "masked": [True]},
    "icarl": {"loss": ["bce"], "weight": [0.0], "temperature": [1.0]},
    "bic": {"apply": ["all"], "stage_epochs": [20], "stage_lr": [0.0, 0.01]},
    "wa": {"temperature": [1.0]},
    "lucir": {
        "lambda_base": [0.0],
        "adaptive": [False],
        "margin": [None, 0.1],
        "k": [1],
        "mr_reduction": ["sum"],
        "imprint": [False],
    },
    "lucir_cn": {"weight": [0.0], "imprint": [False]},
    "lucir_cn_lc": {},
    "lucir_constant": {},
    "lucir_cbf": {"cbf_epochs": [0], "cbf_lr": [0.5]},
    "lucir_bsce": {},
    "lucir_logn": {},
    "lucir_posthoc": {"strength": [0.0]},
    "lucir_lws": {"lws_epochs": [0], "lws_lr": [0.5]},
    "eeil": {
        "weight": [0.0],
        "temperature": [1.0],
        "noise": [0.0],
        "finetune_epochs": [0],
        "finetune_lr": [0.1],
    },
    "eeil_lws": {"lws_epochs": [0], "lws_lr": [0.5]},
    "podnet": {
        "flat": [0.0],
        "spatial": [0.0],
        "proxies": [1],
        "imprint": [False],
        "clamp": [0.01],
        "loss": ["paper", "cross_entropy"],
        "margin": [],  # of the printed loss: below
        "finetune_epochs": [0],
        "finetune_lr": [0.5],
    },
    "podnet_bsce": {},
    "podnet_lws": {"lws_epochs": [0], "lws_lr": [0.5]},
    "icarl_bsce": {"loss": []},  # one value
    "il2m": {"scores": ["raw"]},
    "ssil": {"weight": [0.0, 0.25], "temperature": [1.0], "replay_share": [1.0]},
    "gdumb": {},
    "ncm": {},
    "balanced_softmax": {"replay_mode": ["balanced_batch"]},
    "dgr": {
        "groups": ["unified", "intra", "none"],
        "rule": ["symmetric"],
        "attenuation": [0.0],
        "attenuation_counts": ["classes"],
        "balance": [1.0],
        "distillation": ["vanilla", "feature", "none"],
        "weight": [0.1],
        "entropy": [0.0, 1.0],
        "reweight_distillation": [True],
    },
    "lucir_gvalign": {"mixup": [False], "stage_steps": [10], "stage_lr": [0.0, 0.01]},
    "lucir_adaprior": {"update_rate": [0.0, 0.5], "adjustment": [0.0, 1.0]},
    "joint": {"mode": ["continue"]},
    "joint_bsce": {"mode": ["continue"]},
}


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [(name, option, value) for name, options in OPTIONS.items() for option in options for value in options[option]],
)
def test_every_option_changes_the_result(name: str, option: str, value: Any) -> None:
    assert changes(end_of(of(name)), end_of(of(name, **{option: value})))


@pytest.mark.parametrize("name", OPTIONS)
def test_no_option_is_left_out(name: str) -> None:
    """Every field of its own; those of the recipe it extends are in that one's line."""
    recipe = registry.get(name)
    inherited = {option.name for base in recipe.__mro__[1:-1] for option in dataclasses.fields(base)}
    assert {option.name for option in dataclasses.fields(recipe)} - inherited <= set(OPTIONS[name])


@dataclass(frozen=True, kw_only=True)
class LUCIRWithReLU(LUCIR):
    last_relu: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class SSILWithJointSoftmax(SSIL):
    def build(self, context: Context) -> Parts:
        parts = super().build(context)
        parts.criterion = SeenCrossEntropy()
        return parts


@dataclass(frozen=True, kw_only=True)
class BiCWithoutDistillation(BiC):
    def build(self, context: Context) -> Parts:
        parts = super().build(context)
        parts.plugins = [p for p in parts.plugins if not isinstance(p, ClassShareDistillationPlugin)]
        return parts


LEFT_OUT: dict[str, tuple[Recipe, Recipe]] = {
    "lwf, distillation": (of("lwf"), Replay()),
    "icarl, distillation": (ICaRL(), ICaRL(weight=0.0)),
    "lucir, less-forget constraint": (LUCIR(), LUCIR(lambda_base=0.0)),
    "lucir, margin ranking": (LUCIR(), of("lucir_cn_lc")),
    "lucir_cn, score mimicking": (of("lucir_cn"), of("lucir_cn", weight=0.0)),
    "lucir_cn_lc, less-forget constraint": (of("lucir_cn_lc"), of("lucir_cn_lc", lambda_base=0.0)),
    "lucir_constant, constant lambda": (of("lucir_constant"), LUCIR()),
    "lucir_cbf, finetuning": (of("lucir_cbf"), LUCIR()),
    "lucir_bsce, offset": (of("lucir_bsce"), LUCIR()),
    "lucir_logn, offset": (of("lucir_logn"), LUCIR()),
    "lucir_logn, counts of the stream": (of("lucir_logn"), of("lucir_bsce")),
    "lucir_posthoc, adjustment": (of("lucir_posthoc"), of("lucir_posthoc", strength=0.0)),
    "lucir_lws, scales": (of("lucir_lws"), LUCIR()),
    "eeil, distillation": (of("eeil"), of("eeil", weight=0.0)),
    "eeil, noise": (of("eeil"), of("eeil", noise=0.0)),
    "eeil, balanced finetuning": (of("eeil"), of("eeil", finetune_epochs=0)),
    "eeil_lws, scales": (of("eeil_lws"), of("eeil_lws", lws_epochs=0)),
    "podnet, spatial distillation": (of("podnet"), of("podnet", spatial=0.0)),
    "podnet, flat distillation": (of("podnet"), of("podnet", flat=0.0)),
    "podnet, proxies": (of("podnet"), of("podnet", proxies=1)),
    "podnet, local similarity loss": (of("podnet"), of("podnet", loss="cross_entropy")),
    "podnet, margin": (of("podnet", loss="paper"), of("podnet", loss="paper", margin=0.0)),
    "podnet, balanced finetuning": (of("podnet"), of("podnet", finetune_epochs=0)),
    "podnet_bsce, offset": (of("podnet_bsce"), of("podnet", loss="cross_entropy", finetune_epochs=0)),
    "podnet_lws, scales": (of("podnet_lws"), of("podnet_lws", lws_epochs=0)),
    "icarl_bsce, offset": (of("icarl_bsce"), ICaRL()),
    "lucir_gvalign, mixup": (LUCIRGVAlign(), LUCIRGVAlign(mixup=False)),
    "dgr, reweighting": (DGR(), DGR(groups="none")),
    "dgr, distillation": (DGR(), of("dgr_no_kd")),
    "dgr, lost images in distillation": (DGR(), of("dgr_vanilla_kd")),
    "dgr, attenuation": (DGR(), of("dgr_no_attenuation")),
    "dgr, balance": (DGR(), of("dgr_no_beta")),
    "gr, one group": (of("gr"), of("gr_intra")),
    "gr_intra, no ratios": (of("gr_intra"), DGR()),
    "dgr_symmetric, symmetric rule": (of("dgr_symmetric"), DGR()),
    "dgr_mixed_kd, mixed logits alone": (of("dgr_mixed_kd"), DGR()),
    "dgr_reweighted_kd, reweighted distillation": (of("dgr_reweighted_kd"), DGR()),
    "dgr_feature_kd, distilled features": (of("dgr_feature_kd"), of("dgr_vanilla_kd")),
    "ce_kd, distillation": (of("ce_kd"), of("ce_kd", weight=0.0)),
    "bsce_kd, offset": (of("bsce_kd"), of("ce_kd")),
    "replay, memory": (Replay(), Finetune()),
    "wa, aligning": (WA(), compose(LinearHead, exemplars, lambda context: ClassShareDistillationPlugin())),
    "wa, distillation": (WA(), compose(LinearHead, exemplars, lambda context: WeightAligningPlugin())),
    "bic, distillation": (BiC(), BiCWithoutDistillation()),
    "bic, validation and correction": (
        BiC(),
        compose(LinearHead, exemplars, lambda context: ClassShareDistillationPlugin()),
    ),
    "lucir, frozen old rows": (
        LUCIR(),
        compose(CosineHead, exemplars, lambda context: LessForgetPlugin(5.0, True, 0.5, 2, True)),
    ),
    "lucir, signed features": (LUCIR(), LUCIRWithReLU()),
    "balanced_softmax, offset": (BalancedSoftmaxReplay(), Replay()),
    "joint_bsce, offset": (JointBalancedSoftmax(), Joint()),
    "dgr, offset": (DGR(), of("dgr_no_offset")),
    "il2m, rectification": (IL2M(), Replay()),
    "ssil, separated softmax": (SSIL(), SSILWithJointSoftmax()),
    "gdumb, memory alone": (GDumb(), Joint()),
    "ncm, class means": (NCM(), Finetune()),
    "lucir_gvalign, alignment": (LUCIRGVAlign(mixup=False), LUCIR()),
    "lucir_adaprior, prior": (LUCIRAdaPrior(), LUCIR()),
    "dgr, accumulated norms": (DGR(), DGRStatic()),
}


@pytest.mark.parametrize("part", LEFT_OUT)
def test_every_part_changes_the_result(part: str) -> None:
    whole, without = LEFT_OUT[part]
    ends = end_of(whole), end_of(without)
    predicted = [next(iter(end.predictions[-1].values())) for end in ends]
    assert not torch.equal(*predicted)


def test_every_method_has_a_part_that_matters() -> None:
    named = {part.partition(",")[0] for part in LEFT_OUT}
    variants = {"finetune", "dgr_no_attenuation", "dgr_no_beta", "dgr_no_offset", "dgr_vanilla_kd", "dgr_no_kd"}
    assert named | variants | {"joint", "dgr_static"} == {
        name for name in registry.NAMES if registry.get(name).task_kind == "single"
    }  # finetuning and joint training have no parts; multi-label methods are told apart in test_strategies_multilabel


@pytest.mark.parametrize("policy", [MemoryPolicy(1), MemoryPolicy(12, "total"), MemoryPolicy(3, selection="random")])
def test_the_memory_policy_reaches_the_method(policy: MemoryPolicy) -> None:
    assert changes(end_of(Replay()), end_of(Replay(), policy))


def test_imprinted_rows_point_at_their_class() -> None:
    """Before the first step new rows have the mean norm of the old ones, each its own direction."""
    bench = Workbench(LUCIR())
    trained = bench.start(epochs=3)

    class Look(SupervisedPlugin):
        looked = 0

        def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
            head = strategy.model.head
            if strategy.epoch or not len(head.old):
                return
            Look.looked += 1
            norms = head.new.norm(dim=1)
            assert torch.allclose(norms, head.old.norm(dim=1).mean().expand_as(norms), rtol=1e-4)
            assert len({round(float(row[0]), 6) for row in head.new}) == len(head.new)

    trained.learner.plugins.append(Look())
    bench.go_on(trained, range(3))
    assert Look.looked == 2


def test_bic_distils_from_the_corrected_teacher() -> None:
    """The teacher of experience 2 speaks with the correction learned after experience 1."""
    bench = Workbench(BiC(stage_epochs=20))
    trained = bench.start(epochs=1)
    plugin = next(p for p in trained.learner.plugins if isinstance(p, ClassShareDistillationPlugin))
    looked = []

    class Look(SupervisedPlugin):
        def before_backward(self, strategy: Any, **kwargs: Any) -> None:
            if strategy.experience.current_experience != 2:
                return
            teacher = plugin.teacher.model
            alpha, beta = teacher.head.corrections[-1].tolist()
            features = teacher.features(strategy.mb_x)
            raw = teacher.head.linear(features)
            expected = torch.cat([raw[:, :3], alpha * raw[:, 3:] + beta], dim=1)
            assert torch.allclose(plugin.teacher_outputs(strategy)[1], expected, atol=1e-5)
            looked.append(not math.isclose(alpha, 1.0))

    trained.learner.plugins.append(Look())
    bench.go_on(trained, range(3))
    assert looked and all(looked)


@pytest.mark.parametrize("apply", ["all", "newest"])
def test_bic_corrects_once(apply: Any) -> None:
    """With all corrections kept, distillation is least where the student is the teacher; nothing is corrected twice."""
    bench = Workbench(BiC(apply=apply, stage_epochs=20))
    trained = bench.start(epochs=1)
    plugin = next(p for p in trained.learner.plugins if isinstance(p, ClassShareDistillationPlugin))
    looked = []

    class Look(SupervisedPlugin):
        def before_forward(self, strategy: Any, **kwargs: Any) -> None:
            if strategy.experience.current_experience != 2 or looked:
                return
            teacher, head = plugin.teacher.model, strategy.model.head  # not one step yet: they have the same rows
            features = teacher.features(strategy.mb_x)
            wanted = teacher.head(features)
            student = head(features)[:, :6]
            assert head.training and not teacher.head.training
            gradient = torch.autograd.grad(distillation_loss(student, wanted), head.linear.weight)[0]
            looked.append((torch.allclose(student, wanted, atol=1e-6), float(gradient.abs().max()) < 1e-6))
            head.eval()
            untrained = head.corrections[-1].tolist() == [1.0, 0.0]
            looked.append((untrained, torch.allclose(head(features)[:, :6], wanted, atol=1e-6)))
            head.train()

    trained.learner.plugins.append(Look())
    bench.go_on(trained, range(3))
    # "newest": the teacher's columns are corrected, the student learns the corrected scale and is not corrected again
    assert looked == ([(True, True), (True, True)] if apply == "all" else [(False, False), (True, False)])


@pytest.mark.parametrize("name", ["icarl", "eeil", "bic", "wa", "ssil", "podnet", "lucir_cbf", "lucir_gvalign"])
def test_the_teacher_is_the_model_as_the_last_experience_left_it(name: str) -> None:
    """Aligned (WA), corrected (BiC), finetuned; scales and adjustments stay out of it and have tests of their own."""
    bench = Workbench(of(name))
    trained = bench.start(epochs=1)
    plugin = next(p for p in trained.learner.plugins if isinstance(p, TeacherPlugin))
    ends: list[dict[str, Tensor]] = []
    looked = []

    class Look(SupervisedPlugin):
        def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
            if ends and strategy.epoch == 0:
                teacher: Any = plugin.teacher.model
                looked.append(differences(ends[-1], teacher.state_dict()))

    trained.learner.plugins.append(Look())
    for t in range(3):
        bench.go_on(trained, [t])
        ends.append(copied(trained.weights))
    assert looked == [[], []]
