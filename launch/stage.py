"""Starts a stage where and as often as flags and cluster say: the environment is set before JAX starts.

    python -m launch.pretrain --platform=cpu --num_processes=2 --max_restarts=3 [flags of kgpt_jax.main]

starts two processes on this machine. In a cluster each process gives the plain command, and finds its place
in the variables that `launch/cluster.py` lists.
"""

import os
import shlex
import sys
import threading
import traceback
from functools import partial

from absl import flags

from kgpt_jax.config import UserError
from kgpt_jax.environment import prepare
from launch.cluster import PORT, arguments
from launch.local import STOPPED, environments, supervise

PLATFORMS = ("cpu", "gpu", "tpu")
SECONDS_TO_MEET = 300  # that a process waits for the others
SECONDS_TO_SAY_SO = 5
MEMORY_FRACTION = ".9"  # of the GPU's memory, taken at the start so that it does not fragment
SETS_MEMORY_FRACTION = {"XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"}  # one of the two
AUTO = "auto"
OURS = {"num_processes", "coordinator", "process_id", "max_restarts", "dry_run"}


def start(mode: str):
    """Runs one stage with the flags of `kgpt_jax.main` and those defined here."""
    prepare()
    given = flags.FlagValues()
    flags.DEFINE_enum(
        "platform", None, PLATFORMS, "Device kind (default: the best one there is).", flag_values=given
    )
    for name, default, about in (
        ("devices", 0, "CPU only: devices to split the processor into."),
        ("num_processes", 0, "Processes of one training, on this machine."),
        ("process_id", None, "This process's number, with --coordinator."),
        ("max_restarts", 0, "How often to go on after a process died."),
    ):
        flags.DEFINE_integer(name, default, about, lower_bound=0, flag_values=given)
    flags.DEFINE_string(
        "coordinator",
        None,
        "host:port of process 0, to start each process by hand; 'auto': JAX finds out.",
        flag_values=given,
    )
    flags.DEFINE_boolean("dry_run", False, "Print what would run.", flag_values=given)
    if {"--help", "--helpshort", "--helpfull"} & set(sys.argv):
        print(f"flags of launch.{mode}:\n{given.main_module_help() or given.get_help()}")
    try:
        words = given(sys.argv, known_only=True)[1:]
        surroundings = environment(given.platform, given.devices)
        os.environ.update(surroundings)
        if given.coordinator and given.coordinator != AUTO:
            os.environ.update(by_hand(given.coordinator, given.num_processes, given.process_id))
        cluster = {} if given.coordinator == AUTO else arguments(os.environ)
        if given.num_processes > 1 and cluster is None and not given.platform:
            raise UserError("--num_processes needs --platform: cpu, or gpu, of which each process gets one")
    except (flags.Error, UserError) as error:
        fail(error)
    n = max(given.num_processes, 1)
    if (n > 1 or given.max_restarts) and cluster is None:
        command = [sys.executable, "-m", f"launch.{mode}", *passed_on(sys.argv[1:])]
        if given.dry_run:
            for each in environments(n, PORT, given.platform):
                print(described(each | surroundings, command))
            return
        sys.exit(supervise(command, n, given.platform, given.max_restarts))
    if given.dry_run:
        print(described(surroundings, sys.orig_argv))
        print(f"jax.distributed.initialize(**{cluster})" if cluster is not None else "one process")
        return
    begin(mode, words, given.platform, cluster)


def begin(mode: str, words: list[str], platform: str | None, cluster: dict | None):
    """Starts JAX and runs the stage in this process."""
    import jax  # reads the environment once

    from kgpt_jax import main
    from kgpt_jax.devices import find_devices

    if cluster is not None:
        # It would swallow SIGTERM, which train/stop.py takes.
        jax.config.update("jax_enable_preemption_service", False)
        say = partial(print, waits(cluster), file=sys.stderr, flush=True)
        waiting = threading.Timer(SECONDS_TO_SAY_SO, say)
        waiting.start()
        try:
            jax.distributed.initialize(**cluster, initialization_timeout=SECONDS_TO_MEET)
        except (RuntimeError, ValueError) as error:
            fail(f"no word from the other processes, {cluster or 'as JAX looks for them'}: {error}")
        finally:
            waiting.cancel()
    try:
        find_devices(platform)
    except UserError as error:
        fail(error)
    if jax.process_index():
        sys.stdout = open(os.devnull, "w")  # the first speaks for all
    try:
        main.run([f"--mode={mode}", *words])
    except BaseException as error:
        status = error.code if isinstance(error, SystemExit) else 1
        if jax.process_count() == 1 or not status or status in STOPPED:
            raise
        # JAX's way out waits for the others, who may wait for this one.
        if not isinstance(error, SystemExit):
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def waits(cluster: dict) -> str:
    """Returns what a process says that has to wait for others; it cannot know which of them are missing.

    >>> waits({"coordinator_address": "n1:8476", "num_processes": 2, "process_id": 0})
    'process 0 of 2 waits for the others, up to 300 s: all are to meet at n1:8476'
    """
    one = f"process {cluster['process_id']} of {cluster['num_processes']}" if cluster else "this process"
    where = cluster["coordinator_address"] if cluster else "the place that JAX finds out"
    return f"{one} waits for the others, up to {SECONDS_TO_MEET} s: all are to meet at {where}"


def passed_on(flags_given: list[str]) -> list[str]:
    """Returns the flags that each process gets: all but those about how many there are.

    >>> passed_on(["--num_processes=2", "--platform=cpu", "--max_restarts", "3", "--nodry_run", "--seed=1"])
    ['--platform=cpu', '--seed=1']
    """
    kept, skip = [], False
    for flag in flags_given:
        name, _, value = flag.lstrip("-").partition("=")
        if skip and not flag.startswith("-"):
            skip = False
            continue
        skip = name in OURS - {"dry_run"} and not value
        if name not in OURS and name != "nodry_run":
            kept.append(flag)
    return kept


def by_hand(coordinator: str, num_processes: int, process_id: int | None) -> dict[str, str]:
    """Returns the flags of a process that is started by hand, as environment variables."""
    if num_processes < 2 or process_id is None:
        raise UserError("--coordinator needs --num_processes, 2 or more, and --process_id")
    return {
        "JAX_COORDINATOR_ADDRESS": coordinator,
        "JAX_NUM_PROCESSES": str(num_processes),
        "JAX_PROCESS_ID": str(process_id),
    }


def environment(platform: str | None, devices: int = 0) -> dict[str, str]:
    """Returns what JAX is to find in the environment; how much memory it takes stays as the user has set it.

    >>> environment("cpu")
    {'JAX_PLATFORMS': 'cpu'}
    """
    found = {}
    if platform:
        found["JAX_PLATFORMS"] = "cuda" if platform == "gpu" else platform
    if platform == "gpu" and not SETS_MEMORY_FRACTION & os.environ.keys():
        found["XLA_PYTHON_CLIENT_MEM_FRACTION"] = MEMORY_FRACTION
    if devices:
        split = f"--xla_force_host_platform_device_count={devices}"
        found["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {split}".strip()
    return found


def described(variables: dict[str, str], command: list[str]) -> str:
    """Returns a command as one would type it.

    >>> described({"A": "b c"}, ["python", "-m", "x", "y z"])
    "A='b c' python -m x 'y z'"
    """
    return " ".join(
        [*(f"{name}={shlex.quote(value)}" for name, value in variables.items()), shlex.join(command)]
    )


def fail(error):
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(2)
