import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from conftest import thesislib, trained

from thesislib.__main__ import main, parameters
from thesislib.app import notebooks
from thesislib.experiments import sections
from thesislib.plots import curves, save, style
from thesislib.runs import launch, slurm, store

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
        ("run --data letters", "no dataset letters"),
        ("run --model transformer", "--model"),
        ("run --depth 3", "--depth"),
        ("run --data mnist", "mnist.npz"),
        ("run --data cifar10 --model resnet20", "cifar10.npz"),
        ("run --start 0123456789ab:0", "no finished run"),
        ("list --scale huge", "unknown scale 'huge'"),
        ("list --scale thesis", "cifar10.npz"),
        ("figures --section 10_conclusion", "unknown section"),
        ("figures --scale huge", "unknown scale"),
        ("figures --scale huge --section 0_own_question", "unknown scale"),
        ("figures --scale mnist", "mnist.npz"),
        ("figures -p depth=3", "unknown parameter 'depth'"),
        (
            "figures --section 0_first_steps -p seeds=3",
            "unknown parameter 'seeds': there are none in 0_first_steps",
        ),
        ("run --train-size 100", "--batch-size: 128 is more than the 100 training images"),
        ("run --train-size 4000 --validation", "--validation: train_size 4000 leaves none of mnist5k's images"),
        ("figures -p scale=smoke", "unknown parameter 'scale'"),
        ("figures --section 1_baseline -p widths=[1]", "unknown parameter 'widths'"),
        ("figures --section 1_baseline -p smoothing=much", "smoothing: input should be a valid integer"),
        ("figures --section 1_baseline -p width=-1", "width: input should be greater than 0, not -1"),
        ("figures -p smoothing", "name=value"),
        ("figures -p smoothing=0", "smoothing: input should be greater than or equal to 1"),
        (
            "figures --section 7_ensembles -p average=mean",
            "average: input should be",
        ),
        ("figures --section 0_explore -p epochs=true", "epochs: input should be a valid integer, not True"),
        ("run --minima-every 50", "the first minimum comes after epoch 50, the run ends after 40, so there is no hill"),
        ("run --minima-every 40", "the first minimum comes after epoch 40, the run ends after 40, so there is no hill"),
        ("launch --gpus -1", "--gpus: must be 0 or more"),
        ("launch --partition gpu", "--partition is Slurm's: add --cluster slurm, or the runs are trained here"),
        ("launch --sbatch account=me", "--sbatch is Slurm's"),
        ("launch --hours 2", "--hours is Slurm's"),
        ("list --seeds 1000000000", "seeds: write how many"),
        ("figures --seeds 2 -p seeds=[3]", "seeds are given twice"),
        ("launch --sbatch job-name=x", "--sbatch job-name=...: this one is set by launch itself"),
        ("figures --section 2-1_width -p widths=0.5", "widths: input should be a valid list"),
        ("figures --section 2-1_width -p widths=[]", "widths: list should have at least 1 item"),
        ("figures --section 2-1_width -p widths=[-1]", "widths: input should be greater than 0, not -1"),
        ("figures --section 3-1_learning_rate -p rates=[true]", "rates: input should be a valid number"),
        ("figures --section 8_cost -p hills=many", "hills: input should be a valid integer"),
        (
            "figures --section 1_baseline -p smoothing=100000000000000000000000000000",
            "less than or equal to 1000000000",
        ),
        ("figures --section 1_baseline -p smoothing=1e30", "smoothing: input should be a valid integer"),
        ("figures --section 8_cost -p hills=99999", "100000 minima, 1000 at most"),
        ("figures --section 8_cost -p hills=1000000000", " epochs: input should be less than or equal to"),
        ("figures --section 2-1_width -p widths=" + 100_000 * "[", "widths: input should be a valid list"),
        ("figures --section 2-1_width -p width\x1b[31ms=1", "write name=value"),
        ("figures --jobs 0", "--jobs must be a whole number from 1 to 10000, not 0"),
        ("run --epochs 1000000000 --minima-every 1 --minima multiple", "1000000000 minima, 1000 at most"),
        ("run --epochs 10000000000", "--epochs: input should be less than or equal to 1000000000"),
        ("run --width 5e-324", "--width: input should be 1e-30 or more"),
        ("run --weight-decay 5e-324", "--weight-decay: input should be 1e-30 or more"),
        ("run --momentum 5e-324", "--momentum: input should be 1e-30 or more"),
        ("run --strength \x1b[31m1\x07\u202e", r"\x1b[31m1\x07\u202e"),
        ("run --kernel " + 100_000 * "x", "x [...] x"),
        ("clean --figures --records", "not allowed with"),
        ("list --runs --scale nope", "unknown scale 'nope'"),
        ("run --hill-at random", "no minimum comes, the run ends after 40, so there is no hill"),
        ("run --push random --strength-schedule cosine", "no minimum comes, the run ends after 40"),
        ("run --width 0.1", "no minimum comes, the run ends after 40, so there is no hill: give minima_every, or"),
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
    assert captured.err[:-1].isprintable()
    assert len(captured.err) < 1200
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
    runs = [row.run for row in sections.rows("1_baseline", "smoke")]
    for run in runs:
        launch.execute(run)
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[4:6] == ["0", "0"]
    # The other two go on from what the first one left behind.
    for run in runs[1:]:
        shutil.rmtree(store.runs_folder() / store.run_id(run))
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
    slurm.folder().mkdir()
    (slurm.folder() / "submitted.json").write_text("nonsense")
    assert main(["clean", "--yes"]) == 2
    assert "submitted.json is broken" in capsys.readouterr().err
    assert store.is_done(tiny)


