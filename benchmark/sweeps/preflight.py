"""Preflight: whether a sweep can end here, asked in seconds before hours are spent.

Results can be written; checkpoints fit on the disk; the largest run fits into memory as often as it will be there; the
images are those that the folder's runs began with, and precision is that of the repeats that are finished. What is
needed is measured on the backbone itself, and is a lower bound: a sweep is refused only when it cannot succeed.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmark.config.overrides import override
from benchmark.config.schema import RunConfig, validated
from benchmark.datasets.arrays import images_hash
from benchmark.errors import UserError
from benchmark.storage.files import DamagedFile, read_json, unlinked
from benchmark.storage.folder import RunFolder

if TYPE_CHECKING:
    import torch

    from benchmark.runs.prepare import Prepared

UNSEEDED = {"stream.order_seed": 0, "stream.subset_seed": 0, "stream.rank_seed": 0, "training.seed": 0}


class Repeats:
    """The finished ones of some runs, (folder, config, environment), whose precision was left to the machine.

    What `training.precision: auto` becomes depends on the processor, and tables refuse to average two precisions: a
    sweep that goes on on another machine is refused before hours are spent.
    """

    def __init__(self, begun: Iterable[tuple[RunFolder, Any, Any]]) -> None:
        self._found: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}  # method -> (precision, name, config)
        for folder, config, environment in begun:
            with suppress(LookupError, TypeError, AttributeError):  # damaged: such a run tells nothing
                if folder.result.exists() and config["training"]["precision"] == "auto":
                    row = environment["resolved"]["precision"], folder.name, config
                    self._found.setdefault(config["strategy"]["name"], []).append(row)

    def check(self, run: RunConfig, precision: str) -> None:
        """Raise UserError when a repeat of `run`, which would train in `precision` here, was made in another."""
        if run.training.precision != "auto":
            return
        wanted = _identity_but_for_seeds(run.model_dump(mode="json"))
        for other, name, config in self._found.get(run.strategy.name, ()):
            if other != precision and _identity_but_for_seeds(config) == wanted:
                raise UserError(
                    f"training.precision=auto is {precision} on this machine, and {name}, which differs in seeds only, "
                    f"was made in {other}: they must not be averaged, so go on where that was made, or give another "
                    "--out."
                )


IN_CHECKPOINT = 3  # copies of the weights: before the experience, now, momentum; inside a second stage two more
IN_MEMORY = 5  # weights, gradients, momentum, the state before the experience, and the checkpoint being written
CHECKPOINTS = 3  # of one run on disk: two kept, and one being written
RESULTS = 64 * 1024  # bytes of a run without its confusion matrices
OVERHEAD = 64 * 1024  # bytes of a checkpoint besides weights: random states, file headers


class Sizes(NamedTuple):
    """Bytes of a run: of one checkpoint, of what it leaves behind, and of what it adds to a worker's memory."""

    checkpoint: int
    results: int
    memory: int


def check_writable(directory: Path) -> None:
    """Raise UserError unless runs, tables and figures can be written below DIR; leaves nothing behind."""
    runs, *_ = [unlinked(directory / part) for part in ("runs", "tables", "figures")]
    place = next(path for path in (runs, *runs.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"imcil")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"Results cannot be written to {directory}: {error.strerror} ({place}).") from error


