"""`make bench`: what the engine is worth, measured side by side in one process on this machine.

Writes bench.md (tables for readers) and bench.csv (numbers for notebook 8_cost) into figures/reference/.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import report
import torch
from handwritten import BATCH, DECAY, LR, MOMENTUM, STRENGTH, WIDTH, UserWay, plain_mlp, tensor_loop
from measure import interleaved, with_threads

from thesislib import datasets, models
from thesislib.batches import Images
from thesislib.config import Run
from thesislib.runs import launch, store
from thesislib.runs.results import Results
from thesislib.system import fast, machine
from thesislib.trainer import Trainer

HERE = Path(__file__).resolve()
OUT = HERE.parents[2] / "figures" / "reference"
HILLS = (0, 1, 5, 10)
SETTINGS = {"lr": LR, "momentum": MOMENTUM, "weight_decay": DECAY, "strength": STRENGTH, "width": WIDTH}


def engine(hills: int, **fields: object) -> Trainer:
    """A trainer whose loss has that many hills from the first step on."""
    trainer = Trainer(Run(**(SETTINGS | {"epochs": 1000, "minima": "multiple"} | fields)))
    for _ in range(hills):
        trainer.minima.add(trainer.flat.theta)
    return trainer


def mnist_epochs(repetitions: int) -> pd.Series:
    """Rows a to d: seconds of an epoch of full MNIST; "whole" includes evaluation."""
    data = datasets.load("mnist")
    train, test = (data.x_train, data.y_train), (data.x_test, data.y_test)
    threads = machine.cores()
    cases: dict[str, Callable[[], float]] = {}
    for hills in HILLS:
        cases[f"a{hills}"] = with_threads(threads, UserWay(train, test, hills).train)
        cases[f"b{hills}"] = _training_part(engine(hills, data="mnist", model="mlp"))
    cases["a0, 1 thread"] = UserWay(train, test, 0).train
    cases["a, evaluation"] = with_threads(threads, UserWay(train, test, 0).evaluate)
    logged = engine(0, data="mnist", model="mlp")
    cases["b, evaluation, logging, storing"] = lambda: _logged_epoch(logged)
    cases["b0, bf16"] = _training_part(engine(0, data="mnist", model="mlp", precision="bf16"))
    steps, generator = len(train[0]) // BATCH, torch.Generator().manual_seed(0)
    cases["c"] = lambda: _products(steps)
    cases["update"] = lambda: _updates(logged, steps)
    cases["batches"] = lambda: _batches(logged.train_images, generator)
    small = {"data": "mnist", "model": "mlp-tiny", "batch_size": 8, "train_size": 8 * steps}
    cases["small"] = _training_part(engine(0, **small))
    rows = list(torch.randn(max(HILLS), logged.flat.theta.numel()))
    cases["reading"] = lambda: _reading(rows, steps)
    images, labels = torch.from_numpy(train[0]).reshape(-1, 784).float().div(127.5).sub(1), torch.from_numpy(train[1])
    for name, model in (("d", plain_mlp()), ("d, our product", models.build("mlp", 0, (1, 28, 28)))):
        cases[name] = lambda model=model: tensor_loop(images, labels.long(), model)
    return interleaved(cases, repetitions)


def _training_part(trainer: Trainer, steps: int = 1) -> Callable[[], float]:
    """Seconds of an epoch without its evaluation, or of each of its steps."""
    return lambda: trainer.epoch()["train_seconds"] / steps


def _products(steps: int) -> float:
    """Row c: only the matrix products of so many steps, with the same function that the model uses."""
    x, sizes = torch.randn(BATCH, 784), (784, 512, 256, 10)
    weights = [torch.randn(m, n) for n, m in zip(sizes[:-1], sizes[1:], strict=True)]
    begin = time.perf_counter()
    for _ in range(steps):
        inputs = [x]
        for weight in weights:
            inputs.append(fast._product(inputs[-1], weight))
        grad = inputs.pop()
        for weight, layer_input in zip(reversed(weights), reversed(inputs), strict=True):
            fast._product(grad.t(), layer_input.t())
            grad = fast._product(grad, weight.t()) if layer_input is not x else grad
    return time.perf_counter() - begin


def _updates(trainer: Trainer, steps: int) -> float:
    """So many updates of the weights and nothing else: momentum and L2 in torch's fused SGD."""
    begin = time.perf_counter()
    for _ in range(steps):
        trainer.optimizer.step()
    return time.perf_counter() - begin


