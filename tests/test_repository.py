"""What is true of the repository as a whole: its layers, its files and its promises to each other."""

import ast
import importlib
import json
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import phin

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "phin"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
SOURCES = sorted(PACKAGE.rglob("*.py"))
MODULES = sorted(module.name for module in pkgutil.walk_packages(phin.__path__, "phin."))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

MAY_IMPORT: dict[str, set[str]] = {
    "diffusion": set(),
    "errors": set(),
    "registry": {"errors"},
    "oracle": {"diffusion"},
    "pictures": {"errors"},
    "nets": {"diffusion", "errors"},
    "data": {"diffusion", "errors"},
    "families": {"nets", "diffusion", "errors"},
    "sampling": {"families", "nets", "diffusion", "registry", "errors"},
    "metrics": {"families", "nets", "data", "diffusion", "pictures", "errors"},
}
MAY_IMPORT["training"] = {*MAY_IMPORT} - {"oracle"}
MAY_IMPORT["recipes"] = {*MAY_IMPORT}
MAY_IMPORT["models"] = {*MAY_IMPORT}
MAY_IMPORT["evaluation"] = {*MAY_IMPORT}
MAY_IMPORT["report"] = {"pictures"}
MAY_IMPORT["verify"] = {"diffusion", "oracle", "report", "errors"}
"""What each part of phin may import, besides itself. A part that is not listed stands above all that are."""


def module_of(path: Path) -> list[str]:
    return ["phin", *path.relative_to(PACKAGE).with_suffix("").parts]


def imports(path: Path) -> Iterator[str]:
    """Full names of all that a source file imports, at the top, in functions, and for type checkers."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = module_of(path)[: -node.level] if node.level else []
            base = ".".join([*start, *(node.module or "").split(".")]).rstrip(".")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def registries() -> Iterator[tuple[str, list[str]]]:
    """The names of all registries, NAME: dict[str, ...] = {...} or Mapping, with their entries."""
    for path in SOURCES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            match node:
                case ast.AnnAssign(
                    target=ast.Name(id=name), annotation=ast.Subscript(value=ast.Name(id="dict" | "Mapping"))
                ) if re.fullmatch("[A-Z]+", name):
                    module = importlib.import_module(".".join(module_of(path)).removesuffix(".__init__"))
                    entries: Mapping[str, object] = getattr(module, name)
                    yield name, list(entries)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_can_be_imported(name: str) -> None:
    importlib.import_module(name)


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("phin", {"torch", "numpy", "accelerate", "matplotlib", "sklearn", "tensorboard", "rich", "tyro"}),
        ("phin.models", {"accelerate", "matplotlib", "sklearn", "scipy", "tensorboard"}),
    ],
)
def test_imports_stay_light(module: str, heavy: set[str]) -> None:
    command = f"import json, sys, {module}; print(json.dumps(list(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert heavy.isdisjoint(json.loads(run.stdout))


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_layers_import_one_way(part: str) -> None:
    files = [path for path in SOURCES if module_of(path)[1] == part]
    assert files, f"there is no phin.{part}: take it off the table"
    allowed = {part, *MAY_IMPORT[part], "__version__"}
    for path in files:
        own = [name.split(".") for name in imports(path) if name.split(".")[0] == "phin"]
        strangers = [".".join(name) for name in own if len(name) < 2 or name[1] not in allowed]
        assert not strangers, f"{path.relative_to(ROOT)} imports {', '.join(strangers)}"


def test_nothing_is_unpickled_but_one_file_of_arrays() -> None:
    """That file may subclass `Unpickler` with a `find_class` of its own, and name its error; nothing more."""
    picklers = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    users: list[Path] = []
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if found := picklers.intersection(name.split(".")[0] for name in imports(path)):
            assert found == {"pickle"}
            users.append(path)
        for node in ast.walk(tree):
            match node:
                case ast.Attribute(value=ast.Name(id="pickle"), attr=name):
                    assert name in {"Unpickler", "UnpicklingError"}, f"{path}:{node.lineno}"
                case ast.ImportFrom(module="pickle"):
                    pytest.fail(f"{path}:{node.lineno}: write `import pickle`, so that its uses are seen")
                case ast.Attribute(value=ast.Name(id="torch"), attr="load" | "save"):
                    pytest.fail(f"{path}:{node.lineno}: torch.{node.attr} pickles")
                case ast.keyword(arg="allow_pickle", value=value):
                    assert ast.unparse(value) == "False", f"{path}:{value.lineno}"
                case ast.Call(func=ast.Attribute(value=ast.Name(id="pickle"))):
                    pytest.fail(f"{path}:{node.lineno}: an unrestricted unpickler")
                case ast.ClassDef(bases=[ast.Attribute(attr="Unpickler")], body=body):
                    assert "find_class" in [item.name for item in body if isinstance(item, ast.FunctionDef)]
                case _:
                    pass
    assert [path.parent.name for path in users] == ["data"]


def test_versions_agree() -> None:
    version = phin.__version__
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.+)$", citation, re.MULTILINE) == [version]
    assert re.search(rf"^## \[{version}\]|^Towards {version}\b", changelog, re.MULTILINE)


def test_dependencies_are_pinned() -> None:
    """Everything that `make` installs has one version, whatever build of it the machine calls for."""
    extras = PROJECT["optional-dependencies"]
    others = [wanted for extra, wanted in extras.items() if extra != "bench"]
    installed = {"constraints.txt": others, "constraints-bench.txt": [extras["bench"]]}
    for file, wanted in installed.items():
        lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
        pins = dict(line.split("==") for line in lines if not line.startswith("#"))
        assert all(re.fullmatch(r"[0-9][0-9a-z.]*", version) for version in pins.values())
        pinned = {name.lower().replace("_", "-") for name in pins}
        for names in [PROJECT["dependencies"], *wanted]:
            assert {re.split(r"[^\w-]", name)[0] for name in names} <= pinned


def prose(text: str) -> str:
    """Markdown less its code."""
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)


def pages() -> Iterator[tuple[Path, str]]:
    """All Markdown, notebooks' included."""
    folders = [ROOT / name for name in ("docs", "examples", "benchmarks")]
    for path in [*ROOT.glob("*.md"), *(path for folder in folders for path in folder.rglob("*.md"))]:
        yield path, prose(path.read_text(encoding="utf-8"))
    for path in (path for folder in folders for path in folder.rglob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        yield path, prose("\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown"))