class Preflight:
    """Collects what the runs of a sweep need; `problems` says what is not there.

    Parameters
    ----------
    directory : results folder; need not exist.
    device : of the workers of this machine, None when they work elsewhere: then memory is not looked at.
    workers : at once on that folder's disk.
    sharing : of them on that device, None: all.
    """

    def __init__(self, directory: Path, device: str | None, workers: int, sharing: int | None = None) -> None:
        self.directory, self.device, self.workers = directory, device, workers
        self.sharing = workers if sharing is None else sharing
        self.sizes: dict[str, Sizes] = {}  # by run
        self._measured: dict[tuple[Any, ...], Sizes] = {}
        self._repeats: Repeats | None = None
        self._precisions: dict[str, str] = {}  # by run, what auto is here
        self._recorded: dict[str, tuple[str, str]] = {}  # dataset -> (hash of its images, a run)
        self._hashes: dict[int, str] = {}

    def add(self, run: RunConfig, prepared: Prepared) -> None:
        """Count a run in. Raises UserError when its images, or its precision, are not those of the folder's runs."""
        from benchmark.runs.environment import resolve

        recipe, benchmark, arrays = prepared
        if self._repeats is None:
            begun = _begun_runs(self.directory)
            self._repeats, self._recorded = Repeats(begun), _recorded_images(begun)
        precision = resolve(run, benchmark, self.device or "cpu").precision
        self._check_repeats(run, precision)
        dataset = _identity(run.dataset.model_dump(mode="json"))
        if dataset in self._recorded:
            wanted, name = self._recorded[dataset]
            if id(arrays) not in self._hashes:
                self._hashes = {id(arrays): images_hash(arrays)}
            if self._hashes[id(arrays)] != wanted:
                raise UserError(
                    f"dataset.root leads to other images of {run.dataset.name} than those that {name} saw: give the "
                    "same data, or another --out."
                )
        sizes = benchmark.info.sizes
        key = (
            run.training.backbone, recipe.last_relu, run.training.batch_size, run.training.precision,
            arrays.train_images.shape[1:], arrays.crop_size, tuple(sizes),
        )  # fmt: skip
        if key not in self._measured:
            self._measured[key] = _measure(run, prepared, self.device)
        self.sizes[run.run_name], self._precisions[run.run_name] = self._measured[key], precision

    def add_like(self, run: RunConfig, other: str) -> None:
        """Count in a run that differs in its training seed only from one that was added. Raises as `add` does."""
        self._check_repeats(run, self._precisions[other])
        self.sizes[run.run_name], self._precisions[run.run_name] = self.sizes[other], self._precisions[other]

    def _check_repeats(self, run: RunConfig, precision: str) -> None:
        begun = RunFolder(self.directory / "runs" / run.run_name)
        goes_on = any(begun.checkpoints.glob("[!.]*"))  # in the precision it had
        if self._repeats and self.device is not None and not goes_on:
            self._repeats.check(run, precision)

    def problems(self) -> Iterator[tuple[str, str]]:
        """(run name, sentence) of the largest run, when there is not the room it needs."""
        if not self.sizes:
            return
        name, largest = max(self.sizes.items(), key=lambda item: item[1].checkpoint)
        checkpoints = min(self.workers, len(self.sizes)) * CHECKPOINTS * largest.checkpoint
        need = checkpoints + sum(sizes.results for sizes in self.sizes.values())
        free = free_disk(self.directory)
        if need > free:
            sentence = (
                f"Checkpoints and results need about {_size(need)} in {self.directory}, and {_size(free)} are free"
            )
            yield name, f"{sentence}: make room, or give --out on another disk."
        name, largest = max(self.sizes.items(), key=lambda item: item[1].memory)
        workers = min(self.sharing, len(self.sizes))
        place = free_memory(self.device) if self.device is not None else None
        if place is not None and workers * largest.memory > place.free:
            fitting = place.free // largest.memory
            fewer = f"give --jobs {fitting} or" if fitting else "give"
            times = f" for each of {workers} workers" if workers > 1 else ""
            sentence = (
                f"A run needs about {_size(largest.memory)} of {place.name}{times}, and {_size(place.free)} are free"
            )
            yield name, f"{sentence}: {fewer} a smaller training.batch_size."


# --- what there is ----------------------------------------------------------------------------------------------------


class Room(NamedTuple):
    """Free bytes of a kind of memory."""

    name: str
    free: int


def free_disk(directory: Path) -> int:
    """Bytes that this user may still write where DIR is, or will be."""
    place = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def free_memory(device: str) -> Room | None:
    """The memory that runs on `device` use, asked from a worker that has its images loaded; None where unknown."""
    import torch

    if on_gpu(device):
        free, _ = torch.cuda.mem_get_info(None if device in ("auto", "cuda") else device)
        return Room("GPU memory", free)
    if device not in ("auto", "cpu"):
        return None
    free_here = [found for found in (_available(), _left_in_control_group()) if found is not None]
    return Room("memory", min(free_here) + _own_memory()) if free_here else None


def on_gpu(device: str | None) -> bool:
    """Whether workers on `device` train on a GPU of this machine."""
    import torch

    return device is not None and (device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()))


def _available() -> int | None:
    """MemAvailable, in bytes."""
    return _kilobytes(Path("/proc/meminfo"), "MemAvailable")


