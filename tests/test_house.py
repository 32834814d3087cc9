"""The house tests its walls: who imports whom, what ships, where the papers point."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import adapters

ROOT = Path(__file__).resolve().parents[1]

# room -> the rooms it may import. Imports run downhill.
ROOMS = {
    "qformer": {"qformer"},
    "adapters": {"adapters", "qformer"},
    "train": {"train", "adapters", "qformer"},
    "demo": {"demo", "adapters", "qformer"},
}
# The one exception: the command line reaches train's commands, inside the function that runs them.
LAZY_ARROWS = {("demo.cli", "train")}
# foreign library -> the rooms that may import it; anything not named here is free outside qformer/.
FOREIGN = {
    "transformers": {"adapters"},
    "bitsandbytes": {"adapters"},
    "peft": {"adapters", "train"},
    "accelerate": {"train"},
    "gradio": {"demo"},
    "torchvision": set(),  # beside a CPU torch its import breaks transformers' models
}
# The one module of others that is added to: transformers' SAM 3 lacks a function where there is no
# torchvision, and is given ours.
ADDED_TO = {("adapters.segmenter_sam3", "modeling_sam3.torchvision")}
DIRECTORIES = {
    ".ci",
    ".github",
    "adapters",
    "benchmarks",
    "demo",
    "docs",
    "qformer",
    "tests",
    "train",
}
BINARY = {".gif", ".jpeg", ".jpg", ".model", ".npz", ".png", ".pt", ".safetensors", ".webp"}
LONGEST_FILE = 450  # lines: a file is read in one sitting
LARGEST_DEFAULT = 25_000_000  # bytes of embedded weights


def modules() -> dict[str, Path]:
    """Every module of the four rooms: dotted name -> file."""
    found = {}
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(module: str) -> Iterator[tuple[str, int, bool]]:
    """Yield (dotted target, line, lazy) for each import of a module, typing-only ones left out."""
    yield from _imports(ast.parse(MODULES[module].read_text()), module, lazy=False)


def _imports(node: ast.AST, module: str, lazy: bool) -> Iterator[tuple[str, int, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from ((alias.name, child.lineno, lazy) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = _absolute(child, module)
            for alias in child.names:
                name = f"{base}.{alias.name}"
                yield (name if name in MODULES else base), child.lineno, lazy
        elif isinstance(child, ast.Call) and "import_module" in ast.unparse(child.func):
            names = [arg.value for arg in child.args[:1] if isinstance(arg, ast.Constant)]
            yield from ((str(name), child.lineno, lazy) for name in names)
        inside = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        yield from _imports(child, module, inside)


def _absolute(statement: ast.ImportFrom, module: str) -> str:
    """The dotted name a `from ... import` starts from, relative dots resolved."""
    if not statement.level:
        return statement.module or ""
    package = module.split(".")
    if MODULES[module].name != "__init__.py":
        package = package[:-1]
    package = package[: len(package) - statement.level + 1]
    return ".".join([*package, *([statement.module] if statement.module else [])])


def shipped_files() -> list[Path]:
    """What git tracks or would: the project without its environments, caches and runs."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, check=False,
    )  # fmt: skip
    if listing.returncode:
        pytest.skip("not a git checkout: cannot tell what ships")
    paths = [ROOT / name for name in listing.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downhill(module):
    room = module.split(".")[0]
    for target, line, lazy in imports(module):
        other = target.split(".")[0]
        if other not in ROOMS or other in ROOMS[room]:
            continue
        excepted = lazy and (module, other) in LAZY_ARROWS
        assert excepted, f"{MODULES[module].name}:{line}: {room}/ must not import {target}"


@pytest.mark.parametrize("module", MODULES)
def test_foreign_libraries_are_imported_only_in_their_rooms(module):
    room = module.split(".")[0]
    for target, line, _ in imports(module):
        library = target.split(".")[0]
        if library in FOREIGN:
            where = sorted(FOREIGN[library]) or "no room"
            message = f"{MODULES[module].name}:{line}: {library} is imported only in {where}"
            assert room in FOREIGN[library], message
        if room == "qformer":
            known = library in {"torch", "qformer"} or library in sys.stdlib_module_names
            assert known, f"{MODULES[module].name}:{line}: qformer/ needs torch alone"


def patches(module: str) -> Iterator[tuple[int, str]]:
    """Yield (line, what) where a module assigns into one that is not ours, or into sys.modules."""
    tree = ast.parse(MODULES[module].read_text())
    foreign: set[str] = set()  # names that an import binds
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [(alias.name, alias) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(_absolute(node, module), alias) for alias in node.names]
        else:
            continue
        for target, alias in names:
            if target.split(".")[0] not in ROOMS:
                foreign.add((alias.asname or alias.name).split(".")[0])
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            what, root = ast.unparse(node), node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            attribute = isinstance(node, ast.Attribute) and isinstance(root, ast.Name)
            if what.startswith("sys.modules[") or (attribute and root.id in foreign):
                yield node.lineno, what


@pytest.mark.parametrize("module", MODULES)
def test_other_peoples_modules_are_left_as_they_are(module):
    found = [
        f"{MODULES[module].name}:{line}: {what}"
        for line, what in patches(module)
        if (module, what) not in ADDED_TO
    ]
    assert not found, f"pass a part in, finished, rather than patch one: {found}"


def test_modules_import_in_no_circle():
    arrows = {
        module: {t for t, _, _ in imports(module) if t in MODULES and t != module}
        for module in MODULES
    }
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for target in sorted(arrows[module]):
                visit(target, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def test_the_bridge_imports_with_torch_alone():
    foreign = [*FOREIGN, "numpy", "PIL", "safetensors", "sentencepiece", "tokenizers"]
    names = [name for name in MODULES if name.split(".")[0] == "qformer"]
    program = f"""
import importlib, sys, warnings
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {foreign!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
warnings.simplefilter("ignore")
for name in {names!r}:
    importlib.import_module(name)
"""
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


def test_only_the_known_folders_stand_at_the_top():
    top = {path.relative_to(ROOT).parts[0] for path in shipped_files() if path.parent != ROOT}
    assert top <= DIRECTORIES, f"unexpected: {sorted(top - DIRECTORIES)}"


def test_a_file_is_read_in_one_sitting():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in shipped_files()
        if path.suffix == ".py" and (lines := len(path.read_text().splitlines())) >= LONGEST_FILE
    }
    assert not long, f"split these, they have {LONGEST_FILE} lines or more: {long}"


def test_each_test_file_has_a_name_of_its_own():
    """The folders are no packages: two modules of one name cannot be collected together."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert not [name for name, count in names.items() if count > 1]


def test_no_file_names_a_machine_or_a_registry():
    pattern = re.compile(
        r"(?<![\w.])/(work|root|home|opt)/"
        r"|pypi\.org|pythonhosted|download\.pytorch|registry\.npmjs|deb\.debian\.org"
    )
    for path in shipped_files():
        if path.suffix in BINARY or path == Path(__file__).resolve():
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            found = pattern.search(line)
            assert not found, f"{path.relative_to(ROOT)}:{number} names {found[0]!r}"


def test_the_tests_ask_no_hub():
    """Each look-up of a name that is not there would wait for its timeouts."""
    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE


def test_the_embedded_default_is_small():
    weights = [path for path in shipped_files() if (ROOT / "adapters/embedded") in path.parents]
    assert sum(path.stat().st_size for path in weights) <= LARGEST_DEFAULT


def test_every_shipped_toml_file_parses():
    for path in shipped_files():
        if path.suffix == ".toml":
            tomllib.loads(path.read_text())


def test_links_in_the_papers_lead_somewhere():
    for page in shipped_files():
        if page.suffix != ".md":
            continue
        text = re.sub(r"<!--.*?-->", "", page.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"[a-z]+:|#", target):
                continue
            exists = (page.parent / target.split("#")[0]).exists()
            assert exists, f"{page.relative_to(ROOT)} links to {target}, which does not exist"


def test_the_checkpoint_in_the_docs_is_one_that_loads():
    from adapters.config import CheckpointConfig
    from qformer.config import from_dict

    page = (ROOT / "docs/checkpoint.md").read_text()
    (block,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    config = from_dict(CheckpointConfig, json.loads(block))
    assert config.bridge.language_width == 2560


def test_the_readmes_commands_name_pictures_that_ship():
    readme = (ROOT / "README.md").read_text()
    named = re.findall(r"^loupe (?:ask|caption|find|segment) (?!-)(\S+)", readme, re.MULTILINE)
    assert len(named) > 5
    assert not [name for name in named if not (ROOT / name).is_file()]


def test_the_readmes_python_runs(tiny_assistant, monkeypatch, capsys):
    """On a random model: what the README writes is what the code offers."""
    monkeypatch.setattr(adapters, "build", lambda model: tiny_assistant)
    monkeypatch.chdir(ROOT)
    readme = (ROOT / "README.md").read_text()
    names: dict = {}
    for snippet in re.findall(r"```python\n(.*?)```", readme, re.DOTALL):
        exec(compile(snippet, "README.md", "exec"), names)
    assert capsys.readouterr().out
    assert len(names["talk"].turns) == 2
