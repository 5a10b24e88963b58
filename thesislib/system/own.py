"""Networks and kernels of one's own: found by name in an importable module, and known by their source text."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import tokenize
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thesislib.system.errors import UserError
from thesislib.system.files import ROOT

if TYPE_CHECKING:
    from torch import Tensor, nn

#: What a name of one's own looks like: an importable module, and something in it.
NAME = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"

#: Types of numbers that both numpy and safetensors know.
_STORED = {"bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"}

#: The text that each module was loaded from: one that was edited since is another one.
_texts: dict[str, str] = {}


def is_own(name: str) -> bool:
    """Whether a name is of the form "module:name"."""
    return ":" in name


def source(name: str) -> str:
    """The text of the module in "module:name". Raises UserError if there is no such module.

    It is looked for in the working folder, on Python's path, then beside this package, where notebooks do not work.
    Processes that are started later find it as well.
    """
    module, beside = name.partition(":")[0], str(ROOT)
    here, paths = str(Path.cwd()), [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    # A task of a cluster has its launcher's PYTHONPATH only once it has begun.
    sys.path[:0] = [folder for folder in (here, *paths) if folder not in sys.path]
    sys.path += [beside] * (beside not in sys.path)
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # a package in front of the dot that is not there
        found = None
    except Exception:  # or is broken
        call(name, importlib.import_module, module.rpartition(".")[0])
        raise
    if found is None or not found.origin or not found.origin.endswith(".py"):
        places = ", in ".join(dict.fromkeys([here, beside]))
        advice = f": write {module.removesuffix('.py')}:..." if module.endswith(".py") else ""
        raise UserError(f"{name}: no module {module} in {places} or on Python's path (PYTHONPATH){advice}")
    path = Path(found.origin)
    folder = str(path.parents[module.count(".") + (path.name == "__init__.py")])
    if folder not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([folder, *paths])
    return call(name, _text, path)


def _text(path: Path) -> str:
    with tokenize.open(path) as file:  # in the encoding that it names
        return file.read()


def digest(name: str) -> str:
    """A short name of that text, part of a run's id: 16 hex digits."""
    return _short(source(name))


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def loaded(name: str, short: str) -> str:
    """The text that "module:name" was loaded from, else that of now. Raises UserError if it is not of this `digest`."""
    text = _texts.get(name.partition(":")[0]) or source(name)
    if _short(text) != short:
        raise UserError(f"{name} was changed just when a run of it was to begin: start it again")
    return text


def load(name: str) -> Callable[..., Any]:
    """What "module:name" says, as its module's text is now. Raises UserError if it is not there, or not callable."""
    module, _, attribute = name.partition(":")
    text = source(name)
    if module not in sys.modules or _texts.get(module) != text:
        call(name, _execute, module, text)
        _texts[module] = text
    found = getattr(sys.modules[module], attribute, None)
    if not callable(found):
        raise UserError(f"{name}: {module} has no function or class {attribute}")
    return found


def _execute(module: str, text: str) -> None:
    """Import a module from this very text.

    Python itself would read the file once more, or take the bytecode of an older text, if that has as many letters and
    is of the same second. What was made by an earlier text keeps its own module.
    """
    spec, before = importlib.util.find_spec(module), sys.modules.get(module)
    sys.modules[module] = made = importlib.util.module_from_spec(spec)
    try:
        exec(compile(text, spec.origin, "exec", dont_inherit=True), made.__dict__)
    except BaseException:
        del sys.modules[module]
        if before is not None:
            sys.modules[module] = before
        raise
    parent, _, last = module.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, made)


