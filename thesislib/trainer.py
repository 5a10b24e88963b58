"""The training loop: a run in, one row of numbers an epoch out. Knows no folders and no plots."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import numpy as np
import torch
from torch.nn import functional as F
from torch.nn.utils import get_total_norm, parameters_to_vector
from torch.optim.swa_utils import AveragedModel

from thesislib import schedules
from thesislib.batches import splits
from thesislib.config import Run
from thesislib.minima import DistanceTerm
from thesislib.models import network
from thesislib.system import draws, machine, parallel, slots, vectors
from thesislib.system.errors import UserError
from thesislib.system.precision import estimate_statistics, predict
from thesislib.system.probe import Probe, mixtures
from thesislib.system.steplog import StepLog
from thesislib.system.vectors import from_numpy, to_numpy

Arrays = Mapping[str, np.ndarray]


class Trainer:
    """Everything that changes while a run trains.

    `state()` and `restore()` round-trip all of it: a run continued from a state is, on the same machine,
    bit for bit the run that was never interrupted.

    >>> trainer = tl.Trainer(tl.Run(model="mlp-tiny", train_size=512, test_size=250, epochs=2))
    >>> 0 < trainer.epoch()["accuracy"] < 1
    True
    """

    def __init__(self, run: Run, device: str = "cpu", start: Arrays | None = None) -> None:
        self.run, self.device = run, machine.torch_device(device)
        self.train_images, self.test_images = splits(run, self.device)
        self.model = network(run).to(self.device)
        parallel.share_batch_statistics(self.model)
        how = "filters" if run.distance == "filters" else "weights"
        hills = {"minima": run.minima, "merge": run.merge, "share": run.share, "distance": how}
        self.term = DistanceTerm(self.model, run.kernel, run.strength, run.width, **hills)
        self.flat, self.minima = self.term.flat, self.term.minima
        if (start is None) != (run.start is None):
            raise UserError(f"run.start is {run.start}: give its arrays as start, or let tl.train find them")
        if start is not None:
            self._set_weights(start)
        self.initial = self.flat.theta.clone()
        function = run.distance == "function"
        self.probe = Probe(mixtures(self.train_images), self.minima.kernel, run.width) if function else None
        self.optimizer = _optimizer(run, self.flat.parameters)
        self.generator = torch.Generator().manual_seed(run.seed)
        self.finished_epochs = 0
        self.diverged = False
        self.swa = AveragedModel(self.model) if run.swa_from else None
        # The same weights with BatchNorm statistics of their own: those that train stay as they are.
        self.precise = self.flat.network_at(self.model, self.flat.theta) if run.statistics_images else None
        self.mean = vectors.RunningMean(self.flat.theta) if run.member_epochs else None
        self.member: dict[str, np.ndarray] = {}  # the mean member that the last epoch completed, as a `snapshot`
        self.losses: list[np.ndarray] = []  # of every step [steps], an array an epoch (step_losses)
        self.logits = torch.empty(0)
        self.dense: list[dict[str, float]] = []  # rows of steps.csv of the last epoch
        if run.minimum_at_start:
            self.evaluate()
            self._add_minimum(self.flat.theta)

    @draws.drawing(lambda self: ("epoch", self.run.seed, self.finished_epochs, parallel.rank()))
    def epoch(self) -> dict[str, float]:
        """Train one epoch, evaluate, store a minimum if one is due; return the row of metrics.csv (store.COLUMNS)."""
        begin = time.perf_counter()
        lr = schedules.learning_rate(self.run, self.finished_epochs)
        self.term.strength = schedules.strength(self.run, self.finished_epochs)
        means = self._steps(lr)
        self.flat.check()
        trained = time.perf_counter()
        self.finished_epochs += 1
        if self.run.swa_from and self.finished_epochs >= self.run.swa_from:
            self.swa.update_parameters(self.model)
            self._estimate_statistics(self.swa.module)
        means |= self._finish_member()
        test_loss, accuracy = self.evaluate()
        if self.precise:
            means |= _named("running", self._score(self._logits(self.model)))
        theta = self.flat.theta
        row = {"epoch": self.finished_epochs, "test_loss": test_loss, "accuracy": accuracy, "lr": lr}
        row |= means | {"strength": self.term.strength}
        row["d_init"] = vectors.squared_distances(theta, [self.initial]).item()
        self.diverged = not (math.isfinite(row["train_loss"]) and math.isfinite(row["d_init"]))
        if self.finished_epochs in self.run.minimum_epochs and not self.diverged:
            self._add_minimum(theta, self.mean and self.mean.theta)
        row |= {f"d_{k}": d for k, d in enumerate(self.minima.distances(theta))}
        if self.run.convolutional and self.minima.visited:
            parts = vectors.radial_and_angular(*map(self.flat.pieces, (theta, self.minima.visited[0])))
            row |= dict(zip(("d_0_radial", "d_0_angular"), parts, strict=True))
        return row | {"train_seconds": trained - begin, "seconds": time.perf_counter() - begin}

    def _steps(self, lr: float) -> dict[str, float]:
        """One pass over the training data; means over its steps. Fills `dense`."""
        run, flat, minima = self.run, self.flat, self.minima
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        steps, random = len(self.train_images) // run.batch_size, run.push == "random"
        probe = self.probe if self.term.acts else None
        pushed = self.term.acts and probe is None
        log = StepLog(steps, self._since_minimum(steps), run.dense_steps)
        gradients, term = [], torch.zeros((), device=self.device)
        averaged = schedules.averaged_steps(run, self.finished_epochs, steps)
        batches = self.train_images.shuffled(run.batch_size, self.generator, run.augment)
        for step, (images, labels) in enumerate(batches):
            # Kept only where the angle needs it: otherwise autograd's next gradients take the same, warm memory.
            last, gradients = (gradients if log.looks_at(step) else []), []
            self.optimizer.zero_grad()
            logits = predict(self.model, probe.beside(images, step) if probe else images, run.precision)
            if probe:
                logits, others = logits.tensor_split([len(labels)])
                term, slope = probe.term(others, step, minima.height(self.term.strength))
            loss = F.cross_entropy(logits, labels)
            if run.cross_entropy:
                (loss + slope if probe else loss).backward()
            gradients = flat.gradients
            parallel.average(gradients)
            if pushed:
                term, factors = minima.factors(flat.theta, self.term.strength)
            push = self._push(factors, step) if pushed and (random or log.looks_at(step)) else []
            looked = vectors.norms_and_cosines(gradients, push, last) if log.looks_at(step) else None
            if pushed and random:
                torch._foreach_add_(gradients, push)
            elif pushed:
                self.term.add_by(factors)
            distance = vectors.squared_distances(flat.theta, minima.visited[-1:]) if log.is_dense(step) else None
            log.add(step, loss.detach(), term, looked, distance)
            if run.optimizer == "ngd":
                torch._foreach_div_(gradients, get_total_norm(gradients).clamp_min(1e-12))
            self.optimizer.step()
            if step in averaged:
                self.mean.add(flat.theta)
        self.dense = log.rows(self.finished_epochs + 1, len(minima.visited) - 1)
        if run.step_losses:
            self.losses.append(log.losses())
        return log.means()

    def _push(self, factors: torch.Tensor, step: int) -> list[torch.Tensor]:
        """The term's gradient at a step, a tensor a parameter; as long in a random direction if the run says so."""
        push = self.term.gradient(factors)
        if self.run.push == "random":
            push = vectors.turned(push, "push", self.run.seed, self.finished_epochs, step)
        return self.flat.pieces(push)

    def _add_minimum(self, theta: torch.Tensor, mean: torch.Tensor | None = None) -> None:
        """Record theta [P] as a minimum; its hill is put where the run says, given the `mean` [P] of its cycle."""
        places = {"mean": mean, "origin": torch.zeros_like(theta)}
        if self.run.hill_at == "random":
            number = len(self.minima.visited)
            places["random"] = self.initial + vectors.turned(theta - self.initial, "hill", self.run.seed, number)
        self.minima.add(theta, places.get(self.run.hill_at))  # hill_at "weights": there
        if self.probe:
            self.probe.visit(self.model, self.run.precision)

    def _since_minimum(self, steps: int) -> float:
        """Steps since the last minimum, at so many an epoch; infinite before the first."""
        reached = [epoch for epoch in self.run.minimum_epochs if epoch <= self.finished_epochs]
        return (self.finished_epochs - reached[-1]) * steps if reached else math.inf

    def evaluate(self) -> tuple[float, float]:
        """Cross-entropy and accuracy on the test images; keeps the logits [N, C].

        Without augmentation, unless the run says otherwise; with BatchNorm's statistics collected anew if it says so.
        """
        if self.precise:
            for buffer, trained in zip(self.precise.buffers(), self.model.buffers(), strict=True):
                buffer.copy_(trained)  # what else a network remembers; the statistics begin anew
            self._estimate_statistics(self.precise, self.run.statistics_images)
        self.logits = self._logits(self.evaluated)
        return self._score(self.logits)

    @torch.inference_mode()
    def _logits(self, model: torch.nn.Module, batch_size: int = 500) -> torch.Tensor:
        """Of a network on the test images, [N, C]."""
        model.eval()
        # Thesis: evaluated with the training augmentation switched on.
        crops = self._crops() if self.run.augmented_test else None
        images = self.test_images.in_order(batch_size, crops)
        logits = torch.cat([predict(model, batch, self.run.precision) for batch in images])
        return parallel.gather(logits, len(self.test_images))

    def _score(self, logits: torch.Tensor) -> tuple[float, float]:
        labels = self.test_images.labels
        return F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).double().mean().item()

    def _crops(self) -> torch.Generator:
        """Crops and flips that are this epoch's, whatever was drawn before: a resumed run draws the same."""
        return torch.Generator().manual_seed(self.run.seed + 1_000_003 * self.finished_epochs)

    def _estimate_statistics(self, model: torch.nn.Module, images: int | None = None) -> None:
        """Collect the BatchNorm statistics that belong to a network's weights on so many training images.

        In batches as in training, augmented if the run augments. None: on all of them.
        """
        crops = self._crops() if self.run.augment else None
        batches = self.train_images.even_batches(images or len(self.train_images), self.run.batch_size, crops)
        estimate_statistics(model, batches, self.run.precision)

    @property
    def evaluated(self) -> torch.nn.Module:
        """The network that is evaluated and stored: the one that trains, or the average of its weights."""
        if self.swa and self.swa.n_averaged > 0:
            return self.swa.module
        return self.precise or self.model

    def _finish_member(self) -> dict[str, float]:
        """At the end of a cycle evaluate the mean of its last weights, and keep it as `member`; its columns."""
        self.member = {}
        if self.finished_epochs not in self.run.member_ends:
            return {}
        model = self.flat.network_at(self.model, self.mean.theta)
        self._estimate_statistics(model, self.run.statistics_images)
        logits = self._logits(model)
        self.member = _arrays(model, self.mean.theta, logits)
        self.mean.count = 0
        return _named("mean", self._score(logits))

    def snapshot(self) -> dict[str, np.ndarray]:
        """The network and what it predicts: theta [P], logits [N, C] of the last evaluation, buffers.

        On the CPU these are views of what training goes on to change: store them, or copy them, at once.
        """
        trained = (p for p in self.evaluated.parameters() if p.requires_grad)
        theta = parameters_to_vector(trained) if self.swa else self.flat.theta
        return _arrays(self.evaluated, theta, self.logits)

    def state(self) -> dict[str, np.ndarray]:
        """All that `restore` needs besides the minima; views, as in `snapshot`."""
        return (
            {"theta": to_numpy(self.flat.theta), "generator": self.generator.get_state().numpy()}
            | {f"optimizer.{name}": array for name, array in slots.arrays(self.optimizer).items()}
            | {f"buffer.{name}": to_numpy(buffer) for name, buffer in self.model.named_buffers()}
            | {f"swa.{name}": to_numpy(value) for name, value in (self.swa.state_dict() if self.swa else {}).items()}
            | ({"mean.theta": to_numpy(self.mean.theta), "mean.count": np.array(self.mean.count)} if self.mean else {})
            | {f"probe.{k}": to_numpy(p) for k, p in enumerate(self.probe.visited if self.probe else ())}
            | ({"losses": np.stack(self.losses)} if self.losses else {})
        )

    def restore(self, epoch: int, state: Arrays, minima: list[Arrays]) -> None:
        """Continue after `epoch`, with the minima that were stored by then in their order (`store.minima_of`)."""
        self._set_weights(state)
        slots.restore(self.optimizer, _tensors(state, "optimizer."))
        if self.swa:
            self.swa.load_state_dict(_tensors(state, "swa."))
        if self.mean:
            self.mean.theta.copy_(from_numpy(state["mean.theta"]))
            self.mean.count = state["mean.count"].item()
        self.losses = list(state.get("losses", ()))
        self.generator.set_state(from_numpy(state["generator"]))
        self.minima.forget()
        for minimum in minima:
            theta, mean = (from_numpy(minimum[k]).to(self.device) if k in minimum else None for k in ("theta", "mean"))
            self._add_minimum(theta, mean)
        if self.probe:
            self.probe.visited = [from_numpy(state[f"probe.{k}"]).to(self.device) for k in range(len(minima))]
        self.finished_epochs = epoch

    def _set_weights(self, arrays: Arrays) -> None:
        self.flat.theta.copy_(from_numpy(arrays["theta"]))
        for name, buffer in self.model.named_buffers():
            buffer.copy_(from_numpy(arrays[f"buffer.{name}"]))


def _optimizer(run: Run, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    shared = {"lr": run.lr, "weight_decay": run.weight_decay, "fused": True}
    if run.optimizer == "adam":
        return torch.optim.Adam(parameters, betas=(run.momentum, 0.999), **shared)
    return torch.optim.SGD(parameters, momentum=run.momentum, **shared)


def _named(what: str, score: tuple[float, float]) -> dict[str, float]:
    """Loss and accuracy as columns of a row."""
    return dict(zip((f"test_loss_{what}", f"accuracy_{what}"), score, strict=True))


def _tensors(state: Arrays, prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): from_numpy(array) for name, array in state.items() if name.startswith(prefix)}


def _arrays(model: torch.nn.Module, theta: torch.Tensor, logits: torch.Tensor) -> dict[str, np.ndarray]:
    buffers = {f"buffer.{name}": to_numpy(buffer) for name, buffer in model.named_buffers()}
    return {"theta": to_numpy(theta), "logits": to_numpy(logits)} | buffers
