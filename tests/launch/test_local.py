"""Processes that start, stop and restart together: small scripts in place of trainings."""

import os
import signal
import sys
import threading
import time

import pytest

from launch.local import supervise

# Appends its number to the file `starts`, waits until the other has done so, then does what the test says.
SCRIPT = """
import os, sys, time
me, folder = os.environ["JAX_PROCESS_ID"], sys.argv[1]
with open(f"{folder}/starts", "a") as file:
    file.write(me + "\\n")
def starts(number):
    return open(f"{folder}/starts").read().split().count(number)
while starts("0") != starts("1"):
    time.sleep(0.01)
"""


@pytest.fixture
def run(tmp_path):
    """A function that supervises two processes; returns their status and how many were started."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may ignore it

    def supervised(script, max_restarts=5, flags=()):
        command = [sys.executable, "-I", "-c", SCRIPT + script, str(tmp_path), *flags]
        status = supervise(command, 2, "cpu", max_restarts)
        return status, len((tmp_path / "starts").read_text().split())

    yield supervised
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_all_start_again_when_one_dies(run, capfd):
    script = """
if starts(me) == 1:
    time.sleep(30 if me == "0" else 0.3)  # process 0 does not end by itself
    os.kill(os.getpid(), 9)
"""
    began = time.monotonic()
    assert run(script) == (0, 4)
    assert time.monotonic() - began < 15
    said = capfd.readouterr().err
    assert said == "a process ended with status 137: all are stopped and start again, 4 restarts left\n"


def test_restarts_keep_their_flags_and_are_one_launch(run, tmp_path):
    script = """
with open(f"{folder}/launches", "a") as file:
    file.write(os.environ["KGPT_SUPERVISED"] + "\\n")
if starts(me) == 1:
    os.kill(os.getpid(), 9)
sys.exit(sys.argv[2:] != ["--start_anew", "--seed=1"])
"""
    assert run(script, flags=["--start_anew", "--seed=1"]) == (0, 4)
    assert len(set((tmp_path / "launches").read_text().splitlines())) == 1


def test_the_restarts_end(run, capfd):
    assert run("sys.exit(3 if me == '1' else 0)", max_restarts=1)[0] == 3
    assert capfd.readouterr().err.splitlines()[-1] == "a process ended with status 3: all are stopped"


def test_a_users_mistake_is_not_tried_again(run, capfd):
    assert run("sys.exit(2 if me == '0' else time.sleep(30))") == (2, 2)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "sent, passed_on", [("SIGTERM", "SIGTERM"), ("SIGINT", "SIGINT"), ("SIGHUP", "SIGTERM")]
)
def test_a_signal_goes_to_all_and_ends_them(run, tmp_path, sent, passed_on):
    script = """
import signal
def end(number, frame):
    open(f"{folder}/{signal.Signals(number).name} {me}", "w").close()
    sys.exit(128 + number)
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, end)
open(f"{folder}/ready {me}", "w").close()
time.sleep(30)
"""

    def send():
        while len(list(tmp_path.glob("ready *"))) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.Signals[sent])

    threading.Thread(target=send, daemon=True).start()
    assert run(script) == (128 + signal.Signals[passed_on], 2)
    assert {path.name for path in tmp_path.glob("SIG*")} == {f"{passed_on} 0", f"{passed_on} 1"}


def test_nohup_outlives_its_terminal(run):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGHUP)).start()
    assert run("time.sleep(0.5)") == (0, 2)


def test_a_second_signal_kills(run, tmp_path):
    script = """
import signal
signal.signal(signal.SIGTERM, lambda *_: open(f"{folder}/asked {me}", "w").close())
open(f"{folder}/ready {me}", "w").close()
while True:
    time.sleep(1)
"""

    def send():
        for told in ("ready", "asked"):
            while len(list(tmp_path.glob(f"{told} *"))) < 2:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=send, daemon=True).start()
    assert run(script) == (143, 2)
