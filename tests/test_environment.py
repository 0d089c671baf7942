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


@pytest.mark.skipif(not environment.glibc(), reason="only glibc's allocator reads the variable")
def test_prepare_starts_the_process_again_once():
    lines = report(GLIBC_TUNABLES="glibc.rtld.nns=5")
    assert lines[:-1] == ["start", "start"]
    assert lines[-1].endswith(f" glibc.rtld.nns=5:{environment.KEPT_MEMORY}")


@pytest.mark.skipif(not environment.glibc(), reason="only glibc's allocator has these settings")
def test_memory_that_was_used_is_used_again():
    script = """
import resource, threading

def faults():  # how often Linux has given this process a page of memory
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    thread = threading.Thread(target=lambda: b"1" * 100_000_000)
    thread.start()
    thread.join()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults(), faults())
"""
    small_pages = environment.KEPT_MEMORY.replace("hugetlb=1", "hugetlb=0")  # there are more of them to count
    variables = os.environ | {"GLIBC_TUNABLES": small_pages}
    printed = subprocess.check_output([sys.executable, "-c", script], env=variables, text=True)
    first, second = map(int, printed.split())
    assert second < first / 10


def test_a_script_from_standard_input_is_read_to_its_end():
    variables = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    for arguments in ([], ["-"]):
        command = [sys.executable, *arguments]
        printed = subprocess.check_output(command, env=variables, input=REPORT, text=True)
        assert printed.splitlines()[0] == "start" and len(printed.splitlines()) == 2


def test_each_kind_of_processor_has_its_own_cache(monkeypatch):
    here = environment.compilation_cache()["JAX_COMPILATION_CACHE_DIR"]
    assert environment.compilation_cache()["JAX_COMPILATION_CACHE_DIR"] == here
    monkeypatch.setattr(environment, "processor", lambda field: "abacus")
    assert environment.compilation_cache()["JAX_COMPILATION_CACHE_DIR"] != here


def test_a_user_without_a_home_has_no_cache(monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(environment.Path, "home", home)
    assert environment.compilation_cache() == {}


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
    monkeypatch.setattr(environment, "glibc", lambda: False)
    monkeypatch.setattr(environment, "MAX_CACHE_BYTES", 4)
    environment.prepare()
    assert not any(folder.iterdir())
