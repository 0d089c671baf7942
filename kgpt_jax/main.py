"""The command line: python -m kgpt_jax.main --mode=all --variant=vanilla

`--help` lists the modes, `--mode=MODE --help` the flags of one. The course's own commands work as they are
(kgpt_jax/course.py). This file picks the mode and turns what goes wrong into one line and a status.
"""

import logging
import os
import shlex
import signal
import sys
from importlib import import_module

from kgpt_jax import course, environment, modes
from kgpt_jax.modes import command as commands
from kgpt_jax.modes.errors import explanation

CLOSED = 128 + 13  # as shells report SIGPIPE, which Windows lacks


def run(words: list[str] | None = None):
    """Runs a command line, by default that of this process, and ends the process with its status."""
    words = sys.argv[1:] if words is None else words
    if commands.needs_jax(words):
        environment.prepare()  # before JAX is imported; it may start the process again
    try:
        try:
            status = main(words)
        finally:
            if sys.stdout:  # None where it was closed from the start
                sys.stdout.flush()
    except BrokenPipeError:  # nobody reads on, as behind `| head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the very end
        status = CLOSED
    sys.exit(status)


def main(words: list[str]) -> int:
    """Runs a command line and returns its status: 0, 2 for what the user can mend, 130 for Ctrl-C.

    A mode that training stops by a signal raises SystemExit with 143 or 130.
    """
    show_log()
    try:
        if translated := course.translate(words):
            print(f"this is: python -m kgpt_jax.main {shlex.join(translated)}", flush=True)
        command = commands.parse(translated or words)
        if isinstance(command, str):  # help
            print(command)
            return 0
        if modes.MODES[command.mode].computes:
            import_module("kgpt_jax.devices").find_devices()
        modes.load(command.mode).run(command)
    except KeyboardInterrupt:  # outside of training, which saves first
        print("stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        if not (line := explanation(error)):
            raise
        print(f"error: {' '.join(line.split())}", file=sys.stderr)
        return 2
    return 0


class Screen(logging.Handler):
    """Prints what the rooms below log, as it is."""

    def emit(self, record: logging.LogRecord):
        print(self.format(record), flush=True)


def show_log():
    """Shows the package's log on the screen."""
    ours = logging.getLogger("kgpt_jax")
    ours.handlers, ours.propagate = [Screen()], False
    ours.setLevel(logging.INFO)


if __name__ == "__main__":
    run()
