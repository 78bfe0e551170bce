"""A synthetic results folder, written by hand-made counts through the store's own helpers. Not a test file."""

import io
from pathlib import Path

import numpy as np

from benchmark.metrics import single_label
from benchmark.storage.files import append_jsonl, config_hash, write_bytes, write_json
from benchmark.storage.folder import RunFolder

METHODS = {"finetune": ["head"], "icarl": ["head", "nme"], "dgr": ["head"]}
PROTOCOLS = (("lfs", 5), ("lfh", 2))


def config(strategy: str, protocol: str = "lfs", tasks: int = 5, seed: int = 0, **changes) -> dict:
    """A resolved run config; `changes` are dotted keys with "__" for the dot."""
    content = {
        "dataset": {"name": "cifar100", "root": None, "classes": 20},
        "stream": {
            "protocol": protocol, "tasks": tasks, "profile": "exponential", "rho": 100.0, "ranks": "by_label",
            "order": "shuffled", "order_seed": seed, "subset_seed": 0, "rank_seed": 0, "holdout": 0.0,
        },
        "strategy": {"name": strategy},
        "memory": {"budget": 20, "mode": "per_class", "selection": "herding"},
        "training": {
            "backbone": "resnet32", "epochs": 160, "augmentation": "crop", "precision": "auto", "compile": "auto",
            "lr": 0.1, "seed": seed,
        },
        "metrics": {"groups": [20, 100]},
    }  # fmt: skip
    for key, value in changes.items():
        section, _, name = key.partition("__")
        content[section][name] = value
    return content


def name_of(content: dict) -> str:
    stream, training = content["stream"], content["training"]
    readable = f"{stream['protocol']}{stream['tasks']}-{content['strategy']['name']}-s{training['seed']}"
    return f"cifar100-{readable}-{config_hash(content)[:10]}"


def write_run(
    root, content, classifiers=("head",), accuracy=None, finished=True, precision="bf16", details=False, totals=100
) -> str:
    """One run folder; `accuracy` fixes every class's recall (in percent), else it is drawn from the run's name.

    `details` adds what only figures read: metrics, cost, diagnostics and the last confusion matrices; `totals` is the
    number of test images of every class, or of each.
    """
    name, stream = name_of(content), content["stream"]
    tasks = stream["tasks"]
    sizes = [20 // tasks] * tasks if stream["protocol"] == "lfs" else [10, *([10 // tasks] * tasks)]
    counts = [int(500 * 100 ** (-i / 19) + 1e-9) for i in range(20)]
    info = {"sizes": sizes, "profile_counts": counts, "train_counts": counts, "dataset": content["dataset"]["name"]}
    folder = RunFolder(Path(root) / "runs" / name)
    write_json(folder.config, content)
    if not finished:
        return name
    rng = np.random.default_rng(list(name.encode()))
    found, counted = {}, {}
    for classifier in classifiers:
        records = []
        for t in range(len(sizes)):
            num_seen = sum(sizes[: t + 1])
            total = np.broadcast_to(totals, 20)[:num_seen]
            drawn = rng.binomial(total, 0.9 * 0.8**t) if accuracy is None else total * accuracy // 100
            records.append({"correct": drawn, "total": total})
        found[classifier], counted[classifier] = single_label.all_metrics(records, info), records
    write_json(folder.stream, info)
    write_json(folder.environment, {"resolved": {"precision": precision, "compile": "off"}})
    if details:
        _write_details(folder, content, sizes, counts, counted)
    write_json(
        folder.result,
        {"format": 1, "run": name, "classifiers": found, "memory_held": [20] * 15 + [5] * 5, "complete": True},
    )
    return name


def _write_details(folder, content, sizes, counts, counted) -> None:
    """Diagnostics by rule: gradient norm of class j 0.1 (j + 1), weight norm 1 + t for old and 2 for new classes."""
    cosine, budget = content["strategy"]["name"].startswith("lucir"), content["memory"]["budget"]
    for t in range(len(sizes)):
        num_old, num_seen = sum(sizes[:t]), sum(sizes[: t + 1])
        at_step = {name: {key: v.tolist() for key, v in records[t].items()} for name, records in counted.items()}
        held = [min(budget, n) for n in counts[:num_seen]]
        append_jsonl(folder.metrics, {"experience": t, "classifiers": at_step, "memory_held": held})
        cost = {"experience": t, "train_seconds": 10.0, "eval_seconds": 1.0, "images_trained": 1000}
        append_jsonl(folder.cost, cost)
        record = {
            "experience": t,
            "ce_gradient_norm": None if cosine else [0.1 * (j + 1) for j in range(num_seen)],
            "weight_norm": [1.0 + t] * num_old + [2.0] * (num_seen - num_old),
            "bias": None if cosine else [-0.1] * num_old + [0.1] * (num_seen - num_old),
            "scale": 3.0 if cosine else None,
            "plugins": {},
        }
        append_jsonl(folder.diagnostics, record)
    confusions = {}
    for name, records in counted.items():  # what is wrong went to the class before
        correct, total = records[-1]["correct"], records[-1]["total"]
        confusions[name] = np.diag(correct) + np.roll(np.diag(total - correct), -1, axis=1)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **confusions)
    write_bytes(folder.confusion_of(len(sizes) - 1), buffer.getvalue())


def build(root, methods=METHODS, protocols=PROTOCOLS, seeds=3, details=False) -> list[str]:
    """methods x protocols x seeds finished runs and a sweep.json; returns the run names."""
    runs = [
        (config(method, protocol, tasks, seed), classifiers)
        for method, classifiers in methods.items()
        for protocol, tasks in protocols
        for seed in range(seeds)
    ]
    write_json(Path(root) / "sweep.json", {"runs": {name_of(content): content for content, _ in runs}})
    return [write_run(root, content, classifiers, details=details) for content, classifiers in runs]
