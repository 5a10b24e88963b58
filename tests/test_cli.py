import json
import shutil
from dataclasses import asdict

import pytest
from conftest import thesislib

from thesislib import jobs, launch, sections, store
from thesislib.__main__ import main

CONTRACT = (
    *("run", "--data", "mnist5k", "--model", "mlp", "--epochs", "8", "--minima-every", "4", "--minima", "single"),
    *("--kernel", "rbf", "--strength", "1", "--width", "0.01", "--lr", "0.05", "--seed", "0", "--json"),
)


def test_the_contract_of_run(folders):
    process = thesislib(*CONTRACT)
    assert process.returncode == 0, process.stderr
    summary = json.loads(process.stdout.splitlines()[-1])
    assert {"id", "status", "epochs", "accuracy", "nll", "squared_distances", "seconds"} <= summary.keys()
    assert (summary["status"], summary["epochs"], len(summary["squared_distances"])) == ("finished", 8, 1)
    assert 0.9 < summary["accuracy"] < 0.97
    again = json.loads(thesislib(*CONTRACT).stdout)
    assert again == summary, "the second time it is only read"
    assert [path.name for path in (folders / "runs").iterdir()] == [summary["id"]]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("run --width -1", "--width"),
        ("run --width wide", "--width"),
        ("run --strength -1", "--strength"),
        ("run --strength much", "--strength"),
        ("run --epochs -3", "--epochs"),
        ("run --epochs many", "--epochs"),
        ("run --data letters", "--data"),
        ("run --model transformer", "--model"),
        ("run --depth 3", "--depth"),
        ("run --data mnist", "mnist.npz"),
        ("run --data cifar10 --model resnet20", "cifar10.npz"),
        ("run --start 0123456789ab:0", "no finished run"),
        ("list --scale huge", "unknown scale 'huge'"),
        ("list --scale thesis", "cifar10.npz"),
        ("figures --section 10_conclusion", "unknown section"),
        ("figures --scale huge", "unknown scale"),
        ("figures --scale mnist", "mnist.npz"),
        ("figures -p depth=3", "unknown parameter 'depth'"),
        ("figures -p scale=smoke", "unknown parameter 'scale'"),
        ("figures --section 1_baseline -p widths=[1]", "unknown parameter 'widths'"),
        ("figures --section 1_baseline -p smoothing=much", "smoothing must be like 1"),
        ("figures --section 1_baseline -p width=-1", "--width"),
        ("figures -p smoothing", "name=value"),
        ("figures -p smoothing=0", "smoothing must be 1"),
        ("figures --section 7_ensembles -p average=mean", "average must be one of probabilities, logits, votes"),
        ("figures --section 0_explore -p epochs=true", "epochs must be neither true nor false"),
        ("run --minima-every 50", "no more than --epochs"),
        ("launch --gpus -1", "--gpus: must be 0 or more"),
        ("launch --sbatch job-name=x", "--sbatch job-name=...: this one is set by launch itself"),
        ("figures --section 2-1_width -p widths=0.5", "list of numbers"),
        ("figures --section 2-1_width -p widths=[]", "list of numbers"),
        ("figures --section 2-1_width -p widths=[-1]", "--width"),
        ("figures --section 3-1_learning_rate -p rates=[true]", "list of numbers"),
        ("figures --section 8_cost -p hills=many", "hills must be a whole number"),
        ("run --width 0.1", "--minima-every"),
        ("run --seed 99999999999999999999999", "--seed"),
        ("dance", "dance"),
        ("", "COMMAND"),
    ],
)
def test_mistakes(command, words, capsys, folders):
    """One line on stderr, exit code 2, no traceback, nothing written."""
    try:
        code = main(command.split())
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.err.startswith("thesislib: ")
    assert captured.err.count("\n") == 1
    assert words in captured.err
    assert captured.out == ""
    assert list(folders.iterdir()) == []


