"""The same training as one writes it by hand: what the engine is measured against."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

BATCH, LR, MOMENTUM, DECAY, STRENGTH, WIDTH = 128, 0.01, 0.9, 1e-3, 1.0, 1e-3


class Digits(Dataset):
    """torchvision's MNIST, from arrays: a PIL image through the transforms at every access."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def plain_mlp() -> nn.Sequential:
    """784-512-256-10 out of torch's own layers."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10)
    )


class UserWay:
    """DataLoader, transforms image by image, the distance term through autograd: the way of the thesis."""

    def __init__(self, train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], minima: int) -> None:
        torch.manual_seed(0)
        self.train_set, self.test_set = Digits(*train), Digits(*test)
        self.model = plain_mlp()
        self.optimizer = torch.optim.SGD(self.model.parameters(), LR, MOMENTUM, weight_decay=DECAY)
        self.minima = [self._vector().detach() for _ in range(minima)]

    def _vector(self) -> Tensor:
        return nn.utils.parameters_to_vector(self.model.parameters())

    def train(self) -> float:
        """One epoch; seconds."""
        begin = time.perf_counter()
        for images, labels in DataLoader(self.train_set, BATCH, shuffle=True, drop_last=True):
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.model(images), labels)
            for minimum in self.minima:
                distance = ((self._vector() - minimum) ** 2).sum()
                loss = loss + STRENGTH / len(self.minima) * torch.exp(-WIDTH * distance)
            loss.backward()
            self.optimizer.step()
        return time.perf_counter() - begin

    @torch.no_grad()
    def evaluate(self) -> float:
        """Loss and accuracy on both splits, as the thesis took them after each epoch; seconds."""
        begin = time.perf_counter()
        for split in (self.train_set, self.test_set):
            loss = correct = 0.0
            for images, labels in DataLoader(split, BATCH):
                logits = self.model(images)
                loss += F.cross_entropy(logits, labels, reduction="sum").item()
                correct += (logits.argmax(1) == labels).sum().item()
        return time.perf_counter() - begin


def tensor_loop(images: Tensor, labels: Tensor, model: nn.Module) -> float:
    """One epoch without the term, data [N, 784] in memory, nothing measured but the loss; seconds."""
    optimizer = torch.optim.SGD(model.parameters(), LR, MOMENTUM, weight_decay=DECAY, fused=True)
    begin, total = time.perf_counter(), torch.zeros(())
    for index in _batches(len(images)):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images[index]), labels[index])
        loss.backward()
        optimizer.step()
        total += loss.detach()
    return time.perf_counter() - begin


def _batches(count: int) -> Iterator[Tensor]:
    yield from torch.randperm(count)[: count // BATCH * BATCH].view(-1, BATCH)
