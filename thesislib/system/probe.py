"""Predictions on images that have no label: the squared distance of two networks in function space.

As in repulsive ensembles (D'Angelo and Fortuin 2021), only that hills are where one network was before. The images are
mixtures of two training images each (mixup, Zhang et al. 2018): between the classes there is room to disagree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from thesislib.system import parallel
from thesislib.system.errors import UserError
from thesislib.system.precision import predict

#: Images that predictions are compared on; and how many of them each step looks at, in turn.
IMAGES, BATCH = 512, 32


class Split(Protocol):
    """Images and labels, to be taken by their numbers (`batches.Images`)."""

    labels: Tensor

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B, C, H, W] and labels [B] of these numbers [B]."""


class Probe:
    """The predictions of visited minima on fixed `images` [M, C, H, W], which become hills.

    d_c = mean over images of ||p - p_c||^2 with probabilities p, in 0 to 2. `kernel` is one of `kernels.find`, `width`
    its w. A network with BatchNorm trains on statistics of the batch, and is remembered with its running ones. Raises
    UserError if several processes train the run: each would have all of these images beside its share of a batch.
    """

    def __init__(self, images: Tensor, kernel: Callable[[Tensor, float], tuple[Tensor, Tensor]], width: float) -> None:
        if parallel.size() > 1:
            raise UserError("distance function is for one process: start the run without torchrun")
        self.images, self.kernel, self.width = images, kernel, width
        self.visited: list[Tensor] = []  # [M, classes] of each minimum

    @torch.no_grad()
    def visit(self, model: nn.Module, precision: Literal["fp32", "bf16"]) -> None:
        """Make a hill of what the network predicts now."""
        was = model.training
        model.eval()
        # A copy of them: a network may change its input.
        self.visited.append(predict(model, self.images.clone(), precision).softmax(1))
        model.train(was)

    def beside(self, images: Tensor, step: int) -> Tensor:
        """A step's batch with the BATCH images behind it whose turn it is."""
        return torch.cat((images, self.images[self._turn(step)]))

    def term(self, logits: Tensor, step: int, height: float) -> tuple[Tensor, Tensor]:
        """The term's value, [], given the `logits` [BATCH, classes] of these, and a number with its gradient, []."""
        p = logits.softmax(1)
        there = torch.stack([q[self._turn(step)] for q in self.visited])
        d = (p - there).square().sum(2).mean(1)
        k, slope = self.kernel(d.detach(), self.width)
        return height * k.sum(), height * (slope * d).sum()

    def _turn(self, step: int) -> slice:
        begin = step * BATCH % len(self.images)
        return slice(begin, begin + BATCH)


def mixtures(images: Split, seed: int = 0, count: int = IMAGES) -> Tensor:
    """So many mixtures [M, C, H, W] of two images each, in random proportions.

    They are the same for all runs: seeds are to differ in nothing but the training.

    >>> trainer = tl.Trainer(tl.Run(model="mlp-tiny", train_size=512, test_size=250))
    >>> from thesislib.system.probe import mixtures
    >>> mixtures(trainer.train_images).shape
    torch.Size([512, 1, 28, 28])
    """
    generator, device = torch.Generator().manual_seed(seed), images.labels.device
    one, other = torch.randint(len(images.labels), (2, count), generator=generator).to(device)
    share = torch.rand(count, 1, 1, 1, generator=generator).to(device)
    return torch.lerp(images.take(one)[0], images.take(other)[0], share)