def _reading(rows: list[torch.Tensor], steps: int) -> float:
    """The least that one minimum can cost: so many steps that read a vector twice which was last read long ago."""
    begin = time.perf_counter()
    for step in range(2 * steps):
        rows[step % len(rows)].sum()
    return time.perf_counter() - begin


def _logged_epoch(trainer: Trainer) -> float:
    """What an epoch costs beside its steps: evaluation, a row of metrics and a checkpoint."""
    with (
        tempfile.TemporaryDirectory() as folder,
        _environment(THESIS_RUNS=folder),
        store.writing(trainer.run) as writer,
    ):
        writer.resume()
        row = trainer.epoch()
        begin = time.perf_counter()
        writer.row(row)
        writer.checkpoint(1, trainer.state())
        return time.perf_counter() - begin + row["seconds"] - row["train_seconds"]


def conv_steps(repetitions: int) -> pd.Series:
    """Row e: seconds of a training step of 128 images on one core."""
    cases = {}
    for model in ("resnet20", "mobilenetv2"):
        for hills, precision in ((0, "fp32"), (1, "fp32"), (5, "fp32"), (0, "bf16")):
            fields = {"data": "cifar10", "augment": True, "model": model, "precision": precision}
            trainer = engine(hills, **fields, train_size=256, test_size=100)
            cases[f"{model}, {hills} minima, {precision}"] = _training_part(trainer, steps=2)
    images, generator = trainer.train_images, torch.Generator().manual_seed(0)
    cases["batching and augmentation"] = lambda: _batches(images, generator, augment=True) / 2
    return interleaved(cases, repetitions)


def _batches(images: Images, generator: torch.Generator, augment: bool = False) -> float:
    """Seconds of an epoch that only takes its batches, cropped and flipped or not."""
    begin = time.perf_counter()
    for _ in images.shuffled(BATCH, generator, augment):
        pass
    return time.perf_counter() - begin


#: A process that trains 16 runs on embedded digits by so many processes and prints the seconds, their start included.
GRID = """
import sys, time
from thesislib.runs import launch
from thesislib.config import Run
begin = time.perf_counter()
launch.train_missing([Run(epochs=30, seed=seed) for seed in range(16)], int(sys.argv[1]))
print(time.perf_counter() - begin)
"""