def anchors(text: str) -> set[str]:
    """The addresses of a page's headings, as they are commonly made from their text."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_links_in_the_documentation_lead_somewhere() -> None:
    checked = 0
    for path, text in pages():
        for target in re.findall(r"""\]\(([^)\s]+)|(?:src|href)=["']([^"']+)""", text):
            file, _, anchor = "".join(target).partition("#")
            if "://" in file or file.startswith("mailto:"):
                continue
            there = (path.parent / file).resolve() if file else path
            assert there.exists(), f"{path.relative_to(ROOT)} links to {file}, which is not there"
            if anchor and there.suffix == ".md":
                found = anchors(there.read_text(encoding="utf-8"))
                assert anchor in found, f"{path.relative_to(ROOT)} links to {file}#{anchor}, no heading there"
            checked += 1
    assert checked


def test_the_architecture_page_names_every_entry() -> None:
    page = ARCHITECTURE.read_text(encoding="utf-8")
    entries = dict(registries())
    assert {"SCHEDULES", "SOLVERS", "WEIGHTS", "DATA", "RECIPES"} <= entries.keys()
    missing = {name: [entry for entry in found if f"`{entry}" not in page] for name, found in entries.items()}
    assert not any(missing.values()), f"{ARCHITECTURE.name} does not name {missing}"


@pytest.mark.parametrize("name", ["families.md", "shapes.md", "theory.md"])
def test_pages_name_tests_that_are_there(name: str) -> None:
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", page))
    assert named
    assert not {name for name in named if f"def {name}(" not in source}
