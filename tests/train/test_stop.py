import signal
import subprocess
import sys

import pytest

from kgpt_jax.environment import SUPERVISED
from kgpt_jax.train import stop as stopping
from kgpt_jax.train.stop import SIGNALS, Stop


def handlers():
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_a_wish(number):
    before = handlers()
    with pytest.raises(SystemExit) as ended, Stop() as stop:
        assert not stop.agreed()
        signal.raise_signal(number)
        assert stop.agreed() and stop.asked == number
        assert handlers() == [signal.SIG_DFL] * 2  # the next one ends the process
        stop.exit(3, 9)
    assert ended.value.code == 128 + number
    assert handlers() == before


def test_a_wish_that_came_too_late_is_heeded_behind_the_training():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it may be ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            with Stop():
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


class JaxRuntimeError(RuntimeError):
    """As JAX raises it."""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_ends_xlas_compiler_ends_training_in_one_line(number, capsys):
    with pytest.raises(SystemExit) as ended, Stop():
        signal.raise_signal(number)
        raise JaxRuntimeError("INTERNAL: ptxas exited with non-zero error code 15")
    assert ended.value.code == 128 + number
    with pytest.raises(JaxRuntimeError), Stop():
        raise JaxRuntimeError("without a signal, it is an error")


def test_under_a_launcher_which_passes_signals_on_a_second_one_is_ignored(monkeypatch):
    monkeypatch.setenv(SUPERVISED, "1")
    with pytest.raises(SystemExit), Stop() as stop:
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
        stop.exit(3, 9)


SCRIPT = """
import time
from kgpt_jax.train.stop import Stop
with Stop() as stop:
    print("ready", flush=True)
    while not stop.asked:
        time.sleep(0.01)
    print("asked", flush=True)
    time.sleep(60)
"""


def test_the_second_signal_ends_the_process_at_once():
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True) as process:
        for said in ("ready", "asked"):
            assert process.stdout.readline().strip() == said
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == -signal.SIGTERM


def test_a_signal_that_comes_while_processes_ask_each_other_waits_for_the_next_time(monkeypatch):
    """Otherwise this process would stop and the others, which have not received it, would go on."""

    def ask_all(flag):
        if not said:
            signal.raise_signal(signal.SIGTERM)
        said.append(flag)
        return flag

    said = []
    monkeypatch.setattr(stopping, "any_process", ask_all)
    with pytest.raises(SystemExit), Stop() as stop:
        assert not stop.agreed()
        assert stop.agreed() and said == [False, True]
        stop.exit(1, 2)
