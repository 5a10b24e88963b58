"""The explorer as a reader has it: `lab`, its notebook in a browser, a kernel that trains."""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
from browser import missing, window
from conftest import PATIENCE, trained
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from thesislib.app import notebooks
from thesislib.experiments import sections
from thesislib.runs import store
from thesislib.runs.finished import load
from thesislib.system import files

pytestmark = pytest.mark.long

#: Epochs of the run that is stopped: some ten seconds at least, which is two checkpoints.
LONG = 2000

#: Keeps all that the status line says, and counts the pictures of curves.
WATCH = """() => {
    window.said = []; window.pictures = new Set();
    new MutationObserver(() => {
        const status = document.querySelector('.widget-html-content');
        const [hill, image] = document.querySelectorAll('.widget-image');
        if (status && status.innerText !== said.at(-1)) said.push(status.innerText);
        if (image) pictures.add(image.src);
    }).observe(document.body, {subtree: true, childList: true, characterData: true, attributes: true});
}"""

PICTURE = "async image => [...new Uint8Array(await (await fetch(image.src)).arrayBuffer())]"


@pytest.fixture
def lab(folders):
    """`lab` in a copy of the package and its notebook, which a browser saves; yields the server's address and token."""
    if missing():
        with window(""):  # skips, or fails where there must be a browser
            pass
    copy = folders / "copy"
    shutil.copytree(files.ROOT / "thesislib", copy / "thesislib", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "notebooks").mkdir()
    text = (notebooks.notebooks_folder() / "0_explore.ipynb").read_text()
    for name, was, value in (
        ("scale", r"\"laptop\"", r"\"smoke\""),
        ("strength", "100.0", "10.0"),
        ("minima", r"\"multiple\"", r"\"single\""),
        ("epochs", "None", str(LONG)),
    ):
        assert text.count(f"{name} = {was}  #") == 1, name
        text = text.replace(f"{name} = {was}  #", f"{name} = {value}  #")
    (copy / "notebooks" / "0_explore.ipynb").write_text(text)
    (copy / "config").mkdir()
    server = {"open_browser": False, "port": 0, "allow_root": True}
    (copy / "config" / "jupyter_server_config.json").write_text(json.dumps({"ServerApp": server}))
    own = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime", "JUPYTER_DATA_DIR": "data"}
    own |= {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "IPYTHONDIR": "ipython"}
    environment = os.environ | {name: str(copy / folder) for name, folder in own.items()} | {"PYTHONPATH": str(copy)}
    command = [sys.executable, "-m", "thesislib", "lab"]
    with (folders / "lab.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, cwd=copy, stdout=log, stderr=log)
    try:

        def address():
            assert process.poll() is None, (folders / "lab.log").read_text()
            return next((path for path in (copy / "runtime").glob("jpserver-*.json") if path.stat().st_size), None)

        until(address)
        yield json.loads(address().read_text())
    finally:
        process.terminate()
        process.wait(PATIENCE)


def until(there):
    deadline = time.monotonic() + PATIENCE
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def begins(folder):
    """The epochs at which a run's trainings began, by TensorBoard's event files."""
    events = [event for path in sorted(folder.glob("events.*")) for event in EventFileLoader(str(path)).Load()]
    return [event.step for event in events if event.session_log.status == 1]


def test_sliders_show_curves_and_training_is_watched_stopped_and_resumed(lab, folders):
    from playwright.sync_api import expect

    assert lab["token"]
    for strength in (10.0, 30.0):  # 8 epochs each, with the baseline
        trained(sections.rows("0_explore", "smoke", strength=strength, minima="single"))
    with window(lab["url"]) as opened:
        page = opened.page
        page.goto(f"{lab['url']}lab/tree/0_explore.ipynb?token={lab['token']}")
        # Before, a cell that is executed is lost.
        expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible()
        page.evaluate(WATCH)
        for number, cell in enumerate(page.locator(".jp-CodeCell").all()[:2], start=1):
            cell.locator(".jp-InputPrompt").click()
            page.keyboard.press("Shift+Enter")
            expect(cell.locator(".jp-InputPrompt")).to_have_text(f"[{number}]:")
        status, curves = page.locator(".widget-html-content"), page.locator("img.widget-image").nth(1)
        train, stop = (page.get_by_role("button", name=name, exact=True) for name in ("Train", "Stop"))
        expect(status).to_contain_text(f"One run, {LONG} epochs to train: press Train")
        page.screenshot(path=folders / "before.png")

        def slider(name):
            return page.locator(".widget-inline-hbox", has=page.get_by_text(name, exact=True))

        def set_epochs(number):
            readout = slider("epochs").locator(".widget-readout")
            readout.fill(str(number))
            readout.press("Enter")

        def picture():
            return curves.evaluate(PICTURE)

        def counted():
            """The epochs done that the status line has told, each once, in its order."""
            said = page.evaluate("said")
            return list(dict.fromkeys(int(n) for line in said for n in re.findall(r"Training: (\d+) of", line)))

        set_epochs(8)
        expect(status).to_contain_text("N = 0.96")
        expect(status).to_contain_text(". Trained.")
        weak, handle = picture(), slider("strength s").locator(".noUi-handle")
        handle.press("ArrowRight")
        expect(slider("strength s").locator(".widget-readout")).to_have_text("30")
        expect(status).to_contain_text("N = 2.88")
        expect(status).to_contain_text(". Trained.")
        assert picture() != weak, "another curve"
        handle.press("ArrowLeft")
        expect(status).to_contain_text("N = 0.96")
        assert picture() == weak, "the same curve"

        values = page.get_by_role("button", name="Values", exact=True)
        values.click()
        canvas = page.locator(".jupyter-matplotlib canvas").last
        canvas.hover(position={"x": 200, "y": 100})
        expect(page.locator(".jupyter-matplotlib")).to_contain_text(re.compile(r"epoch \d: baseline 0\.\d+, yours 0\."))
        page.screenshot(path=folders / "values.png")
        values.click()
        expect(curves).to_be_visible()
        assert picture() == weak, "the same picture"

        set_epochs(LONG)
        expect(status).to_contain_text("press Train")
        expect(stop).to_be_disabled()
        page.evaluate("said.length = 0; pictures.clear()")
        train.click()
        run = sections.rows("0_explore", "smoke", strength=10.0, minima="single", epochs=LONG)[-1].run
        folder = store.runs_folder() / store.run_id(run)
        # Three updates, and something to resume from.
        page.wait_for_function(
            "new Set(said.filter(line => line.includes('Training: '))).size > 3 && pictures.size > 3"
        )
        until(lambda: (folder / "checkpoint.safetensors").is_file())
        assert not store.is_done(run)
        expect(train).to_be_disabled()
        page.screenshot(path=folders / "during.png")
        stop.click()
        expect(status).to_have_text("Stopped; Train goes on from where it was")
        begun, stopped = counted(), int(files.read_arrays(folder / "checkpoint.safetensors")["epoch"].item())
        assert begun == sorted(begun)
        assert 0 < stopped < LONG
        assert not store.is_done(run)

        page.evaluate("said.length = 0")
        train.click()
        expect(status).to_contain_text(". Trained.", timeout=PATIENCE * 1000)
        assert counted()[0] >= stopped
        assert store.is_done(run)
        assert load(run).summary["epochs"] == LONG
        assert picture() != weak
        page.screenshot(path=folders / "after.png")
        assert begins(folder) == [1, stopped + 1], "the second training went on where the first one had saved itself"
        assert opened.errors == []
        assert opened.asked == []
