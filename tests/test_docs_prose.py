"""The repository's prose: short sentences, links that lead somewhere, commands that exist, code that runs."""

import json
import re
from pathlib import Path

import pytest
from scipy.special import softmax

import thesislib as tl
from thesislib.__main__ import main
from thesislib.runs.results import Results

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = sorted(
    [ROOT / "README.md", ROOT / "figures" / "README.md", *(ROOT / "docs").glob("*.md")]
    + [*(ROOT / "figures" / "reference").glob("*/README.md")]
)
SECTIONS = [path for path in NOTEBOOKS if not path.stem.startswith("0")]


def name(path):
    return str(path.relative_to(ROOT))


def text_of(path):
    """The Markdown of a page, or of a notebook's cells."""
    if path.suffix == ".md":
        return path.read_text()
    cells = json.loads(path.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def sentences(markdown):
    """Its sentences: no code, formulas set apart, tables, headings, pictures or comments."""
    for drop in (r"```.*?```", r"<!--.*?-->", r"\$\$.*?\$\$", r"!\[[^\]]*\]\([^)]*\)"):
        markdown = re.sub(drop, "\n\n", markdown, flags=re.DOTALL)
    markdown = re.sub(r"^( {4}|\||#).*$", "", markdown, flags=re.MULTILINE)
    markdown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", markdown)
    for block in re.split(r"\n\s*\n|^\s*(?:-|\d\.) ", markdown, flags=re.MULTILINE):
        for sentence in re.split(r"(?<=[.!?])[\s*]+(?=[\W\d]*[A-Z`$\d])", block):
            if words := re.findall(r"\S*\w\S*", sentence):
                yield words


def test_the_readme_is_one_page():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 1500


@pytest.mark.parametrize("path", PAGES + NOTEBOOKS, ids=name)
def test_sentences_are_short(path):
    found = list(sentences(text_of(path)))
    assert sum(map(len, found)) / len(found) < 20
    longest = max(found, key=len)
    assert len(longest) <= 30, " ".join(longest)


def numbers(line):
    """Numbers in a line: not in formulas, code, names (C4, L2, ResNet-20) or sections."""
    line = re.sub(r"\$[^$]*\$|`[^`]*`|\bsections? \d(\.\d)?( and \d\.\d)?|\b[A-Za-z]+-?\d+\b", "", line)
    return re.findall(r"\d[\d,.]*", line)


@pytest.mark.parametrize("path", SECTIONS, ids=name)
def test_readings_are_three_bullets_and_a_line_a_scale(path):
    """Of those with the whole chapter, and those that have this section at least."""
    reading = text_of(path).split("## Reading\n")[1]
    bullets = re.findall(r"^- .*$", reading, re.MULTILINE)
    scales = re.findall(r"^\*\*([\w-]+)\*\*: .*$", reading, re.MULTILINE)
    assert len(bullets) == 3
    chapters = [page.parent for page in (ROOT / "figures" / "reference").glob("*/README.md")]
    needed = ("4-2_merged_minima.csv", f"{path.stem}.csv")  # the last that is trained, of all but a few claims
    assert set(scales) == {folder.name for folder in chapters if any((folder / name).is_file() for name in needed)}
    for line in reading.splitlines():
        assert len(numbers(line)) <= 2, line


def anchors(path):
    """Fragments that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES + NOTEBOOKS, ids=name)
def test_links_and_pictures_are_there(path):
    for link in re.findall(r"\]\(([^)]+)\)", text_of(path)):
        if not link.startswith("http"):
            file, _, fragment = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            assert target.exists(), link
            assert not fragment or fragment in anchors(target), link


def commands(program):
    """The words after every `make` or `-m thesislib` of the pages' code, each with its page."""
    for path in PAGES:
        code = re.findall(r"^ {4}.*$|`[^`\n]+`", text_of(path), re.MULTILINE)
        for words in re.findall(rf"(?<![\w-]){program} ([^\n`#|]+)", "\n".join(code)):
            yield name(path), re.split(r" (?:&&|to) ", words)[0].split()


def test_makes_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    spoken = {(page, words[0]) for page, words in commands("make")}
    assert {("README.md", "figures"), ("README.md", "test"), ("README.md", "restore")} <= spoken
    assert [(page, target) for page, target in sorted(spoken) if target not in targets] == []


def test_subcommands_and_their_flags_exist(capsys):
    asked = {}
    for _, words in commands("-m thesislib"):
        asked.setdefault(words[0], set()).update(word for word in words if word.startswith("--"))
    assert {"run", "plan", "launch", "pack", "unpack"} <= asked.keys()
    for command, flags in asked.items():
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert not ended.value.code, command
        assert flags <= set(re.findall(r"--[a-z-]+", capsys.readouterr().out)), command


def test_the_deviations_that_the_code_marks_are_listed():
    marked = {name(path) for path in (ROOT / "thesislib").rglob("*.py") if "# Thesis:" in path.read_text()}
    listed = set(
        re.findall(r"^\| `(thesislib/[\w/]+\.py)` \|", (ROOT / "docs/DIFFERENCES.md").read_text(), re.MULTILINE)
    )
    assert marked == listed


def test_files_that_the_pages_name_exist():
    for path in PAGES:
        for file in re.findall(r"`((?:thesislib|notebooks|tests|docs|figures)/[\w/.-]+\.\w+)`", text_of(path)):
            assert (ROOT / file).exists(), f"{name(path)}: {file}"


def example(first):
    """Code of docs/EXTENDING.md, by the beginning of its first line: of a module the name."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "EXTENDING.md").read_text(), re.DOTALL)
    return next(block for block in blocks if block.startswith(first))


def test_the_network_and_the_kernels_of_the_docs_train(tmp_path, monkeypatch, capsys):
    """As the page says: two files, named on the command line."""
    for module in ("mynet", "mykernels"):
        (tmp_path / f"{module}.py").write_text(example(f"# {module}.py"))
    monkeypatch.syspath_prepend(tmp_path)
    short = ("--train-size", "256", "--test-size", "100", "--epochs", "2", "--minima-every", "1", "--json")
    for kernel in ("cauchy", "laplace"):
        own = ("--model", "mynet:small_cnn", "--kernel", f"mykernels:{kernel}")
        assert main(["run", *own, *short]) == 0
        said = json.loads(capsys.readouterr().out)
        assert said["status"] == "finished"
        assert said["squared_distances"][0] > 0


def test_the_measure_of_the_docs_measures(tiny, finished, tmp_path, monkeypatch):
    (tmp_path / "mymeasures.py").write_text(example("# mymeasures.py"))
    monkeypatch.syspath_prepend(tmp_path)
    names = {"runs": Results([tiny]), "tl": tl}
    exec(example("from mymeasures"), names)
    table = names["table"]
    assert sorted(table) == ["confidence", "label", "length", "minimum", "network", "seed"]
    assert (tmp_path / "figures" / "own" / "lengths.csv").is_file()
    assert table["minimum"].tolist() == [0, 1, 2]
    theta, logits = finished.arrays(2)["theta"], finished.arrays(2)["logits"].astype(float)
    assert table["length"].iloc[-1] == pytest.approx(float((theta.astype(float) ** 2).sum() ** 0.5))
    assert table["confidence"].iloc[-1] == pytest.approx(softmax(logits, 1).max(1).mean())


def test_the_first_steps_run_and_leave_the_minimum(monkeypatch):
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, "show", lambda: None)
    plt.switch_backend("agg")
    cells = json.loads((ROOT / "notebooks" / "0_first_steps.ipynb").read_text())["cells"]
    names = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]).replace('scale = "laptop"', 'scale = "smoke"'), names)
    held, moved = names["follow"](2.0, 1.0, 0.02)
    assert (held[-1] - held[-50]).norm() < 0.5, "it is held"
    assert moved[-1, 0] > 1, "it ends in the other minimum"
    (plain, _), (pushed, _) = (names["train"](strength, 200) for strength in (0.0, 1.0))
    assert pushed[-1] > plain[-1]
    plt.close("all")