def _script(code: str, *arguments: str, **environment: str) -> float:
    """What a process of its own prints, with a folder of its own for runs."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"THESIS_RUNS": folder} | environment
        command = [sys.executable, "-c", code, *arguments]
        return float(subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE).stdout)


def listing(count: int = 1000) -> dict[str, float]:
    """Row g: seconds to find, and to read, so many finished runs of 80 epochs with four minima."""
    first = Run(model="mlp-tiny", train_size=512, test_size=250, epochs=80, minima="multiple", minima_every=20)
    runs = [first.replace(seed=seed) for seed in range(count)]
    with tempfile.TemporaryDirectory() as folder, _environment(THESIS_RUNS=folder):
        trained = launch.execute(first).folder
        for run in runs[1:]:
            shutil.copytree(trained, trained.with_name(store.run_id(run)))
        begin = time.perf_counter()
        assert not launch.missing(runs)
        found = time.perf_counter()
        assert len(Results({"all": runs}).history) == 80 * count
        return {"find": found - begin, "read": time.perf_counter() - found}


def importing(what: str, after: str = "") -> float:
    """Row g: median seconds of five fresh processes to import `what`, after something else was imported."""
    code = f"{after}\nimport time; begin = time.perf_counter()\nimport {what}\nprint(time.perf_counter() - begin)"
    return sorted(_script(code) for _ in range(5))[2]


FIGURES = [sys.executable, "-m", "thesislib", "figures"]


def figures() -> dict[str, float]:
    """Row g: seconds of `figures --scale laptop`: all of it, nothing trained before; the first figure of that; all
    figures again, nothing missing; nothing changed.
    """
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"THESIS_FIGURES": folder, "THESIS_RUNS": str(Path(folder, "runs"))}
        begin, seconds = time.perf_counter(), {}
        with subprocess.Popen(FIGURES, env=environment, **quiet) as cold:
            while cold.poll() is None and not any(Path(folder).glob("laptop/*.png")):
                time.sleep(0.1)
            seconds["first"] = time.perf_counter() - begin
        if cold.returncode:
            raise RuntimeError("make figures failed")
        seconds["cold"] = time.perf_counter() - begin
        for name, flags in {"warm": ["--force"], "current": []}.items():
            begin = time.perf_counter()
            subprocess.run([*FIGURES, *flags], check=True, env=environment, **quiet)
            seconds[name] = time.perf_counter() - begin
    return seconds


#: A process that trains a run of so many minima, two steps between two of them, and prints its peak in bytes.
PEAK = """
import sys
from pathlib import Path
from thesislib.runs import launch, store
from thesislib.config import Run
from thesislib.trainer import Trainer
model, minima = sys.argv[1], int(sys.argv[2])
small = {"data": "mnist", "batch_size": 128} if model == "mlp" else {"data": "cifar10", "batch_size": 8}
run = Run(**small, model=model, train_size=2 * small["batch_size"], test_size=8, epochs=minima,
          minima="multiple", minima_every=1)
launch.execute(run)
# Not getrusage: its peak includes that of the process this one was started from.
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(int(peak.split()[1]) * 1024)
"""


def peaks() -> dict[tuple[str, int], tuple[float, float]]:
    """Peak bytes of runs with so many minima: as the allocator is, and with one that gives freed megabytes back.

    glibc keeps freed blocks for later ones, between which holes remain; what the second number grows by was asked for.
    """
    _script(PEAK, "mlp", "8")  # compiles what it needs
    at_once = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
    return {
        (model, k): (_script(PEAK, model, str(k)), _script(PEAK, model, str(k), **at_once))
        for model in ("mlp", "resnet34")
        for k in (2, 8, 16)
    }


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def main() -> None:
    """Measure, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5, help="rounds of the interleaved rows (5)")
    repetitions = parser.parse_args().repetitions
    torch.set_num_threads(1)
    epochs, steps = mnist_epochs(repetitions), conv_steps(repetitions)
    OUT.mkdir(parents=True, exist_ok=True)
    numbers = pd.concat({"epoch of MNIST": epochs, "step": steps}, names=["what", "case"])
    numbers.rename("seconds").to_csv(OUT / "bench.csv", float_format="%.5g")  # before notebook 8_cost reads it
    tables = {
        "One epoch of full MNIST, training part": report.epochs(epochs, HILLS),
        report.GOALS: report.goals(epochs),
        report.STEP: report.step(epochs, 60_000 // BATCH),
        report.STEPS: report.steps(steps),
    }
    print(report.page(tables, repetitions), flush=True)
    grids = [(_script(GRID, "1"), _script(GRID, "2")) for _ in range(2)]
    lists = listing()
    tables |= {
        "Processes, start-up, reading": report.processes(grids, epochs, lists, importing, figures()),
        report.MEMORY: report.memory(peaks()),
    }
    (OUT / "bench.md").write_text(report.page(tables, repetitions))
    print(report.page(tables, repetitions))


if __name__ == "__main__":
    main()