def test_unwritable_runs_folder(folders, monkeypatch, capsys):
    (folders / "file").write_text("")
    monkeypatch.setenv("THESIS_RUNS", str(folders / "file"))
    assert main(["run", "--model", "mlp-tiny", "--epochs", "1"]) == 2
    assert capsys.readouterr().err.startswith("thesislib: cannot write runs to ")


def test_unwritable_figures_folder(folders, monkeypatch, capsys):
    """Said before anything is trained."""
    (folders / "file").write_text("")
    monkeypatch.setenv("THESIS_FIGURES", str(folders / "file"))
    assert main(["figures", "--scale", "smoke"]) == 2
    assert capsys.readouterr().err.startswith("thesislib: cannot write figures to ")
    assert not (folders / "runs").exists()


def test_list_counts(tiny, capsys):
    assert main(["list", "--scale", "smoke", "--section", "1_baseline"]) == 0
    assert "3 runs    0 done    3 missing" in capsys.readouterr().out


def test_plan_counts_what_is_left(tiny, capsys):
    arguments = ["plan", "--scale", "smoke", "--section", "1_baseline"]
    assert main(arguments) == 0
    row = capsys.readouterr().out.splitlines()[1].split()
    # Three runs of eight epochs; two of them need not train the one before the first minimum.
    assert row[:6] == ["mlp-tiny", "mnist5k", "fp32", "3", "3", "22"]
    # By one process: of two that start together either may be the one that keeps the beginning.
    launch.train_missing((run for group in sections.groups("1_baseline", "smoke").values() for run in group), workers=1)
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[4:6] == ["0", "0"]
    # The other two go on from what the first one left behind.
    _, *others = [store.run_id(run) for group in sections.groups("1_baseline", "smoke").values() for run in group]
    for other in others:
        shutil.rmtree(store.runs_folder() / other)
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[4:6] == ["2", "14"]


def test_clean_asks_first(tiny, folders, capsys, monkeypatch):

    launch.execute(tiny)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert main(["clean"]) == 1
    assert len(list((folders / "runs").iterdir())) == 1
    monkeypatch.setattr("builtins.input", lambda _: "y")
    assert main(["clean"]) == 0
    assert list((folders / "runs").iterdir()) == []


def test_clean_leaves_what_is_no_run(tiny, folders, capsys):
    other = folders / "runs" / "bert"
    other.mkdir(parents=True)
    (other / "config.json").write_text("{}")
    launch.execute(tiny)
    assert main(["clean", "--yes"]) == 0
    assert [path.name for path in (folders / "runs").iterdir()] == ["bert"]


def test_clean_deletes_nothing_if_it_cannot_tell_what_was_sent(tiny, folders, capsys):
    launch.execute(tiny)
    jobs.folder().mkdir()
    (jobs.folder() / "submitted.json").write_text("nonsense")
    assert main(["clean", "--yes"]) == 2
    assert "submitted.json is broken" in capsys.readouterr().err
    assert store.is_done(tiny)


def test_clean_leaves_what_is_being_trained(tiny, folders, capsys):
    for run in (tiny, tiny.but(seed=1)):
        launch.execute(run)
    with store.writing(tiny):
        assert main(["clean", "--yes"]) == 1
    assert capsys.readouterr().out == "deleted 1 runs; 1 are being trained and stay\n"
    assert [path.name for path in (folders / "runs").iterdir()] == [store.run_id(tiny)]


def test_what_was_deleted_has_not_failed(tiny, capsys):
    launch.execute(tiny)
    sent = {store.run_id(run): jobs.Sent("local", "x", "1", "log") for run in (tiny, tiny.but(seed=1))}
    jobs.folder().mkdir(parents=True)
    (jobs.folder() / "submitted.json").write_text(json.dumps({i: asdict(one) for i, one in sent.items()}))
    assert main(["clean", "--yes"]) == 0
    assert list(jobs.read()) == [store.run_id(tiny.but(seed=1))]
