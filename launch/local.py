"""Several processes on one machine: they start and stop together, and go on together after one died."""

import os
import signal
import socket
import subprocess
import sys
import time

USER_ERROR = 2  # the status of a mistake that another start would repeat
STOPPED = {128 + signal.SIGTERM, 128 + signal.SIGINT}  # of a training that was asked to stop
SECONDS_TO_END = 60  # that processes have after a signal, before they are killed


def environments(n: int, port: int, platform: str | None) -> list[dict[str, str]]:
    """Returns what each of n processes finds in its environment beside what is there already: a GPU each.

    >>> environments(2, 99, "cpu")[1]
    {'JAX_COORDINATOR_ADDRESS': '127.0.0.1:99', 'JAX_NUM_PROCESSES': '2', 'JAX_PROCESS_ID': '1'}
    >>> environments(2, 99, "gpu")[1]["JAX_LOCAL_DEVICE_IDS"]
    '1'
    """
    address = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(n)}
    device = [{"JAX_LOCAL_DEVICE_IDS": str(i)} if platform == "gpu" else {} for i in range(n)]
    return [address | {"JAX_PROCESS_ID": str(i)} | device[i] for i in range(n)]


def free_port() -> int:
    """Returns a port of this machine that nothing listened on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def supervise(command: list[str], n: int, platform: str | None, max_restarts: int) -> int:
    """Runs n processes of a command until all have ended; returns their status.

    Where one dies, the others, who would wait for it, are killed, and all start again, at most `max_restarts`
    times; not so after a user's error (status 2). SIGTERM and SIGINT go on to all, SIGHUP as SIGTERM; a
    second one kills them.
    """
    asked = []

    def ask(number: int, frame):
        asked.append(signal.SIGTERM if number == signal.SIGHUP else number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # the last when a terminal closes
        signal.signal(number, ask)
    for start in range(max_restarts + 1):
        placed = environments(n, free_port(), platform)
        processes = []
        try:
            for each in placed:
                # In a group of its own: Ctrl-C in a terminal reaches it through us, once.
                processes.append(subprocess.Popen(command, env={**os.environ, **each}, process_group=0))
            status = _wait(processes, asked)
        finally:
            _kill(processes)
        if status == 0 or status == USER_ERROR or asked:
            return status
        left = max_restarts - start
        then = f" and start again, {left - 1} restarts left" if left else ""
        print(f"a process ended with status {status}: all are stopped{then}", file=sys.stderr, flush=True)
    return status


def _wait(processes: list[subprocess.Popen], asked: list[int]) -> int:
    deadline = None  # of ending after a signal
    while True:
        ended = [process.poll() for process in processes]
        if bad := [status for status in ended if status and status not in STOPPED and not asked]:
            # Where one process met the user's error, the others fail for want of it.
            first = USER_ERROR if USER_ERROR in bad else bad[0]
            return first if first > 0 else 128 - first  # as shells report a signal
        if None not in ended:
            return max(status if status >= 0 else 128 - status for status in ended)
        if asked and deadline is None:
            deadline = time.monotonic() + SECONDS_TO_END
            for process in processes:
                process.send_signal(asked[0])
        if len(asked) > 1 or deadline and time.monotonic() > deadline:
            return 128 + asked[0]
        time.sleep(0.05)


def _kill(processes: list[subprocess.Popen]):
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()
