"""Laws of the house that no type checker knows: who may name whom, and how long a file may be."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from contracts.test_methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "peftbench"
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 320

# Names of choices that are ordinary words too.
ORDINARY = {"full", "record"}


def choices(group: str) -> set[str]:
    return {file.stem for file in (ROOT / "conf" / group).glob("*.yaml")} - ORDINARY


def named(file: Path, names: set[str]) -> list[str]:
    """Lines, comments and docstrings too, in which one of the names is a word, in whatever case."""
    word = re.compile(rf"(?<![A-Za-z0-9])({'|'.join(map(re.escape, sorted(names)))})(?![A-Za-z0-9])", re.IGNORECASE)
    lines = file.read_text(encoding="utf-8").splitlines()
    return [f"{file.name}:{i}: {line.strip()}" for i, line in enumerate(lines, start=1) if word.search(line)]


def imported(file: Path) -> set[str]:
    """Every module that the file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name}: relative import"
            found.add(node.module)
    return found


def relative(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def test_words_are_found_in_prose_and_in_names(tmp_path):
    file = tmp_path / "x.py"
    file.write_text('"""As SoRA does."""\nlora_A = flora = 1\nx = "adalora"\nexploration = 2\n')
    assert named(file, {"lora", "sora", "adalora"}) == [
        'x.py:1: """As SoRA does."""',
        "x.py:2: lora_A = flora = 1",
        'x.py:3: x = "adalora"',
    ]


@pytest.mark.parametrize("file", sorted((PACKAGE / "training").glob("*.py")), ids=relative)
def test_training_names_no_method(file):
    assert {"sora", "lora", "adalora"} <= choices("method")
    assert named(file, choices("method")) == []


@pytest.mark.parametrize("file", sorted((PACKAGE / "methods").rglob("*.py")), ids=relative)
def test_methods_name_no_task(file):
    assert {"mrpc", "rte", "mnli"} <= choices("task")
    assert named(file, choices("task") - {"lm"}) == []  # Also half of PEFT's CAUSAL_LM.


@pytest.mark.parametrize("file", MODULES, ids=relative)
def test_no_file_is_too_long(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_the_record_needs_the_standard_library_and_the_errors_only():
    modules = imported(PACKAGE / "record.py") | imported(PACKAGE / "durable.py")
    assert "json" in modules
    strangers = {name for name in modules if name.partition(".")[0] not in sys.stdlib_module_names}
    assert strangers <= {"peftbench.errors", "peftbench.durable"}


@pytest.mark.parametrize("name", ["cli", "guide", "compose", "config", "strict", "sparsity", "errors", "hub", "record"])
def test_what_help_and_errors_need_does_not_import_torch_at_the_top(name):
    tree = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
    top = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    modules = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in top if isinstance(node, ast.ImportFrom)}
    assert modules or name == "errors"
    heavy = {"torch", "transformers", "datasets", "accelerate", "evaluate", "hydra", "omegaconf", "pyarrow", "numpy"}
    assert not {module.partition(".")[0] for module in modules} & heavy


def test_a_configuration_is_checked_without_the_hubs_libraries():
    """They read on import whether they are offline, which is settled only once a run begins; and they take seconds."""
    code = (
        "import sys; from peftbench.methods.registry import method_class;"
        f"[method_class(name) for name in {sorted(METHODS)!r}];"
        "heavy = {'transformers', 'huggingface_hub', 'datasets', 'peft'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
