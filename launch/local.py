"""Runs several processes on one machine as one job, so that they start, stop and restart together."""

import os
import signal
import socket
import subprocess
import sys
import time

from kgpt_jax.environment import SUPERVISED

USER_ERROR = 2  # exit status of a mistake that a restart would repeat
STOPPED = {128 + signal.SIGTERM, 128 + signal.SIGINT}  # exit statuses of a training that a signal stopped
GRACE = 60  # seconds after a signal until processes that have not ended are killed


def environments(n: int, port: int, platform: str | None) -> list[dict[str, str]]:
    """Returns the variables to set for each of n processes: its rank and, on GPUs, its GPU.

    >>> environments(2, 99, "cpu")[1]
    {'JAX_COORDINATOR_ADDRESS': '127.0.0.1:99', 'JAX_NUM_PROCESSES': '2', 'JAX_PROCESS_ID': '1'}
    >>> environments(2, 99, "gpu")[1]["JAX_LOCAL_DEVICE_IDS"]
    '1'
    """
    address = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(n)}
    device = [{"JAX_LOCAL_DEVICE_IDS": str(i)} if platform == "gpu" else {} for i in range(n)]
    return [address | {"JAX_PROCESS_ID": str(i)} | device[i] for i in range(n)]


def free_port() -> int:
    """Returns a port of this machine that is currently free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def supervise(command: list[str], n: int, platform: str | None, max_restarts: int) -> int:
    """Runs n processes of a command until all have ended.

    If one process dies, the others would wait for it. So they are killed, and all n start again. SIGTERM and
    SIGINT are passed on to all processes, and SIGHUP as SIGTERM. A second signal kills them.

    Args:
      command: the command of each process.
      n: the number of processes.
      platform: cpu, gpu or tpu; on gpu each process gets one GPU.
      max_restarts: how often all processes may restart. A user's error (status 2) causes no restart.

    Returns:
      The exit status: 0 if all processes succeeded, otherwise the status of one that failed.
    """
    asked = []

    def ask(number: int, frame):
        asked.append(signal.SIGTERM if number == signal.SIGHUP else number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # SIGHUP comes when the terminal is closed
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores it
            signal.signal(number, ask)
    launch = f"{socket.gethostname()} {os.getpid()} {time.time_ns()}"  # the same for all restarts
    for start in range(max_restarts + 1):
        placed = environments(n, free_port(), platform)
        processes = []
        try:
            for each in placed:
                # In its own process group, so that Ctrl-C reaches it only once, through `_wait`.
                processes.append(
                    subprocess.Popen(command, env={**os.environ, **each, SUPERVISED: launch}, process_group=0)
                )
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
    deadline = None  # set by a signal: the time at which the processes are killed
    while True:
        ended = [process.poll() for process in processes]
        if bad := [status for status in ended if status and status not in STOPPED and not asked]:
            # If one process ended with a user's error, the others failed because it was gone.
            first = USER_ERROR if USER_ERROR in bad else bad[0]
            return first if first > 0 else 128 - first  # shells report a signal this way
        if None not in ended:
            return max(status if status >= 0 else 128 - status for status in ended)
        if asked and deadline is None:
            deadline = time.monotonic() + GRACE
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
