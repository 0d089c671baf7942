"""Stops training on a signal: after the update under way, a checkpoint is saved and the process ends.

The exit status is 143 for SIGTERM and 130 for SIGINT (Ctrl-C), as shells report them. A second signal ends
the process at once.
"""

import logging
import signal
import threading

from kgpt_jax.devices import any_process

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """A context in which the first signal is a request to stop, rather than the end of the process.

        with Stop() as stop:
            while not stop.agreed():
                ...

    A request that comes too late for the work to see it takes effect when the context ends. Outside the main
    thread, where Python allows no signal handlers, signals work as usual.

    Attributes:
      asked: the signal that requested the stop, None if there was none.
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
        if self.asked and error is None:  # the work ended before it saw the request
            signal.raise_signal(self.asked)

    def _ask(self, number: int, frame):
        self.asked = signal.Signals(number)
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)

    def agreed(self) -> bool:
        """Returns whether any process was asked to stop. All processes must call this at the same point."""
        # Not `self.asked`: a signal that has come meanwhile is not known to the other processes yet.
        agreed = any_process(self.asked is not None)
        if agreed:
            self.asked = self.asked or signal.SIGTERM
        return agreed

    def exit(self, step: int, n_steps: int):
        """Ends the process with the signal's exit status, after the caller has saved update `step`."""
        log.info(
            f"stopped by {self.asked.name} at update {step} of {n_steps}: the same command goes on from there"
        )
        raise SystemExit(128 + self.asked)
