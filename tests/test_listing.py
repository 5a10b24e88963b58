"""All runs on disk as one table."""

import importlib.util

import nbformat
import numpy as np
import pytest
from browser import window
from conftest import TINY, interrupted, trained
from nbclient import NotebookClient
from nbconvert import HTMLExporter

import thesislib as tl
from thesislib.__main__ import main
from thesislib.runs import launch, listing, store
from thesislib.runs.finished import load
from thesislib.system.errors import UserError


def test_no_runs_are_one_plain_line(folders, capsys):
    for made in (False, True):
        if made:
            (folders / "runs").mkdir()
        assert main(["list", "--runs"]) == 0
        assert capsys.readouterr().out == f"no runs in {folders / 'runs'}\n"
    assert tl.runs().empty


def test_a_row_says_how_a_run_ended(finished):
    table = tl.runs()
    row, last = table.iloc[0], finished.history.iloc[-1]
    assert [*table.columns] == [*listing.FRONT, *listing.BEHIND], "nothing differs"
    assert (row["id"], row["status"], row["network"]) == (finished.id, "finished", "mlp-tiny")
    assert (row["epochs"], row["of"]) == (TINY.epochs, TINY.epochs)
    for name in ("accuracy", "test_loss", "d_0"):
        assert row[name] == last[name]
    assert row["seconds"] == pytest.approx(finished.history["seconds"].sum())


def test_every_status_and_what_differs(finished, capsys):
    stopped = interrupted(TINY.replace(strength=5), after=3)
    archived = interrupted(TINY.replace(seed=1), after=1)  # looks like one that came without weights
    for path in finished.folder.glob("*.json"):
        (archived / path.name).write_bytes(path.read_bytes())
    broken = store.runs_folder() / "0123456789ab"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    with store.writing(TINY.replace(seed=2)) as writer:
        writer.resume()
        table = tl.runs().set_index("id")
    assert table.loc[finished.id, "status"] == "finished"
    assert tuple(table.loc[stopped.name, ["status", "epochs", "of", "strength"]]) == ("stopped", 3, 6, 5.0)
    assert tuple(table.loc[writer.folder.name, ["status", "epochs"]]) == ("under way", 0)
    for path in (archived, broken):  # the first has another's files
        assert table.loc[path.name, "status"] == "broken"
        assert "is broken" in table.loc[path.name, "broken"]
    assert "strength" in table
    assert "width" not in table
    assert main(["list", "--runs"]) == 0
    assert stopped.name in capsys.readouterr().out


def test_what_would_be_ignored_is_refused(capsys):
    for flag, value in (("--section", "1_baseline"), ("--seeds", "3")):
        assert main(["list", "--runs", flag, value]) == 2
        assert f"leave out {flag}" in capsys.readouterr().err


def test_an_archived_run(finished):
    (finished.folder / "final.safetensors").unlink()
    assert list(tl.runs()["status"]) == ["archived"]


def test_rows_become_curves(finished):
    interrupted(TINY.replace(strength=5), after=3)
    results = tl.train(tl.runs())
    assert sorted(results.labels) == ["strength = 1.0", "strength = 5.0"]
    assert load(TINY.replace(strength=5)).summary["epochs"] == TINY.epochs, "went on"
    assert len(tl.plot.curves(results).axes) == 2


def test_a_table_without_rows_and_seeds_beside_one_are_one_line(finished):
    with pytest.raises(UserError, match="there is no run to train"):
        tl.train(tl.runs()[:0])
    with pytest.raises(UserError, match="no column id"):
        tl.train(tl.runs().drop(columns="id"))
    with pytest.raises(UserError, match="seeds are for labels that have fields"):
        tl.train(tl.runs(), seeds=3)


def test_ids_of_no_run_are_one_line(finished):
    for unknown in ("0123456789ab", None):
        with pytest.raises(UserError, match=f"there is no run {unknown} in "):
            tl.train(tl.runs().assign(id=unknown))


def test_runs_of_data_that_have_changed_are_others_today(folders):
    """What is asked for by its id would else be trained anew, as another run."""
    (folders / "data").mkdir()
    run = TINY.replace(data="letters", model="mlp-tiny", epochs=1, minima_every=None)
    for seed in (0, 1):
        rng = np.random.default_rng(seed)
        x, y = rng.integers(0, 256, (600, 28, 28), dtype=np.uint8), np.arange(600) % 10
        np.savez(folders / "data" / "letters.npz", x_train=x, y_train=y, x_test=x, y_test=y)
        if not seed:
            old = launch.execute(run)
            assert tl.train(tl.runs())[0].id == old.id
    for asked in (lambda: tl.train(tl.runs()), lambda: launch.execute(run.replace(start=f"{old.id}:final", seed=1))):
        with pytest.raises(UserError, match=f"run {old.id} is of other data: letters has changed since"):
            asked()
    assert old.history["accuracy"].notna().all(), "it can still be read"
    (folders / "data" / "letters.npz").unlink()
    assert tl.runs()["broken"].tolist() == [""]


def test_a_broken_row_is_one_line(finished):
    (finished.folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="is broken"):
        tl.train(tl.runs())


def test_epochs_are_counted_while_they_are_logged(folders):
    folder = interrupted(TINY, after=3)
    other = TINY.replace(seed=1)
    assert [listing.epochs(run, store.Config.of(run).folder) for run in (TINY, other)] == [3, 0]
    with (folder / "metrics.csv").open("a") as file:
        file.write("4,0.1")  # half a line
    assert len(listing.logged(folder)) == listing.epochs(TINY, folder) == 3


@pytest.fixture
def clicked(finished, folders):
    """A page of `tl.runs.show()`, executed in a kernel."""
    trained({"other": [TINY.replace(seed=1, epochs=2)]})
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("import thesislib as tl\ntl.runs.show()\ntl.runs.show(tl.runs().tail(1))")]
    )
    NotebookClient(notebook, kernel_name="python3").execute()
    page, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    path = folders / "runs.html"
    path.write_text(page)
    return path


def test_the_table_is_filtered_by_clicks_without_network(clicked, finished):
    from playwright.sync_api import expect

    with window(clicked.as_uri()) as opened:
        opened.page.goto(clicked.as_uri())
        every, one = opened.page.locator("table.dataTable tbody").all() or pytest.fail("no table")
        expect(every.locator("tr")).to_have_count(2)
        expect(one.locator("tr")).to_have_count(1)
        opened.page.get_by_placeholder("id", exact=True).first.press_sequentially(finished.id)
        expect(every.locator("tr")).to_have_count(1)
        expect(every).to_contain_text(finished.id)
        assert opened.errors == []
        assert opened.asked == []


def test_without_itables_that_is_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^tl.runs.show\(\) needs itables: pip install itables"):
        tl.runs.show()