def test_clean_leaves_what_is_being_trained(tiny, folders, capsys):
    for run in (tiny, tiny.replace(seed=1)):
        launch.execute(run)
    with store.writing(tiny):
        assert main(["clean", "--yes"]) == 1
    assert capsys.readouterr().out == "deleted 1 runs; 1 are being trained and stay\n"
    assert [path.name for path in (folders / "runs").iterdir()] == [store.run_id(tiny)]


def test_what_was_deleted_has_not_failed(tiny, capsys):
    launch.execute(tiny)
    sent = {store.run_id(run): slurm.Sent("local", "x", "1", "log") for run in (tiny, tiny.replace(seed=1))}
    slurm.folder().mkdir(parents=True)
    (slurm.folder() / "submitted.json").write_text(json.dumps({i: asdict(one) for i, one in sent.items()}))
    assert main(["clean", "--yes"]) == 0
    assert list(slurm.sent()) == [store.run_id(tiny.replace(seed=1))]


def test_clean_leaves_files_that_no_run_writes(tiny, folders):
    """Somebody's notes in a run's folder, and what a link points to."""
    result, runs = launch.execute(tiny), folders / "runs"
    for name in ("notes.txt", ".notes", "plot.png"):
        (result.folder / name).write_text("mine")
    shutil.copytree(result.folder, folders / "elsewhere")
    (runs / "0123456789ab").symlink_to(folders / "elsewhere")
    (result.folder / ".final.safetensors.0123456789abcdef").write_text("half of it, when the process was killed")
    before = sorted((folders / "elsewhere").iterdir())
    assert main(["clean", "--yes"]) == 0
    assert sorted(path.relative_to(runs).as_posix() for path in runs.rglob("*")) == [
        result.id, f"{result.id}/.notes", f"{result.id}/notes.txt", f"{result.id}/plot.png"
    ]  # fmt: skip
    assert sorted((folders / "elsewhere").iterdir()) == before


def test_a_run_that_resumes_deletes_only_its_own_half_written_files(tiny):
    folder = store.runs_folder() / store.run_id(tiny)
    folder.mkdir(parents=True)
    theirs = (".notes", ".metrics.csv.swp", ".nfs0001")
    for name in (*theirs, ".metrics.csv.0123456789abcdef", ".derived-loss-0a-1b.safetensors.0123456789abcdef"):
        (folder / name).write_text("x")
    launch.execute(tiny)
    assert {path.name for path in folder.glob(".*")} == set(theirs)


