"""The documentation and the examples are true: what is quoted stands in the code, and what is shown runs."""

import doctest
import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import phin

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WEIGHTS = all(
    (ROOT / "src/phin/weights" / f"{name}.safetensors").is_file() for name in ("numbers", "mnist-classifier")
)


def blocks(page: Path, language: str) -> Iterator[str]:
    """The fenced blocks of a page in a language."""
    text = page.read_text(encoding="utf-8")
    yield from re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def quotations() -> Iterator[tuple[str, str, str]]:
    """Page, file and quoted text of all blocks whose first line names a file."""
    for page in PAGES:
        for block in blocks(page, "python"):
            if named := re.match(r"# (\S+\.py)\n", block):
                yield page.name, named[1], block[named.end() :]


def normal(code: str) -> str:
    """Code without its common indentation and trailing space."""
    return textwrap.dedent("\n".join(line.rstrip() for line in code.splitlines()))


def occurs(quoted: str, source: str) -> bool:
    """Whether the lines stand together in the source, at whatever depth."""
    wanted, lines = normal(quoted).splitlines(), source.splitlines()
    windows = ("\n".join(lines[i : i + len(wanted)]) for i in range(len(lines) - len(wanted) + 1))
    return any(normal(window) == "\n".join(wanted) for window in windows)


@pytest.mark.parametrize(("page", "file", "quoted"), [*quotations()])
def test_what_is_quoted_stands_in_the_code(page: str, file: str, quoted: str) -> None:
    """Word by word; a line of `...` stands for lines left out."""
    source = (ROOT / file).read_text(encoding="utf-8")
    for part in re.split(r"^ *\.\.\.\n", quoted, flags=re.MULTILINE):
        assert occurs(part, source), f"{page} quotes from {file} what is not there:\n{part}"


def test_a_false_quotation_would_be_found() -> None:
    source = (ROOT / "src/phin/diffusion/solvers/ancestral.py").read_text(encoding="utf-8")
    assert occurs("x = denoise(z, t).x\neps = (z - t.alpha * x) / t.sigma\n", source)
    assert not occurs("x = denoise(z, t).x\neps = (z - s.alpha * x) / t.sigma\n", source)
    assert not occurs("x = denoise(z, t).x\n    eps = (z - t.alpha * x) / t.sigma\n", source)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_shown_at_the_prompt_happens(page: Path) -> None:
    """The blocks of a page are one session. Those that load a shipped model need its weights."""
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.FAIL_FAST)
    session: dict[str, object] = {}
    for block in blocks(page, "pycon"):
        if "phin.load(" in block and not WEIGHTS:
            continue
        test = doctest.DocTestParser().get_doctest(block, session, page.name, str(page), 0)
        report: list[str] = []
        runner.run(test, out=report.append, clear_globs=False)
        session = test.globs
        assert not runner.failures, "".join(report)


def test_the_hour_is_an_hour() -> None:
    """Every station has all of its parts, and there is no more prose than an hour has room for."""
    text = (ROOT / "docs" / "one_hour.md").read_text(encoding="utf-8")
    stations = re.split(r"^## \d+\. ", text, flags=re.MULTILINE)[1:]
    assert len(stations) == 12
    for station in stations:
        for part in (
            "# src/phin/",
            ">>> ",
            "**Try it.**",
            "**Exercise.**",
            "<details><summary>Answer</summary>",
        ):
            assert part in station, f"{station.splitlines()[0]} has no {part}"
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert len(prose.split()) < 4000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_the_documentation_uses_what_there_is(page: Path) -> None:
    for block in blocks(page, "python"):
        if not block.startswith("# src/"):
            compile(block, page.name, "exec")
            for name in re.findall(r"\bphin\.([A-Za-z_]\w*)\(", block):
                assert name in phin.__all__, f"{page.name} calls phin.{name}"


def commands() -> Iterator[tuple[str, str]]:
    """Page and command line of all calls of phin in the documentation, but for those with a PLACEHOLDER."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
        for line in [*lines, *re.findall(r"`([^`\n]+)`", text)]:
            if re.match(r"(\S*/)?phin [a-z]", line) and not re.search(r"\b[A-Z]{4,}\b", line):
                yield page.name, line


@pytest.mark.parametrize(("page", "line"), [*commands()])
def test_commands_in_the_documentation_are_understood(page: str, line: str) -> None:
    from phin import cli

    assert cli.read(shlex.split(line, comments=True)[1:]) is not None


def run(script: str, folder: Path, *arguments: str) -> str:
    """What an example prints, run with a warning as an error."""
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / script), *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=900
    )  # the machine may be busy
    assert done.returncode == 0, done.stderr
    return done.stdout


def environment() -> dict[str, str]:
    """That of this process, with phin importable wherever it stands."""
    path = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def test_the_swiss_roll_is_learned_and_drawn(tmp_path: Path) -> None:
    from PIL import Image

    printed = run("swiss_roll.py", tmp_path, "--steps", "60", "--out", "roll.png")
    losses = [float(found) for found in re.findall(r"loss ([\d.]+)", printed)]
    assert (
        losses[-1] < 1.3
    )  # at first it is 2: that of predicting v = 0, of variance 1, with its weight in each of ...
    with Image.open(tmp_path / "roll.png") as picture:
        assert len(set(picture.convert("L").tobytes())) > 100


def test_mnist_takes_100_lines_and_learns(tmp_path: Path) -> None:
    from PIL import Image

    assert len((ROOT / "examples" / "mnist_in_100_lines.py").read_text(encoding="utf-8").splitlines()) <= 100
    options = "--data digits --steps 60 --batch 32 --channels 16 32 --sampling-steps 4 --out digits.png"
    printed = run("mnist_in_100_lines.py", tmp_path, *options.split())
    assert float(re.findall(r"loss ([\d.]+)", printed)[-1]) < 0.9
    with Image.open(tmp_path / "digits.png") as picture:
        assert picture.size == (10 * (8 + 2) + 2, 10 * (8 + 2) + 2)


def test_the_notebook_is_tidy() -> None:
    notebook = json.loads((ROOT / "examples" / "numbers.ipynb").read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        assert not cell.get("outputs"), "strip the outputs: they are large, and those of one machine"
        if cell["cell_type"] == "code":
            compile("".join(cell["source"]), "numbers.ipynb", "exec")


@pytest.mark.skipif(not WEIGHTS, reason="the shipped weights are not there")
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, cell by cell, with a few pictures."""
    import matplotlib

    matplotlib.use("agg")
    monkeypatch.setenv("PHIN_N", "2")
    monkeypatch.setenv("PHIN_STEPS", "12")
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((ROOT / "examples" / "numbers.ipynb").read_text(encoding="utf-8"))
    names: dict[str, object] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "numbers.ipynb", "exec"), names)