def call(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call somebody's own code. Raises UserError, with the place, for whatever goes wrong in it, also if it exits."""
    try:
        return function(*arguments)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise _mistake(name, error) from error


@contextmanager
def blamed(*names: str) -> Iterator[None]:
    """Raise UserError, with the place, for what goes wrong in one of these modules, "module:name", or below it.

    Also for what goes wrong in torch's own layers, which a network of one's own may be made of alone.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, ValueError) and str(error).startswith("Expected more than 1 value per channel"):
            raise UserError("a BatchNorm cannot do with one number a channel: raise batch_size") from error
        for name in filter(is_own, names):
            if _lines(name, error) or _in_layers(error):
                raise _mistake(name, error) from error
        raise


def _in_layers(error: BaseException) -> bool:
    """Whether it was one of torch's layers that failed."""
    layers = str(Path("torch", "nn", "modules"))
    return any(layers in place.filename for place in traceback.extract_tb(error.__traceback__))


def _mistake(name: str, error: BaseException) -> UserError:
    """What went wrong, and the last line of the module where it did, else the last line of all."""
    text = str(error).partition(" (")[0] if isinstance(error, SyntaxError) else error
    if isinstance(error, SyntaxError) and error.filename:
        place = error
    else:
        place = (_lines(name, error) or traceback.extract_tb(error.__traceback__))[-1]
    where = f"{Path(place.filename).name}, line {place.lineno}"
    return UserError(f"{name}: {type(error).__name__}: {text} ({where})")


def _lines(name: str, error: BaseException) -> list[traceback.FrameSummary]:
    """The lines of that module that an error went through."""
    file = getattr(sys.modules.get(name.partition(":")[0]), "__file__", None)
    return [place for place in traceback.extract_tb(error.__traceback__) if file and place.filename == file]


def _takes(name: str, function: Callable[..., Any], *words: str) -> None:
    """Raise UserError if a function cannot be called with so many arguments."""
    with contextlib.suppress(ValueError):  # of some builtins nothing is known
        try:
            inspect.signature(function).bind(*words)
        except TypeError as error:
            raise UserError(f"{name}: it is called with ({', '.join(words)}): {error}") from None


def network(name: str, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """What "module:name"(shape, classes) makes. Raises UserError if it is no network for images of [C, H, W]."""
    import torch  # here, and below: what only reads runs must not pay for it

    from thesislib.system import draws

    make = load(name)
    _takes(name, make, "shape", "classes")
    model = call(name, make, shape, classes)
    if not isinstance(model, torch.nn.Module):
        kind = type(model).__name__
        raise UserError(f"{name}: {name.partition(':')[2]}(shape, classes) must return an nn.Module, not {kind}")
    for part, p in model.named_parameters():
        if isinstance(p, torch.nn.parameter.UninitializedParameter) or p.dtype != torch.float32:
            kind = "lazy: give its layer all sizes" if hasattr(p, "materialize") else f"{p.dtype}: it must be float32"
            raise UserError(f"{name}: the parameter {part} is {kind}")
    for part, buffer in model.named_buffers():
        if buffer.layout != torch.strided or str(buffer.dtype).removeprefix("torch.") not in _STORED:
            raise UserError(f"{name}: the buffer {part} is {buffer.dtype}, which files do not have")
    with torch.no_grad(), draws.drawn_by("check"):
        twin = call(name, copy.deepcopy, model)
        for mode in (False, True):
            output = call(name, lambda mode=mode: twin.train(mode)(torch.zeros(2, *shape)))
            if (got := _form(output)) != [2, classes]:
                raise UserError(f"{name}: output [B, {classes}] expected, but for two images it is {got}")
            if not output.is_floating_point():
                raise UserError(f"{name}: logits are real numbers, not {output.dtype}")
        if _buffer_shapes(twin) != _buffer_shapes(model):
            raise UserError(f"{name}: a buffer changes its shape while it trains, from which no run could go on")
        if call(name, _is_read_by, model, copy.deepcopy(model).eval(), torch.zeros(2, *shape)):
            raise UserError(
                f"{name}: a copy of it computes with its weights, as a lambda does that names self: make it a method"
            )
    frozen = {part: p for part, p in model.named_parameters() if not p.requires_grad}
    if frozen and (drawn := drawn_parts(frozen, dict(call(name, make, shape, classes).named_parameters()))):
        # Stored are weights that train: whoever builds the network anew, for another seed, would have others.
        raise UserError(
            f"{name}: {drawn[0]} is frozen, but drawn at random: give it the same weights each time, from a file say"
        )
    return model


def _buffer_shapes(model: nn.Module) -> dict[str, list[int]]:
    return {part: list(buffer.shape) for part, buffer in model.named_buffers()}


def _is_read_by(model: nn.Module, twin: nn.Module, images: Tensor) -> bool:
    """Whether what a copy of a network says changes with the network's weights."""
    from thesislib.system import draws

    said, kept = [], [p.clone() for p in model.parameters()]
    for change in (0.0, 1.0):
        for p in model.parameters():
            p.add_(change)
        with draws.drawn_by("twin"):
            said.append(twin(images.clone()).nan_to_num())  # it may change its input
    for p, old in zip(model.parameters(), kept, strict=True):
        p.copy_(old)
    return not said[0].equal(said[1])


def drawn_parts(parts: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors of a network that differ from those of the same network, built once more."""
    return [part for part, tensor in parts.items() if not tensor.equal(others[part])]


def kernel(function: str | Callable[[Tensor, float], Tensor]) -> Callable[[Tensor, float], tuple[Tensor, Tensor]]:
    """A kernel of a function k(d, w), or "module:name" of one, with its slope by autograd, on a number a hill.

    Raises UserError if it does not give a value for each d.
    """
    import torch

    name, k = (function, load(function)) if isinstance(function, str) else (_named(function), function)
    if not callable(k):
        raise UserError(f"a kernel must be a function k(d, w), or a name such as rbf, not {k!r}")
    _takes(name, k, "d", "w")

    def with_slope(d: Tensor, width: float) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            d = d.detach().requires_grad_()
            value = call(name, k, d, width)
            if not isinstance(value, torch.Tensor):
                kind = type(value).__name__
                raise UserError(f"{name}: k(d, w) must give a value for each d, as a Tensor, not {kind}")
            if (got := _form(value)) != list(d.shape):
                raise UserError(f"{name}: k(d, w) must give a value for each d: {list(d.shape)}, not {got}")
            if value.is_complex():
                raise UserError(f"{name}: k(d, w) must be real numbers")
            value = value.to(d.dtype)
            if not value.requires_grad:
                raise UserError(f"{name}: k(d, w) must depend on d: it has no slope")
            if (wrong := ~value.isfinite() & d.isfinite()).any():
                raise UserError(f"{name}: k(d, w) must be a number, also at d = {d[wrong][0]:g}")
            (slope,) = torch.autograd.grad(value.sum(), d)
            if not slope.isfinite().all() and d.isfinite().all():
                raise UserError(
                    f"{name}: k(d, w) has no slope at d = {d[~slope.isfinite()][0]:g}: make it smooth there"
                )
        return value.detach(), slope

    # Say at once what is wrong with it.
    some = torch.tensor([0.0, 1.0, 10.0])
    values, slopes = with_slope(some, 1.0)
    if not values.allclose(torch.cat([with_slope(d[None], 1.0)[0] for d in some])):
        raise UserError(f"{name}: k(d, w) must take each d on its own: beside others it gives another value")
    if not slopes.any():
        raise UserError(f"{name}: k(d, w) has slope 0 at d = 0, 1 and 10, w = 1: it pushes nothing")
    if not values[0].isclose(torch.ones(()), atol=0.01) or (values.diff() > 0).any():
        shown = ", ".join(f"{value:.3g}" for value in values)
        warnings.warn(f"{name}: no hill of height 1: at d = 0, 1 and 10, w = 1 it is {shown}", stacklevel=2)
    return with_slope


def _form(value: Any) -> list[int] | str:
    """The shape of a tensor, else what else it is."""
    return list(value.shape) if hasattr(value, "shape") else type(value).__name__


def _named(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)