def _own_memory() -> int:
    """What this process holds and shares with no other."""
    return _kilobytes(Path("/proc/self/status"), "RssAnon") or 0


def _kilobytes(file: Path, entry: str) -> int | None:
    with suppress(OSError):
        if found := re.search(rf"^{entry}:\s+(\d+) kB$", file.read_text(), re.MULTILINE):
            return int(found[1]) * 1024
    return None


def _left_in_control_group(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What the limit of a container or job leaves (version 2, then version 1); pages of files can be given back."""
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        with suppress(OSError, ValueError):  # "max": no limit
            allowed, taken = int((root / limit).read_text()), int((root / used).read_text())
            statistics = (root / used).with_name("memory.stat").read_text()
            found = re.search(rf"^{cache} (\d+)$", statistics, re.MULTILINE)
            return max(0, allowed - taken + (int(found[1]) if found else 0))
    return None


# --- what is needed ---------------------------------------------------------------------------------------------------


def _measure(run: RunConfig, prepared: Prepared, device: str | None) -> Sizes:
    """Sizes of a run, from a forward pass of two images."""
    from benchmark import backbones
    from benchmark.runs.environment import resolve

    recipe, benchmark, arrays = prepared
    classes, experiences = sum(benchmark.info.sizes), len(benchmark.info.sizes)
    loaded = sum(
        images.nbytes for images in (arrays.train_images, arrays.test_images) if not isinstance(images, np.memmap)
    )
    backbone = backbones.build(run.training.backbone, recipe.last_relu)
    head = 4 * classes * int(backbone.num_features)  # type: ignore[arg-type]
    weights = head + sum(t.numel() * t.element_size() for t in backbone.state_dict().values())
    side = arrays.crop_size or arrays.train_images.shape[1]
    kept = _kept_for_backward(backbone, (2, 3, side, side)) // 2 * run.training.batch_size
    if resolve(run, benchmark, device or "cpu").precision == "bf16":
        kept //= 2
    results = RESULTS + experiences * classes**2  # a confusion matrix is compressed to a byte an entry, or less
    results += {"none": 0, "last": 1, "each": experiences}[run.training.keep] * (weights + OVERHEAD)
    memory = IN_MEMORY * weights + kept + (0 if on_gpu(device) else loaded)
    return Sizes(IN_CHECKPOINT * weights + OVERHEAD, results, memory)


def _kept_for_backward(module: torch.nn.Module, shape: tuple[int, ...]) -> int:
    """Bytes of the tensors that autograd keeps for one backward pass, parameters left out."""
    import torch

    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    module.train()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        features = module(torch.zeros(shape))  # holds the graph: no storage is used twice
    del features
    return sum(kept.values())


def _identity(dataset: dict[str, Any]) -> str:
    """A dataset section without the place of its files and without defaults."""
    return repr(sorted((k, v) for k, v in dataset.items() if k != "root" and v is not None))


def _begun_runs(directory: Path) -> list[tuple[RunFolder, Any, Any]]:
    """(folder, config, environment) of the runs that DIR holds, but for those whose files cannot be read."""
    found = []
    for path in sorted((directory / "runs").glob("[!.]*")):
        folder = RunFolder(path)
        with suppress(OSError, DamagedFile):
            found.append((folder, read_json(folder.config), read_json(folder.environment)))
    return found


def _recorded_images(begun: Iterable[tuple[RunFolder, Any, Any]]) -> dict[str, tuple[str, str]]:
    """Dataset -> (hash, run name), by what the runs recorded."""
    found: dict[str, tuple[str, str]] = {}
    for folder, config, environment in begun:
        with suppress(LookupError, TypeError, AttributeError):  # damaged: such a run records nothing
            digest = environment["dataset"]["sha256"]
            found.setdefault(_identity(config["dataset"]), (digest, folder.name))
    return found


def _size(number: float) -> str:
    """'1.2 GB', '300 MB', '12 kB'."""
    for unit, power in (("GB", 1e9), ("MB", 1e6)):
        if number >= power:
            return f"{number / power:.1f} {unit}" if number < 10 * power else f"{number / power:.0f} {unit}"
    return f"{number / 1e3:.0f} kB"


def _identity_but_for_seeds(config: Mapping[str, Any]) -> str | None:
    """The hash of a run but for its seeds; None of a config that this imcil does not know."""
    try:
        return validated(override(config, UNSEEDED)).hash
    except UserError:
        return None
