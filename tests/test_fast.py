import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from conftest import PATIENCE, TINY, interrupted, on_mounts, term_of, thesislib

from thesislib.minima import Minima
from thesislib.runs import launch
from thesislib.system import fast, vectors
from thesislib.system.vectors import add_differences, inner_products, squared_distances

SIZES = (1, 5, 128, 129, 100_003)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [1, 3, 19])
def test_squared_distances_are_torchs(size, count):
    a, *rows = torch.randn(1 + count, size, dtype=torch.float64)
    expected = torch.stack([((a - row) ** 2).sum() for row in rows])
    assert torch.allclose(squared_distances(a, rows), expected, rtol=1e-13, atol=0)
    rounded = squared_distances(a.float(), [row.float() for row in rows])
    assert rounded.dtype == torch.float32
    expected = torch.stack([((a.float().double() - row.float().double()) ** 2).sum() for row in rows])
    assert torch.allclose(rounded.double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [1, 3, 19])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_add_differences_is_torchs(size, count, dtype):
    a, out, *rows = torch.randn(2 + count, size, dtype=dtype)
    factors = torch.randn(count, dtype=dtype)
    expected = out + sum(factor * (a - row) for factor, row in zip(factors, rows, strict=True))
    pieces = out.split([size // 3, size - size // 3])
    add_differences(pieces, a, rows, factors)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    assert torch.allclose(out, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("row", [torch.zeros(9), torch.zeros(10).double(), torch.zeros(20)[::2]])
def test_rows_that_are_no_such_vectors_are_refused(row):
    """They are read by address: anything else would be other memory."""
    for operation in (
        lambda a: squared_distances(a, [a, row]),
        lambda a: add_differences([torch.zeros(10)], a, [a, row], torch.ones(2)),
    ):
        with pytest.raises(ValueError, match="contiguous"):
            operation(torch.zeros(10))


def test_factors_and_tensors_that_do_not_fit_are_refused():
    for out, factors in (([torch.zeros(10)], torch.ones(1)), ([torch.zeros(11)], torch.ones(2)), ([], torch.ones(2))):
        with pytest.raises(ValueError, match="2 rows take"):
            add_differences(out, torch.zeros(10), [torch.zeros(10)] * 2, factors)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fused", [True, False])
def test_inner_products_are_torchs(size, fused, monkeypatch):
    monkeypatch.setattr(fast, "serves", lambda vector: fused)
    long = torch.randn(3, size)
    products = inner_products([row.split([size // 3, size - size // 3]) for row in long])
    assert products.dtype == torch.float64
    assert torch.allclose(products, long.double() @ long.double().T, rtol=1e-5, atol=1e-6 * size)


def test_rounded_products_take_arguments_by_name():
    """As torch's autocast does: a network of one's own may call them so."""
    x, weight, bias = torch.randn(4, 8), torch.randn(3, 8), torch.randn(3)
    with fast._RoundedProducts():
        placed, named = F.linear(x, weight, bias), F.linear(bias=bias, weight=weight, input=x)
    assert torch.equal(placed, named)
    assert torch.equal(placed, placed.bfloat16().float())


@pytest.mark.parametrize(
    "product",
    [
        lambda x, y: x @ y,
        lambda x, y: torch.matmul(x, other=y),
        lambda x, y: x.mm(y),
        lambda x, y: torch.bmm(x[None], y[None])[0],
        lambda x, y: F.conv1d(x[..., None], y.T[..., None])[..., 0],
        lambda x, y: F.conv_transpose1d(x[..., None], y[..., None])[..., 0],
    ],
)
def test_products_of_any_kind_are_rounded(product):
    """As autocast rounds them: what a network of one's own computes does not depend on the processor's instructions."""
    x, y = torch.randn(4, 64), torch.randn(64, 8, requires_grad=True)
    with fast._RoundedProducts():
        found = product(x, y)
    (gradient,) = torch.autograd.grad(found.sum(), y)
    a, b = x.bfloat16().float(), y.detach().bfloat16().float()
    assert torch.allclose(found, (a @ b).bfloat16().float(), atol=0.05)
    assert torch.equal(found, found.bfloat16().float())
    assert torch.allclose(gradient, a.sum(0)[:, None].expand(64, 8).bfloat16().float(), atol=0.02)
    assert not torch.equal(found, product(x, y)), "fp32 outside"


def test_what_is_close_together_is_not_lost_to_rounding():
    a = torch.randn(10_000)
    b = a + 1e-6 * torch.randn(10_000)
    near, same = squared_distances(a, [b, a]).tolist()
    assert near == pytest.approx(((a.double() - b.double()) ** 2).sum().item(), rel=1e-6)
    assert same == 0
    out = torch.zeros(10_000)
    add_differences([out], a, [a], torch.tensor([5.0]))
    assert not out.any(), "a hill is flat on its very top"


def test_nan_and_infinity_are_not_optimised_away():
    a, zero = torch.zeros(10_000), torch.zeros(10_000)
    for bad in (math.nan, math.inf):
        a[7_000] = bad
        assert not math.isfinite(squared_distances(a, [zero]))
        out = torch.zeros(10_000)
        add_differences([out], a, [zero], torch.tensor([1.0]))
        assert not math.isfinite(out[7_000])


def test_views_are_written_in_place():
    theta, row, gradients = torch.randn(10), torch.randn(10), [torch.zeros(2, 3), torch.zeros(4)]
    minima = Minima("rbf", 0.1, "multiple")
    minima.add(row)
    value, factors = minima.factors(theta, 2.0)
    minima.add_gradient(theta, factors, gradients)
    assert value == term_of(minima, theta, 2.0)[0]
    assert torch.allclose(torch.cat([g.flatten() for g in gradients]), term_of(minima, theta, 2.0)[1])


def test_both_paths_agree(monkeypatch):
    """The way a GPU goes, on the CPU: torch's operations instead of the fused ones."""
    theta, rows = torch.randn(5_000), torch.randn(3, 5_000)
    minima = Minima("tanh", 1e-4, "multiple")
    for row in rows:
        minima.add(row)
    fused = term_of(minima, theta, 3.0)
    monkeypatch.setattr(vectors, "fast", None)
    plain = term_of(minima, theta, 3.0)
    for a, b in zip(fused, plain, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-9)


def test_without_this_file_all_is_the_same_up_to_rounding(tmp_path, monkeypatch):
    # A short one in bf16, which rounds so much that steps soon differ.
    runs = [TINY, TINY.replace(precision="bf16", lr=0.005, epochs=3, minima_every=1)]
    runs += [TINY.replace(hill_at="mean", cycle=2, member_epochs=1, push="random"), TINY.replace(hill_at="random")]
    whole = [launch.execute(run).history for run in runs]
    package = Path(fast.__file__).parents[1]
    shutil.copytree(package, tmp_path / package.name, ignore=shutil.ignore_patterns("fast.py", "__pycache__"))
    script = (
        "import sys; from thesislib.runs import launch; from thesislib.config import Run\n"
        "for run in sys.argv[1:]: launch.execute(Run.model_validate_json(run))\n"
        "print(launch.__file__, 'numba' in sys.modules)"
    )
    monkeypatch.setenv("THESIS_RUNS", str(tmp_path / "without"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    command = [sys.executable, "-c", script, *(run.model_dump_json() for run in runs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, cwd=tmp_path)
    assert done.stdout.split() == [str(tmp_path / package.name / "runs" / "launch.py"), "False"], done.stderr
    for run, expected, tolerance in zip(runs, whole, (1e-4, 3e-2, 1e-4, 1e-4), strict=True):
        found = launch.load(run).history.drop(columns=["seconds", "train_seconds"])
        assert found["d_0"].max() > 0
        pd.testing.assert_frame_equal(found, expected[found.columns], rtol=tolerance, atol=tolerance)


def test_a_broken_llvmlite_is_none_and_its_runs_say_so(tmp_path, monkeypatch):
    """It raises OSError. A run that was begun with numba does not go on without, where sums are rounded otherwise."""
    folder = interrupted(TINY, after=3)
    code = "raise OSError('Could not find/load shared object file')"
    (tmp_path / "broken" / "llvmlite").mkdir(parents=True)
    (tmp_path / "broken" / "llvmlite" / "__init__.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "broken"), os.environ.get("PYTHONPATH", "")]))
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in TINY.model_dump(exclude_defaults=True).items()]
    refused = thesislib("run", *flags)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert f"run {folder.name} was begun on {launch.hardware()}, torch" in refused.stderr
    assert f"cannot go on with {launch.hardware()} without numba, torch" in refused.stderr
    done = thesislib("run", *flags, "--json", THESIS_RUNS=str(tmp_path / "without"))
    assert json.loads(done.stdout)["versions"]["hardware"] == f"{launch.hardware()} without numba", done.stderr
    whole = launch.execute(TINY).history.drop(columns=["seconds", "train_seconds"])
    monkeypatch.setenv("THESIS_RUNS", str(tmp_path / "without"))
    found = launch.load(TINY).history[whole.columns]
    pd.testing.assert_frame_equal(found, whole, rtol=1e-4, atol=1e-4)


def test_nothing_can_be_written_but_runs(tmp_path):
    """Checkout and home that may only be read, as in containers and on compute nodes: compiled anew, not refused."""
    checkout = Path(__file__).parents[1]
    script = (
        'for f in "$1" "$HOME"; do mount --rbind "$f" "$f"; mount -o remount,ro,bind "$f"; done; cd "$1"; shift; "$@"'
    )
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in TINY.model_dump(exclude_defaults=True).items()]
    environment = {"HOME": str(tmp_path), "THESIS_RUNS": "/mnt/runs"} | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    mounted = f"mount -t tmpfs none /mnt; {script}"
    done = on_mounts(mounted, str(checkout), sys.executable, "-m", "thesislib", "run", *flags, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "finished after 6 epochs" in done.stdout
    assert "NUMBA_CACHE_DIR" not in os.environ
