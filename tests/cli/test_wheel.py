"""The wheel: built, installed into an empty folder, run from another directory without a network."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from contracts.test_methods import METHODS

ROOT = Path(__file__).resolve().parents[2]


def call(*words: str, **settings) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, **settings)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    call(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder), cwd=ROOT)
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder that holds the installed wheel and nothing else."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--no-index", "--quiet"]
    call(*pip, "--target", str(target), str(wheel))
    return target


@pytest.fixture
def python(installed, tmp_path):
    """Python in another directory, with the installed copy first on its path and a home of its own."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_", "PEFTBENCH"))}
    environment |= {
        "PYTHONPATH": str(installed), "HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    return lambda *words: call(sys.executable, *words, cwd=elsewhere, env=environment)


def test_the_wheel_holds_the_package_and_the_whole_configuration(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for folder, suffix, inside in ((ROOT / "conf", "yaml", "peftbench/conf"), (ROOT / "peftbench", "py", "peftbench")):
        files = {f"{inside}/{file.relative_to(folder).as_posix()}" for file in folder.rglob(f"*.{suffix}")}
        assert f"{inside}/{'config.yaml' if suffix == 'yaml' else 'cli.py'}" in files
        assert files <= names
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"peftbench", "hydra_plugins"}
    assert not [name for name in names if "__pycache__" in name or name.startswith("peftbench/outputs")]


def test_the_wheel_brings_the_command_the_licence_and_typed_metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        info = {name.partition(".dist-info/")[2]: name for name in archive.namelist() if ".dist-info/" in name}
        assert "peftbench = peftbench.cli:main" in archive.read(info["entry_points.txt"]).decode()
        metadata = archive.read(info["METADATA"]).decode()
    assert "licenses/LICENSE" in info
    assert "\nName: peftbench\n" in metadata
    assert "\nRequires-Python: >=3.11\n" in metadata
    assert "\nRequires-Dist: hydra-core" in metadata


def test_the_installed_copy_runs_from_another_directory_offline(python, installed, tiny_run, tmp_path):
    where = python("-c", "import peftbench, peftbench.compose as c; print(peftbench.__file__); print(c.conf_folder())")
    assert where.splitlines() == [str(installed / "peftbench" / "__init__.py"), str(installed / "peftbench" / "conf")]
    listed = [line.split()[0] for line in python("-m", "peftbench", "list", "methods").splitlines()]
    assert listed == sorted(METHODS)
    out = python("-m", "peftbench", "method=sora", "task=mrpc", *tiny_run)
    (file,) = (tmp_path / "outputs").rglob("record.json")
    assert out.splitlines()[-1] == f"record: {file}"
    record = json.loads(file.read_text())
    assert (record["status"], record["task"], record["method"]) == ("completed", "mrpc", "sora")
    assert list((tmp_path / "elsewhere").iterdir()) == []
