import os
import subprocess
import sys

import pytest

from kgpt_jax import environment

REPORT = """
from kgpt_jax.environment import prepare
print("start")
prepare()
import os
print(os.environ["JAX_COMPILATION_CACHE_DIR"], os.environ.get("GLIBC_TUNABLES"))
"""


def report(**variables):
    """Runs REPORT in a process with these variables, and returns the lines that it prints."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "GLIBC_"))}
    command = [sys.executable, "-u", "-c", REPORT]
    done = subprocess.run(command, env=kept | variables, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_prepare_keeps_variables_that_are_set():
    lines = report(XDG_CACHE_HOME="/nowhere")
    assert lines[-1].startswith("/nowhere/kgpt_jax/programs-")
    mine = report(JAX_COMPILATION_CACHE_DIR="/mine", GLIBC_TUNABLES="glibc.malloc.hugetlb=0")
    assert mine == ["start", "/mine glibc.malloc.hugetlb=0"]


@pytest.mark.skipif("[madvise]" not in environment._system_pages(), reason="this system has its own policy")
def test_prepare_starts_the_process_again_once():
    lines = report(GLIBC_TUNABLES="glibc.malloc.tcache_count=3")
    assert lines[:-1] == ["start", "start"]
    assert lines[-1].endswith(" glibc.malloc.tcache_count=3:glibc.malloc.hugetlb=1")


def test_each_kind_of_processor_has_its_own_cache(monkeypatch):
    here = environment.compilation_cache()["JAX_COMPILATION_CACHE_DIR"]
    assert environment.compilation_cache()["JAX_COMPILATION_CACHE_DIR"] == here
    monkeypatch.setattr(environment, "processor", lambda field: "abacus")
    assert environment.compilation_cache()["JAX_COMPILATION_CACHE_DIR"] != here


def test_the_least_recently_used_programs_are_removed(tmp_path):
    for name, used in (("old", 1), ("read", 3), ("new", 2)):
        (tmp_path / name).write_bytes(b"12345")
        os.utime(tmp_path / name, (used, 1 if name == "read" else used))
    environment.trim(tmp_path, 14)
    assert {path.name for path in tmp_path.iterdir()} == {"read", "new"}
    environment.trim(tmp_path, 10)
    assert len(list(tmp_path.iterdir())) == 2
    environment.trim(tmp_path / "nowhere", 10)


def test_prepare_limits_the_size_of_the_cache(tmp_path, monkeypatch):
    folder = tmp_path / "kgpt_jax" / f"programs-{tmp_path.name}"
    folder.mkdir(parents=True)
    (folder / "program").write_bytes(b"12345")
    monkeypatch.setattr(environment, "compilation_cache", lambda: {"JAX_COMPILATION_CACHE_DIR": str(folder)})
    monkeypatch.setattr(environment, "_system_pages", lambda: "")
    monkeypatch.setattr(environment, "MAX_CACHE_BYTES", 4)
    environment.prepare()
    assert not any(folder.iterdir())
