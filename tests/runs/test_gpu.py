"""Runs on a GPU, here a pretended one: nothing stays behind on the CPU, and no step waits.

What a GPU computes in another order, its kernels and its speed are for `make perf` on a machine that has one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_stream import SHUFFLED_IDS, FixedRows, foreign_benchmark, starts_anew
from pretend_gpu import OnGPU, PretendedGPU, pretended_gpu
from small_run import EPOCHS, TINY, Killed, KilledAt, config, done, repeatable, short
from test_loading import batches_of, large_stream, small_stream
from test_resume import LOOKS, SCENES
from test_stock import WITHOUT_NOISE, on_a_stock_template
from torch import Tensor, nn

from benchmark.config.schema import RunConfig
from benchmark.loading.augmentation import AUGMENTATIONS
from benchmark.loading.loader import ArrayLoader
from benchmark.runs import execute
from benchmark.storage.files import read_json, read_jsonl
from benchmark.storage.folder import RunFolder
from strategies import registry

EXPERIENCES = 3
EPOCH, STAGE = "template.py:training_epoch", "stage.py:run"
WITH_STATE = (  # every plugin and head that keeps tensors between steps or experiences
    "icarl", "eeil", "bic", "wa", "il2m", "lucir_cbf", "podnet_lws", "lucir_gvalign", "lucir_adaprior", "eeil_lws",
    "dgr", "dgr_feature_kd", "joint_bsce", "rebll",
)  # fmt: skip


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    with pretended_gpu(monkeypatch) as gpu:
        yield gpu


def small(strategy: str, **changes: Any) -> RunConfig:
    scenes = SCENES if registry.get(strategy).task_kind == "multi" else {}
    return config(short(strategy), metrics__diagnostics=True, **scenes, **changes)


def trained(wanted: RunConfig, path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RunFolder, PretendedGPU]:
    folder = RunFolder(path)
    with pretended_gpu(monkeypatch) as gpu:
        execute.execute(wanted, folder, device="cuda")
    return folder, gpu


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", registry.NAMES)
def test_every_method_trains_there_without_waiting(
    strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU's numbers. In training the host waits for the loss, once an epoch, and for what an experience or its
    stage needs once: with a first batch, labels, columns or counts are sent."""
    wanted = small(strategy)
    folder, gpu = trained(wanted, tmp_path / "gpu", monkeypatch)
    assert repeatable(folder) == repeatable(done(wanted, tmp_path / "cpu"))
    waits = Counter(wait for wait in gpu.waits if {EPOCH, STAGE} & set(wait.where))
    assert sum(count for wait, count in waits.items() if wait.where[0] == EPOCH) <= EPOCHS * EXPERIENCES
    assert not {wait: count for wait, count in waits.items() if wait.where[0] != EPOCH and count > EXPERIENCES}


