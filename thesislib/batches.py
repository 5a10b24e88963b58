"""A dataset as tensors on the device: one gather a batch, no loader processes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from thesislib.config import Run
from thesislib.datasets import Facts, facts, load
from thesislib.system import parallel
from thesislib.system.augment import crop_and_flip, draw_crops
from thesislib.system.errors import UserError


class Images:
    """One split on the device: `images` uint8 [N, C, H, W], `labels` int64 [N]."""

    def __init__(self, x: Tensor, y: Tensor, known: Facts) -> None:
        self.images = x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2).contiguous()
        self.labels = y.long()
        mean, std = (torch.tensor(v, device=x.device)[:, None, None] for v in (known.mean, known.std))
        # (x / 255 - mean) / std as one multiplication and one addition.
        self._scale, self._shift = 1 / (255 * std), -mean / std

    def __len__(self) -> int:
        return len(self.images)

    def take(self, index: Tensor, crops: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Normalised float32 images [B, C, H, W], cropped and flipped by `crops` if given, and labels [B]."""
        # index_select copies whole images; indexing with a tensor takes three times as long.
        images = self.images.index_select(0, index)
        images = images if crops is None else crop_and_flip(images, crops)
        return images.float().mul_(self._scale).add_(self._shift), self.labels.index_select(0, index)

    def shuffled(
        self, batch_size: int, generator: torch.Generator, augment: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch in random order; the last incomplete batch is dropped, as in the thesis.

        Of several processes on one run each gets its share of every batch.
        """
        order = torch.randperm(len(self), generator=generator).to(self.labels.device)
        own = parallel.share(batch_size)
        for index in order[: len(self) // batch_size * batch_size].view(-1, batch_size):
            crops = draw_crops(batch_size, generator).to(index.device)[own] if augment else None
            yield self.take(index[own], crops)

    def in_order(self, batch_size: int, crops: torch.Generator | None = None) -> Iterator[Tensor]:
        """Images [B, C, H, W] of everything once, in order, for evaluation; cropped and flipped if `crops` is given.

        Of several processes, number r of n gets the images r, r + n, ...; the last may come twice to be as many.
        """
        everything = torch.arange(-(-len(self) // parallel.size()) * parallel.size()).clamp_max(len(self) - 1)
        draws = None if crops is None else draw_crops(len(everything), crops).to(self.labels.device)
        own = slice(parallel.rank(), None, parallel.size())
        for index in everything.to(self.labels.device)[own].split(batch_size):
            yield self.take(index, None if draws is None else draws[index])[0]

    def even_batches(self, count: int, batch_size: int, crops: torch.Generator | None = None) -> Iterator[Tensor]:
        """The first `count` images once, in batches of one size (to an image) of at most `batch_size`.

        For BatchNorm's statistics: they are plain means over batches, in which a small last one would count as much as
        a whole one. Of several processes each gets its share of every batch.
        """
        draws = None if crops is None else draw_crops(count, crops).to(self.labels.device)
        for index in torch.arange(count, device=self.labels.device).tensor_split(-(-count // batch_size)):
            whole = len(index) // parallel.size() * parallel.size()
            own = index[:whole][parallel.rank() :: parallel.size()]
            yield self.take(own, None if draws is None else draws[own])[0]


def splits(run: Run, device: torch.device) -> tuple[Images, Images]:
    """Training and test images of a run. Raises UserError if the data are missing or too few."""
    arrays = load(run.data)
    x_test, y_test = arrays.x_test, arrays.y_test
    if run.validation:
        x_test, y_test = arrays.x_train[run.train_size :], arrays.y_train[run.train_size :]
        if not len(x_test):
            raise UserError(f"validation: train_size {run.train_size} leaves none of {run.data}'s images for it")
    known, parts = facts(run.data), []
    for x, y, field in ((arrays.x_train, arrays.y_train, "train_size"), (x_test, y_test, "test_size")):
        if (size := getattr(run, field)) is not None and size > len(x):
            raise UserError(f"{field}: {run.data} has only {len(x)} images in this split, not {size}")
        x, y = (torch.from_numpy(a[:size].copy()).to(device) for a in (x, y))
        parts.append(Images(x, y, known))
    for field in ("batch_size", "statistics_images"):
        if (count := getattr(run, field) or 0) > len(parts[0]):
            raise UserError(f"{field}: {count} is more than the {len(parts[0])} training images")
    return parts[0], parts[1]
