"""Copies of package and notebooks, in which tests make figures."""

import json
import os
import re
import shutil
import subprocess
import sys
from datetime import datetime

from conftest import PATIENCE

from thesislib.system.files import ROOT


class Tree:
    """A copy of package and notebooks, which can be changed, with runs and figures of its own."""

    def __init__(self, folder):
        for name in ("thesislib", "notebooks"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "figures" / "reference").mkdir(parents=True)
        shutil.copy(ROOT / "figures" / "reference" / "bench.csv", folder / "figures" / "reference")
        self.folder, self.figures = folder, folder / "figures" / "smoke"

    def start(self, *arguments, path="", **environment):
        set_here = {"THESIS_RUNS": str(self.folder / "runs"), "THESIS_FIGURES": str(self.figures.parent)}
        set_here |= {"PYTHONPATH": os.pathsep.join([str(self.folder), path])}
        command = [sys.executable, "-m", "thesislib", "figures", "--scale", "smoke", *arguments]
        return subprocess.Popen(
            command, cwd=self.folder, env=os.environ | set_here | environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def make(self, *arguments, **environment):
        """Exit code, sections that were executed, the last line."""
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=PATIENCE)
        lines = out.splitlines()
        assert lines, err
        executed = [line.split()[1] for line in lines[:-1] if line.startswith(("ok", "FAILED"))]
        return process.returncode, executed, lines[-1]

    def written(self):
        """What changes when a file is written anew; the documents of all figures always are."""
        always = ("figures.tex", "numbers.tex", "captions.tex")
        files = [path for path in self.figures.iterdir() if path.name not in always and path.suffix != ".lock"]
        return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in files}

    def listed(self):
        return re.findall(r"\\input\{(.*?)\}", (self.figures / "figures.tex").read_text())

    def edit(self, path, old, new):
        text = (self.folder / path).read_text()
        assert text.count(old) == 1
        (self.folder / path).write_text(text.replace(old, new))


def papermill(figures, section, what):
    executed = json.loads((figures / f"{section}.ipynb").read_text())
    return datetime.fromisoformat(executed["metadata"]["papermill"][what]).timestamp()