def test_clean_deletes_only_figures_that_were_written_here(tiny, folders, capsys):
    """$THESIS_FIGURES may be a thesis: with its .git, the runs, and sketches among the figures."""
    figures, results = folders / "figures", trained({"no term": [tiny.replace(strength=0)], "term": [tiny]})
    save.save(curves.curves(results), "mine", results)
    drawn = figures / "smoke"
    save.document(drawn, drawn.glob("*.pgf"))
    save.table(results.final, "ends", results)
    save.table(results.final, "scores", results)
    heatmap, _ = style.grid(1, 1, 2.0)
    heatmap.axes[0].pcolormesh([[1.0, 2.0], [3.0, 4.0]])
    save.save(heatmap, "heat", results)
    (drawn / ".mine.png.0123456789abcdef").write_text("x")
    assert len(list(drawn.iterdir())) == 4 + 1 + 4 + 5 + 1 + 1, "two figures, one with an image, tables, the list"
    kept = [
        "thesis.tex", ".git/config", "smoke/sketch.png", "smoke/mine-notes.txt", "smoke/numbers.csv", "smoke/data.json",
        "smoke/lab.ipynb", "smoke/runs.zip", "smoke/sub/mine.png", "other/1_baseline.png", "reference/smoke/mine.json",
    ]  # fmt: skip
    for name in kept:
        path = figures / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"scale": "smoke", "metadata": {}, "cells": []}))
    shutil.copytree(folders / "runs", figures / "runs")
    kept += [path.relative_to(figures).as_posix() for path in (figures / "runs").rglob("*") if path.is_file()]
    assert main(["clean", "--figures"]) == 0
    assert {path.relative_to(figures).as_posix() for path in figures.rglob("*") if path.is_file()} == set(kept)
    left = "data.json, lab.ipynb, mine-notes.txt, numbers.csv, runs.zip, sketch.png, sub"
    assert capsys.readouterr().out == f"deleted 15 files in {drawn}; not written here, so left: {left}\n"
    assert store.is_done(tiny)


def make(*arguments, folder, **environment):
    """The Makefile's own commands, without its environment."""
    (folder / "ready").touch()
    command = ["make", f"READY={folder / 'ready'}", f"PY={sys.executable}", *arguments]
    # `make test` hands its own flags on, and with them make names the folders that it enters.
    own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, env=own | environment)


