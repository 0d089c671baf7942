"""Stopping by a signal: the update under way ends, its checkpoint is saved, the process ends with a status.

SIGTERM ends it with 143 and SIGINT (Ctrl-C) with 130, as shells report them. A second signal ends it at once.
"""

import logging
import signal
import threading

from kgpt_jax.devices import any_process

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """While entered, takes the first signal for a wish.

    with Stop() as stop:
        while not stop.agreed():
            ...
    """

    asked = None  # or the signal

    def __enter__(self):
        self.before = {}
        if (
            threading.current_thread() is threading.main_thread()
        ):  # Python lets no other thread handle signals
            self.before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(self, error, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if self.asked and error is None:  # training ended before it could heed the wish: what follows must
            signal.raise_signal(self.asked)

    def _ask(self, number: int, frame):
        self.asked = signal.Signals(number)
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)

    def agreed(self) -> bool:
        """Tells whether any process was asked to stop. Of several, all must ask at the same point."""
        # Not what holds by now: of a signal that has come meanwhile the other processes do not know.
        agreed = any_process(self.asked is not None)
        if agreed:
            self.asked = self.asked or signal.SIGTERM
        return agreed

    def exit(self, step: int, n_steps: int):
        """Ends the process, its work saved."""
        log.info(
            f"stopped by {self.asked.name} at update {step} of {n_steps}: the same command goes on from there"
        )
        raise SystemExit(128 + self.asked)
