"""The package that `pip install .` installs works without the checkout."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import pytest

from tests.commands import CHECKOUT, TINY

BUILD = "import sys, setuptools.build_meta as backend; backend.build_wheel(sys.argv[1])"


def check(command, folder):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Builds the wheel from a copy of the checkout, because a build creates folders there."""
    copy, built = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("built")
    for folder in ("kgpt_jax", "configs"):
        shutil.copytree(CHECKOUT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, copy)
    check([sys.executable, "-c", BUILD, built], copy)
    return next(built.glob("*.whl"))


def test_the_wheel_holds_all_and_asks_for_what_it_uses(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    for folder, inside in (("kgpt_jax", "kgpt_jax"), ("configs", "kgpt_jax/configs")):
        files = [path.relative_to(CHECKOUT / folder) for path in (CHECKOUT / folder).rglob("*.py")]
        assert {f"{inside}/{path.as_posix()}" for path in files} <= names
    assert "kgpt_jax/py.typed" in names
    required = [line.split(":")[1] for line in metadata.splitlines() if line.startswith("Requires-Dist")]
    named = {extra: set() for extra in (True, False)}
    for line in required:
        named["extra ==" in line].add(re.match(r"[\w-]+", line.strip())[0])
    assert {"jax", "orbax-checkpoint", "matplotlib"} <= named[False]
    assert {"pytest", "hypothesis", "torch"} <= named[True] and not named[True] & named[False]


def test_the_command_finds_its_recipes_anywhere(wheel, tmp_path):
    pytest.importorskip("pip")
    installed = tmp_path / "installed"
    check([sys.executable, "-m", "venv", "--without-pip", installed], tmp_path)
    python = installed / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "install", "-q"]
    check([*pip, "--no-deps", "--no-index", wheel], tmp_path)
    (packages,) = installed.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(str(Path(jax.__file__).parent.parent))  # where all else is
    out = check([installed / "bin" / "kgpt", "--mode=show", "--config=best_vanilla", *TINY], tmp_path)
    assert out.startswith("x: ") and out.count("\n") == 8
