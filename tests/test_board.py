"""TensorBoard: what a run's event file has, and the names under which it is shown, asked of a real server."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from zipfile import ZipFile

import pytest
from conftest import PATIENCE, TINY, interrupted, trained
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from thesislib.__main__ import main
from thesislib.app import board as board_of
from thesislib.experiments import sections
from thesislib.runs import launch, store


def hparams(folder):
    """What the plugin is told of a run, by tag."""
    content = EventAccumulator(str(folder)).Reload().PluginTagToContent("hparams")
    return {tag.removeprefix("_hparams_/"): HParamsPluginData.FromString(text) for tag, text in content.items()}


def test_fields_are_hyperparameters_of_their_kind(finished):
    told = hparams(finished.folder)
    start = told["session_start_info"].session_start_info
    fields = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
    assert fields == {name: value for name, value in TINY.model_dump().items() if value is not None}
    assert told["session_end_info"].session_end_info.status == STATUS_SUCCESS
    scalars = EventAccumulator(str(finished.folder)).Reload().Scalars("accuracy")
    assert [event.step for event in scalars] == [*range(1, TINY.epochs + 1)]


def test_a_run_that_is_stopped_has_no_end_yet_and_one_that_explodes_a_bad_one(folders):
    stopped = interrupted(TINY, after=3)
    assert hparams(stopped).keys() == {"session_start_info"}
    launch.execute(TINY)
    assert hparams(stopped)["session_end_info"].session_end_info.status == STATUS_SUCCESS
    diverged = launch.execute(TINY.replace(lr=1e9, minima_every=None))
    assert diverged.summary["status"] == "diverged"
    assert hparams(diverged.folder)["session_end_info"].session_end_info.status == STATUS_FAILURE


@pytest.fixture
def board(folders):
    """TensorBoard on the runs, once some are there: a function that asks it."""
    started = []

    def start(*arguments):
        command = [sys.executable, "-m", "thesislib", "tensorboard", "--port", "0", *arguments]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        started.append(process)
        lines = iter(process.stderr.readline, "")
        address = next(found[0] for line in lines if (found := re.search(r"http://\S+", line)))
        threading.Thread(target=process.stderr.read, daemon=True).start()  # or it would wait for a reader

        def ask(path, **body):
            data = json.dumps(body).encode() if body else None
            request = urllib.request.Request(f"{address}{path}", data, {"Content-Type": "application/json"})
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with direct.open(request, timeout=PATIENCE) as answer:
                return json.loads(answer.read())

        return ask

    yield start
    for process in started:
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0


def names(ask, expected):
    """The names of the runs, once TensorBoard, which reads in the background, has as many as are expected."""
    deadline = time.monotonic() + PATIENCE
    while len(found := ask("data/runs")) < expected:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return set(found)


def test_runs_have_the_names_of_their_figures_and_their_fields(board):
    rows = trained([row for row in sections.rows("2-1_width", "smoke") if row.role == "curve" and row.run.strength])
    launch.execute(TINY)
    ask, shown = board("--scale", "smoke"), {f"2-1_width/{row.label}, seed 0" for row in rows}
    kind = f"other {TINY.data} {TINY.model}"
    other = f"{kind}/run, seed 0, {store.run_id(TINY)}"
    assert names(ask, len(rows) + 1) == shown | {other}
    late = TINY.replace(strength=5)
    launch.execute(late)
    late = f"{kind}/strength = 5.0, seed 0, {store.run_id(late)}"
    assert names(ask, len(rows) + 2) == shown | {other, late}, "the first one keeps its name"
    asked = {
        "experimentName": "", "allowedStatuses": ["STATUS_SUCCESS"], "startIndex": 0, "sliceSize": 99,
        "colParams": [{"hparam": "width", "includeInResult": True}],
    }  # fmt: skip
    groups = ask("data/plugin/hparams/session_groups", **asked)["sessionGroups"]
    widths = {session["name"]: group["hparams"]["width"] for group in groups for session in group["sessions"]}
    for row in rows:
        assert widths[f"2-1_width/{row.label}, seed 0"] == row.run.width
    metrics = {session["name"]: session["metricValues"] for group in groups for session in group["sessions"]}
    accuracy = next(m["value"] for m in metrics[other] if m["name"]["tag"] == "accuracy")
    assert accuracy == pytest.approx(launch.load(TINY).history["accuracy"].iloc[-1])


def test_many_runs_of_no_section_have_a_name_each(tmp_path):
    """The archived ones of all scales, whose descriptions begin alike."""
    archives = (Path(__file__).parents[1] / "figures" / "reference").glob("*/runs.zip")
    for path in archives:
        with ZipFile(path) as archive:
            named = [name for name in archive.namelist() if name.endswith("/config.json")]
            archive.extractall(store.runs_folder(), named)
    linked = tmp_path / "linked"
    shown = board_of._link(linked, sections.rows("1_baseline", "smoke"), True, set())
    assert len(shown) == len(list(store.runs_folder().iterdir())) > 1000
    assert {path.resolve().name for path in linked.glob("*/*")} == shown
    assert board_of._link(linked, [], True, shown) == shown


def test_of_one_section(board, capsys):
    trained([*sections.rows("1_baseline", "smoke")])
    launch.execute(TINY)
    found = names(board("--scale", "smoke", "--section", "1_baseline"), 1)
    assert {name.split("/")[0] for name in found} == {"1_baseline"}
    assert main(["tensorboard", "--port", "-1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