def test_make_clean_leaves_a_thesis(folders):
    (folders / "mine" / ".git").mkdir(parents=True)
    done = make("clean", folder=folders, THESIS_FIGURES=str(folders / "mine"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"no figures in {folders / 'mine'}\n"
    assert (folders / "mine" / ".git").is_dir()


def test_make_hands_on_blanks_brackets_and_quotes(folders):
    """The last of the widths does not fit, which tells that all of them have arrived; nothing is executed."""
    p = f"widths=[0.5, 0.05, -1] smoothing=5 $(touch {folders}/a) `touch {folders}/b`; touch {folders}/c"
    done = make("figures", "section=2-1_width", "p=widths=[0.5, 0.05, -1] smoothing=5", folder=folders)
    assert "widths: input should be greater than 0, not -1" in done.stderr
    done = make("figures", "section=2-1_width", f"p={p}".replace("$", "$$"), folder=folders)
    assert "write name=value" in done.stderr
    assert sorted(path.name for path in folders.iterdir()) == ["ready"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("widths=[0.5, 0.05]", {"widths": [0.5, 0.05]}),
        ("widths=[0.5,\t0.05] smoothing=5 average=votes", {"widths": [0.5, 0.05], "smoothing": 5, "average": "votes"}),
        (" start=0123456789ab:0  share=false ", {"start": "0123456789ab:0", "share": False}),
        ('start="a b=1" hills=3', {"start": "a b=1", "hills": 3}),
        ("a= b=1", {"a": "", "b": 1}),
    ],
)
def test_parameters_are_told_apart(text, expected):
    assert parameters(text) == expected


def test_a_reader_that_leaves_is_no_error():
    command = f"{sys.executable} -m thesislib list | {{ read -r line; }}; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("141\n", "")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_files_may_be_closed(closed):
    """As of a job that somebody starts so: what is said leads nowhere, and no file is taken for the one that is not."""
    done = subprocess.run(["bash", "-c", f"{sys.executable} -m thesislib list --scale smoke {closed}"], text=True,
                          capture_output=True)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert bool(done.stdout) == (closed == "2>&-")


def test_folders_mean_the_same_everywhere(monkeypatch, folders):
    """Relative to where the command was given, ~ as in a shell; whoever is started works on the same ones."""
    monkeypatch.chdir(folders)
    monkeypatch.setenv("HOME", str(folders / "home"))
    monkeypatch.setenv("THESIS_RUNS", "sub/runs")
    monkeypatch.setenv("THESIS_FIGURES", "~/a {scale} b")
    assert main(["list", "--scale", "smoke", "--section", "1_baseline"]) == 0
    (folders / "other").mkdir()
    monkeypatch.chdir(folders / "other")
    assert store.runs_folder() == folders / "sub" / "runs"
    assert save.figures_folder("smoke") == folders / "home" / "a {scale} b" / "smoke"


@pytest.mark.parametrize("value", [b"/tmp/\xe4", b"~nobodyofthatname/runs"])
def test_folders_that_cannot_be_used_are_one_line(value):
    done = subprocess.run(
        [sys.executable, "-m", "thesislib", "list", "--scale", "smoke"],
        env=os.environb | {b"THESIS_RUNS": value}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("thesislib: THESIS_RUNS: ")


def test_lab_is_this_environments_on_the_same_folders(folders):
    """What Lab would be executed with: a kernel named python3 elsewhere does not come first."""
    code = (
        "import json, os, sys; from thesislib.__main__ import main\n"
        "os.execv = lambda *a: print(json.dumps([*a, os.environ['THESIS_RUNS'], os.environ['JUPYTER_PATH']]))\n"
        "main(['lab'])"
    )
    environment = os.environ | {"THESIS_RUNS": "runs", "JUPYTER_PATH": "/foreign"}
    done = subprocess.run([sys.executable, "-c", code], cwd=folders, env=environment, capture_output=True, text=True)
    program, command, runs, path = json.loads(done.stdout)
    assert program == command[0] == sys.executable
    assert f"--notebook-dir={notebooks.notebooks_folder()}" in command
    assert runs == str(folders / "runs")
    assert path == f"{sys.prefix}/share/jupyter:/foreign"


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_place_in_somebody_elses_group_is_none_of_ours(tiny, rank):
    """As in a shell of a batch system, or of a framework that had started several processes."""
    group = {"RANK": rank, "WORLD_SIZE": "2", "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}
    if rank == "1":
        wrong = thesislib("run", "--lr", "-1", **group)
        assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1), "not only the first says so"
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in tiny.model_dump(exclude_defaults=True).items()]
    alone = thesislib("run", *flags, **group)
    assert (alone.returncode, alone.stderr) == (0, "")
    assert alone.stdout.startswith(f"run {store.run_id(tiny)} finished after 6 epochs")


def test_who_leaves_a_question_says_no(tiny, capsys, monkeypatch):
    """Ctrl-D."""
    launch.execute(tiny)
    asked = io.StringIO()
    asked.isatty = lambda: True
    monkeypatch.setattr("sys.stdin", asked)
    assert main(["clean"]) == 1
    assert "nothing deleted" in capsys.readouterr().out
    assert store.is_done(tiny)


def test_what_a_command_cannot_use_it_does_not_take(capsys):
    with pytest.raises(SystemExit):
        main(["report", "--seeds", "3"])
    assert "unrecognized arguments: --seeds 3" in capsys.readouterr().err
    assert main(["list", "--runs", "--section", "1_baseline"]) == 2
    assert "--runs lists every run: leave out --section" in capsys.readouterr().err
