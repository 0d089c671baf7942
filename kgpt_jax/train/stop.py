"""Stops training on a signal: finishes the current update, saves a checkpoint, and ends the process.

The exit status is 143 for SIGTERM and 130 for SIGINT (Ctrl-C), as shells report them. A second signal ends
the process at once. Under a launcher it is ignored, because the launcher passes on a signal that may have
reached this process, too. After a second signal the launcher kills its processes.
"""

import logging
import os
import signal
import threading

from kgpt_jax.devices import any_process
from kgpt_jax.environment import SUPERVISED

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
RESUME = "the same command (without --start_anew) resumes"


class Stop:
    """A context that treats the first signal as a request to stop, and lets a second one end the process.

        with Stop() as stop:
            while not stop.agreed():
                ...

    If the work ends before it has seen the request, the signal takes effect when the context ends. Outside
    the main thread, where Python allows no signal handlers, signals work as usual.

    Attributes:
      asked: the signal that was received, None if there was none.
    """

    asked = None

    def __enter__(self):
        self.before = {}
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(self, error, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if self.asked and error and error.__name__ == "JaxRuntimeError":
            # A signal to the process group also ends XLA's compiler for GPUs, a child process (ptxas).
            log.info(f"stopped by {self.asked.name}: {RESUME} from the newest checkpoint")
            raise SystemExit(128 + self.asked) from None
        if self.asked and error is None:  # the work ended before it saw the request
            signal.raise_signal(self.asked)

    def _ask(self, number: int, frame):
        self.asked = signal.Signals(number)
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN if SUPERVISED in os.environ else signal.SIG_DFL)

    def agreed(self) -> bool:
        """Returns whether any process was asked to stop. All processes must call this at the same point."""
        # Return the common answer: other processes may not know of a signal that has just reached this one.
        agreed = any_process(self.asked is not None)
        if agreed:
            self.asked = self.asked or signal.SIGTERM
        return agreed

    def exit(self, step: int, n_steps: int):
        """Ends the process with the signal's exit status, after the caller has saved update `step`."""
        log.info(f"stopped by {self.asked.name} at update {step} of {n_steps}: {RESUME} from there")
        raise SystemExit(128 + self.asked)
