"""Loss and predictions of a run's network at any weights: what the landscape between its minima is measured with."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from thesislib.batches import Images, splits
from thesislib.config import Run
from thesislib.flat import FlatParameters
from thesislib.models import network
from thesislib.runs.results import Results
from thesislib.system import draws, own
from thesislib.system.errors import UserError
from thesislib.system.precision import estimate_statistics, other_buffers, predict


class Point(NamedTuple):
    """Cross-entropy and accuracy at some weights."""

    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float


class Evaluator:
    """A run's network and data, evaluated without augmentation; weights are vectors theta [P].

    BatchNorm's statistics belong to the weights they were collected at: at any other weights they are collected anew,
    or the numbers would be wrong (Izmailov et al. 2018). They are of training images that are augmented as in training:
    black borders shift a network's activations, and without them ResNet-20 loses four points of accuracy. Raises
    UserError for a network with other buffers that are drawn at random, they would be another seed's, or that a step
    of training changes.
    """

    def __init__(self, run: Run, images: int | None = None, device: str = "cpu", batch_size: int = 500) -> None:
        self.run, self.device, self.batch_size = run, torch.device(device), batch_size
        self.train, self.test = splits(run, self.device)
        self.counts = tuple(min(images or len(split), len(split)) for split in (self.train, self.test))
        self.model = network(run).to(self.device)
        self.flat = FlatParameters(self.model)
        self.has_statistics = any(isinstance(m, _BatchNorm) for m in self.model.modules())
        if drawn := own.drawn_parts(_buffers(self.model), _buffers(network(run, _another(run)).to(self.device))):
            raise UserError(f"{run.model}: at weights alone it says nothing, its buffer {drawn[0]} is drawn at random")
        if changed := self._trained_buffers():
            raise UserError(
                f"{run.model}: at weights alone it says nothing, its buffer {changed[0]} changes as it trains"
            )

    def at(self, theta: Tensor | np.ndarray) -> Point:
        """Loss and accuracy at theta [P] on the first `images` training images and as many test images (None: all)."""
        self._go(theta)
        numbers = []
        for images, count in zip((self.train, self.test), self.counts, strict=True):
            logits, labels = self._logits(images, count), images.labels[:count]
            numbers += [F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).double().mean().item()]
        return Point(*numbers)

    def logits_of(self, theta: Tensor | np.ndarray, versions: Sequence[Tensor]) -> np.ndarray:
        """Logits [V, N, C] at theta [P] of V versions of the test images, each uint8 [N, C, H, W]."""
        self._go(theta)
        found, usual = [], self.test.images
        try:
            for version in versions:
                self.test.images = version
                found.append(self._logits(self.test, len(self.test)).cpu().numpy())
        finally:
            self.test.images = usual
        return np.stack(found)

    def _go(self, theta: Tensor | np.ndarray) -> None:
        self.flat.theta.copy_(torch.as_tensor(theta))
        if self.has_statistics:
            crops = torch.Generator().manual_seed(self.run.seed) if self.run.augment else None
            count, size = self.run.statistics_images, self.run.batch_size  # as in training, if it stores such numbers
            counts = (count, size) if count else (self.counts[0], self.batch_size)
            estimate_statistics(self.model, self.train.even_batches(*counts, crops), self.run.precision)
        self.model.eval()

    @torch.no_grad()
    def _trained_buffers(self) -> list[str]:
        """Names of the buffers that a network in training changes, but for BatchNorm's statistics."""
        if not other_buffers(self.model):
            return []
        step = copy.deepcopy(self.model).train()
        images, _ = self.train.take(torch.arange(self.run.batch_size, device=self.device))
        with draws.drawn_by("buffers"):
            predict(step, images, self.run.precision)
        return own.drawn_parts(other_buffers(step), other_buffers(self.model))

    def _batches(self, images: Images, count: int) -> list[Tensor]:
        return [images.take(index)[0] for index in torch.arange(count, device=self.device).split(self.batch_size)]

    @torch.inference_mode()
    def _logits(self, images: Images, count: int) -> Tensor:
        return torch.cat([predict(self.model, batch, self.run.precision) for batch in self._batches(images, count)])


def statistics_version(results: Results, number: int) -> int:
    """The version of what is computed from `results` by an `Evaluator`, `number` where nothing is augmented.

    BatchNorm's statistics once were of images as they are, also where training augments them.
    """
    return number + 10 * any(row.run.augment for row in results)


def _another(run: Run) -> int:
    """A seed that the run's network was not drawn from."""
    return (run.seed if run.init_seed is None else run.init_seed) + 1


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_buffers())
