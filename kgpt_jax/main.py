"""The command line: python -m kgpt_jax.main --mode=all --variant=vanilla

`--help` lists the modes; `--mode=MODE --help` lists the flags of one mode. The course's own commands work too
(kgpt_jax/course.py). This file picks the mode, and turns an error into one line and an exit status.
"""

import atexit
import gc
import logging
import os
import shlex
import signal
import sys
import warnings
from importlib import import_module

from kgpt_jax import course, environment, modes
from kgpt_jax.config import check_utf8
from kgpt_jax.modes import command as commands
from kgpt_jax.modes.errors import explanation

CLOSED = 128 + 13  # the status that shells give for SIGPIPE; Windows has no signal.SIGPIPE


def run(words: list[str] | None = None):
    """Runs a command line and ends the process with its exit status.

    Args:
      words: the words of the command line; None takes those of this process.
    """
    words = sys.argv[1:] if words is None else words
    atexit.register(gc.freeze)  # otherwise Python looks for garbage for half a second before it ends
    if commands.needs_jax(words):
        environment.prepare()  # before JAX is imported; it may restart the process
    # If a save fails, as on a full disk, we report the first failed write only. Python would add the others.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    status = 0
    try:
        try:
            status = main(words)
        finally:
            if sys.stdout:  # None if it was closed before Python started
                sys.stdout.flush()
    except OSError as error:  # the reader has closed the pipe, as `| head -1` does, or the disk is full
        line, closed = explanation(error), isinstance(error, BrokenPipeError)
        if not line and not closed:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the flush at exit succeeds
        if line and not status:  # otherwise `main` has printed an error
            show_error(line)
        status = CLOSED if closed else 2
    sys.exit(status)


def main(words: list[str]) -> int:
    """Runs a command line and returns its exit status.

    Args:
      words: the words of the command line, without the program's name.

    Returns:
      0 after success, 2 after an error that the user can correct, 130 after Ctrl-C outside of training.

    Raises:
      SystemExit: a signal stopped training, which saved a checkpoint first. The status is 143 for SIGTERM and
        130 for Ctrl-C.
    """
    show_log()
    try:
        for word in words:
            check_utf8("the command line", word)
        if translated := course.translate(words):
            print(f"this is: python -m kgpt_jax.main {shlex.join(translated)}", flush=True)
        command = commands.parse(translated or words)
        if isinstance(command, str):  # help
            print(command)
            return 0
        if modes.MODES[command.mode].computes:
            import_module("kgpt_jax.devices").find_devices()
        modes.load(command.mode).run(command)
    except KeyboardInterrupt:  # during training, train/stop.py handles Ctrl-C
        print("stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        if not (line := explanation(error)):
            raise
        show_error(line)
        return 2
    return 0


def show_error(text: str):
    """Prints an error as one line."""
    print(f"error: {' '.join(text.split())}", file=sys.stderr)


class Screen(logging.Handler):
    """Prints each log record as a plain line on standard output."""

    def emit(self, record: logging.LogRecord):
        print(self.format(record), flush=True)


def show_log():
    """Prints the package's log on standard output. The Python API does not call this."""
    ours = logging.getLogger("kgpt_jax")
    ours.handlers, ours.propagate = [Screen()], False
    ours.setLevel(logging.INFO)


if __name__ == "__main__":
    run()