@pytest.mark.parametrize("strategy", WITH_STATE)
def test_runs_move_between_cpu_and_gpu(strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed six times, inside epochs, stages and between experiences; every other attempt is on the GPU."""
    wanted, folder = small(strategy, training__checkpoint_minutes=0), RunFolder(tmp_path / "moved")
    for attempt, looks in enumerate((*LOOKS, 10**6)):
        try:
            if attempt % 2:
                execute.execute(wanted, folder, device="cpu", stop=KilledAt(looks))
            else:
                with pretended_gpu(monkeypatch):
                    execute.execute(wanted, folder, device="cuda", stop=KilledAt(looks))
        except Killed:
            continue
        break
    assert attempt > 2
    assert repeatable(folder) == repeatable(done(wanted, tmp_path / "cpu"))


@pytest.mark.parametrize("changes", [
    {"training__precision": "bf16"},
    {"memory__mode": "total", "memory__budget": 7},
    {"memory__selection": "random", "stream__holdout": 0.2},
])  # fmt: skip
def test_other_settings_there(changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = small("icarl", **changes)
    folder, _ = trained(wanted, tmp_path / "gpu", monkeypatch)
    assert repeatable(folder) == repeatable(done(wanted, tmp_path / "cpu"))


def test_weights_are_kept_for_machines_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(tensor: OnGPU, protocol: int) -> Any:
        raise AssertionError("saved from the GPU")

    monkeypatch.setattr(OnGPU, "__reduce_ex__", refused)
    folder, _ = trained(config("replay", training__keep="last", **TINY), tmp_path / "gpu", monkeypatch)
    assert len(list(folder.weights.iterdir())) == 1


def test_auto_means_the_gpu_and_its_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path / "gpu")
    with pretended_gpu(monkeypatch):
        execute.execute(config("replay", training__precision="auto", **TINY), folder)
    found = read_json(folder.environment)
    assert (found["resolved"]["device"], found["resolved"]["precision"]) == ("cuda", "bf16")
    assert found["machine"]["gpu"] == "a pretended GPU"
    assert all(record["peak_device_bytes"] for record in read_jsonl(folder.cost))


@pytest.mark.parametrize("name", [name for name in WITH_STATE if name != "rebll"])
def test_a_stock_template_trains_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = registry.get(name)(**WITHOUT_NOISE.get(name, {}))
    stream = foreign_benchmark()
    wanted, accuracy = on_a_stock_template(recipe, stream, 2, 500, rows=FixedRows(SHUFFLED_IDS, starts_anew(name)))
    with pretended_gpu(monkeypatch):
        rows = FixedRows(SHUFFLED_IDS, starts_anew(name))
        found, there = on_a_stock_template(recipe, stream, 2, 500, rows=rows, device="cuda")
    assert found.equal(wanted) and there == accuracy


# --- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_batches_are_made_there_without_waiting(augmentation: str, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small images lie on the GPU; large ones, here too many to lie there, are read ahead into pinned memory."""
    benchmark, arrays = small_stream() if size == "small" else large_stream()
    wanted = batches_of(ArrayLoader(benchmark.images, arrays, augmentation), benchmark)
    with pretended_gpu(monkeypatch) as gpu:
        monkeypatch.setattr("benchmark.loading.loader.RESIDENT", 10**5)
        loader = ArrayLoader(benchmark.images, arrays, augmentation, "cuda")
        assert isinstance(loader.train, OnGPU if size == "small" else np.ndarray)
        gpu.waits.clear()
        found = batches_of(loader, benchmark)
        assert not gpu.waits
        assert all(isinstance(one, OnGPU) for batch in found for one in batch)
        found = [[one.cpu() for one in batch] for batch in found]
    for batch, there in zip(wanted, found, strict=True):
        assert all(x.equal(y) for x, y in zip(batch, there, strict=True))


# --- what is pretended ------------------------------------------------------------------------------------------------


def test_tensors_there_do_not_meet_those_of_the_cpu(gpu: PretendedGPU) -> None:
    here, there = torch.arange(3.0), torch.arange(3.0).to("cuda")
    assert (there.device.type, here.device.type, (there * 2).device.type) == ("cuda", "cpu", "cuda")
    assert (there * torch.tensor(2.0)).is_cuda  # single values may come along
    for mixed in (
        lambda: here + there,
        lambda: torch.cat([there, here]),
        lambda: nn.functional.linear(there, here[None]),
        lambda: there.index_copy(0, torch.tensor([0]), there[:1]),
        lambda: here[there.long()],
        lambda: there.__setitem__(torch.tensor([0]).to("cuda"), here[:1]),
        lambda: torch.randn(3, device="cuda", generator=torch.Generator()),
    ):
        with pytest.raises(RuntimeError, match=r"CPU|different devices"):
            mixed()
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()


@pytest.mark.parametrize("waiting", [
    lambda x: x.sum().item(), lambda x: float(x[0]), lambda x: bool(x.any()), lambda x: x.tolist(), lambda x: x.cpu(),
    lambda x: x.nonzero(), lambda x: x[x > 0], lambda x: torch.where(x > 0), lambda x: torch.unique(x),
    lambda x: torch.ones(3).to("cuda"), lambda x: torch.ones(3).to("cuda", non_blocking=True), lambda x: f"{x.sum()}",
    lambda x: torch.tensor([1, 2], device="cuda"), lambda x: x[torch.tensor([0])], lambda x: x.copy_(torch.ones(3)),
])  # fmt: skip
def test_what_waits_is_noted(waiting: Callable[[Tensor], Any], gpu: PretendedGPU) -> None:
    x = torch.arange(3.0).to("cuda")
    gpu.waits.clear()
    waiting(x)
    assert len(gpu.waits) == 1


@pytest.mark.parametrize("going_on", [
    lambda x: x + 1, lambda x: x[0], lambda x: x[x.long()], lambda x: torch.where(x > 0, x, 0.0), lambda x: x.sum(),
    lambda x: x.masked_fill(x > 0, 1.0), lambda x: torch.zeros(3, device="cuda"), lambda x: x.to("cuda"),
    lambda x: torch.ones(3).pin_memory().to("cuda", non_blocking=True), lambda x: x.double(),
])  # fmt: skip
def test_what_does_not_wait_is_not(going_on: Callable[[Tensor], Any], gpu: PretendedGPU) -> None:
    x = torch.arange(3.0).to("cuda")
    gpu.waits.clear()
    assert isinstance(going_on(x), OnGPU) and not gpu.waits
