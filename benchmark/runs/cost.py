"""What an experience of a run cost: images through the network, steps, seconds, memory. One line of cost.jsonl.

Counts of images and steps repeat exactly, on any machine and over any interruptions. Seconds and peak memory do not:
they belong to the machine and to what else ran on it. Steps done again after a kill, since the last checkpoint, are
not counted twice.
"""

from __future__ import annotations

import resource
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from strategies.training.learner import IncrementalLearner
from strategies.training.teacher import Teacher


def of_training(learner: IncrementalLearner, steps: int, seconds: float, image_bytes: int) -> dict[str, Any]:
    """Cost of the experience that was just trained; to be taken before its evaluation.

    Parameters
    ----------
    steps, seconds : of its training; second stages count their own steps.
    image_bytes : of one stored exemplar.

    Returns
    -------
    train_seconds; images_trained: batches' images, replayed ones included; forward_images, of which backward_images
    went back as well and teacher_images went through an old network; steps, of which stage_steps in second stages;
    parameters of the network; model_bytes, teacher_bytes (old networks), exemplar_bytes (at one byte a value) and
    state_bytes (everything else that plugins carry on) as stored at the experience's end.
    """
    network, compute = learner.model, learner.model.compute
    held = sum(len(plugin.dataset() or ()) for plugin in learner.plugins if hasattr(plugin, "held"))
    return {
        "train_seconds": round(seconds, 3),
        "images_trained": learner.images_trained,
        "forward_images": compute.forward,
        "backward_images": compute.trained,
        "teacher_images": compute.teacher,
        "steps": steps + compute.stage_steps,
        "stage_steps": compute.stage_steps,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "model_bytes": _bytes(_tensors_of(network)),
        "teacher_bytes": sum(_bytes(_tensors_of(model)) for model in _teachers(learner)),
        "exemplar_bytes": held * image_bytes,
        "state_bytes": _bytes(_tensors_in(learner.state_dict()["plugins"])),
    }


def of_evaluation(learner: IncrementalLearner, seconds: float, forward_before: int) -> dict[str, Any]:
    """Cost of the evaluation that followed, and the process's peak memory so far."""
    record = {
        "eval_seconds": round(seconds, 3),
        "eval_images": learner.model.compute.forward - forward_before,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    if learner.device.type == "cuda":
        record["peak_device_bytes"] = torch.cuda.max_memory_allocated(learner.device)
    return record


def _teachers(learner: IncrementalLearner) -> list[nn.Module]:
    """Old networks that plugins keep while they train."""
    held = [value for plugin in learner.plugins for value in vars(plugin).values() if isinstance(value, Teacher)]
    return [teacher.model for teacher in held if teacher.model is not None]


def _tensors_of(module: nn.Module) -> Iterable[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _tensors_in(state: Any) -> Iterable[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict | list | tuple):
        for value in state.values() if isinstance(state, dict) else state:
            yield from _tensors_in(value)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
