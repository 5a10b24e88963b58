"""`make figures` twice at once, and interrupted."""

import os
import signal
import tempfile
import time
from pathlib import Path

import pytest
from conftest import PATIENCE, trained
from trees import Tree, papermill

from thesislib.experiments import sections
from thesislib.runs import store

pytestmark = pytest.mark.long


def test_two_at_once_execute_a_notebook_once(tmp_path):
    tree = Tree(tmp_path)
    assert tree.make("--section", "2-2_strength")[:2] == (0, ["2-2_strength"])
    before = tree.written()
    once = ("--section", "2-2_strength", "-p", "smoothing=3")
    both = [tree.start(*once) for _ in range(2)]
    said = [process.communicate(timeout=PATIENCE)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(text.count("ok     2-2_strength") for text in said) == 1, said
    assert tree.written()["2-2_strength.pgf"] != before["2-2_strength.pgf"]


def test_an_interrupt_ends_all_of_it_and_the_next_call_goes_on(tmp_path, short):
    """While it trains and a kernel is at work; then, one process at a time, the rest."""
    tree = Tree(tmp_path)
    trained(sections.rows("2-1_width", "smoke"))
    needed = {store.run_id(row.run) for row in sections.rows("4-2_merged_minima", "smoke")}
    kept = {store.run_id(row.run) for row in sections.rows("2-1_width", "smoke")}
    arguments = ("--section", "4-2_merged_minima", "2-1_width")
    process = tree.start(*arguments, "--jobs", "2", TMPDIR=str(short))
    wait_until(lambda: left_of(short) or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "thesislib: interrupted; what is finished is kept, the rest resumes"
    wait_until(lambda: not left_of(short))  # kernels look every second whether anybody is there
    assert not list(short.glob("thesis-kernel-*"))
    code, executed, _ = tree.make(*arguments, "--jobs", "1")
    assert code == 0
    assert sorted(executed) == sorted(arguments[1:])
    for section in arguments[1:]:
        begin, end = (papermill(tree.figures, section, what) for what in ("start_time", "end_time"))
        finished = [(tree.folder / "runs" / name / "done.json").stat().st_mtime for name in needed - kept]
        assert not [at for at in finished if begin < at < end], "nothing trains beside a notebook"


@pytest.fixture
def short():
    """A folder whose path leaves room for those of sockets."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def left_of(folder):
    """Processes whose command names something in a folder: kernels."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:  # it has ended
            continue
        found += [path.parent.name] * (os.fsencode(folder) in command)
    return found


def wait_until(true):
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
