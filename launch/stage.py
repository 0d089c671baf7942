"""Starts a stage of training, in this process or in several, and sets the environment before JAX starts.

    python -m launch.pretrain --platform=cpu --num_processes=2 --max_restarts=3 [flags of --mode=pretrain]

starts two processes on this machine. On a cluster, start the same command without --num_processes in every
process. Each finds its rank in the variables that `launch/cluster.py` lists.
"""

import os
import shlex
import sys
import textwrap
import threading
import traceback
from functools import partial

from absl import flags

from kgpt_jax import main
from kgpt_jax.config import UserError
from kgpt_jax.environment import prepare
from kgpt_jax.modes.command import asks_help
from launch.cluster import PORT, arguments
from launch.local import STOPPED, environments, supervise

PLATFORMS = ("cpu", "gpu", "tpu")
TIMEOUT = 300  # seconds that a process waits for the others
PATIENCE = 5  # seconds of waiting after which it prints a message
MEMORY_FRACTION = ".9"  # of the GPU's memory, reserved at the start so that it does not fragment
SETS_MEMORY_FRACTION = {"XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"}  # JAX reads either
AUTO = "auto"


def start(mode: str):
    """Runs one stage with the flags in `sys.argv`: the launcher's own flags and those of the mode.

    Args:
      mode: pretrain, finetune or evaluate.
    """
    prepare()
    given = launcher_flags()
    try:
        words = given(sys.argv, known_only=True)[1:]
        if any(map(asks_help, words)):
            print(f"{described_flags(given, mode)}\n", flush=True)
            main.run([f"--mode={mode}", *words])
        variables = environment(given.platform, given.devices)
        os.environ.update(variables)
        cluster = cluster_of(given)
        if given.num_processes > 1 and cluster is None and not given.platform:
            raise UserError("--num_processes needs --platform: cpu, or gpu, of which each process gets one")
    except (flags.Error, ValueError) as error:  # absl raises a ValueError for --noFLAG=value
        fail(error)
    n = max(given.num_processes, 1)
    if cluster is None and (n > 1 or given.max_restarts):
        kept = [f"--{name}={given[name].value}" for name in ("platform", "devices") if given[name].present]
        command = [sys.executable, "-m", f"launch.{mode}", *kept, *words]
        if given.dry_run:
            for each in environments(n, PORT, given.platform):
                print(described(each | variables, command))
            return
        sys.exit(supervise(command, n, given.platform, given.max_restarts))
    if given.dry_run:
        print(described(variables, sys.orig_argv))
        print(f"jax.distributed.initialize(**{cluster})" if cluster is not None else "one process")
        return
    begin(mode, words, given.platform, cluster)


def launcher_flags() -> flags.FlagValues:
    """Returns the launchers' own flags, unparsed. All other flags belong to the mode."""
    values = flags.FlagValues()
    values.set_gnu_getopt()  # our flags may follow a mode's flag that is written `--name value`
    flags.DEFINE_enum("platform", None, PLATFORMS, "Device kind; default: the best.", flag_values=values)
    for name, default, about in (
        ("devices", 0, "Number of devices to split the CPU into."),
        ("num_processes", 0, "Number of processes to start on this machine for one training."),
        ("max_restarts", 0, "How often to start all processes again after one died."),
        ("process_id", None, "This process's number, from 0; with --coordinator."),
    ):
        flags.DEFINE_integer(name, default, about, lower_bound=0, flag_values=values)
    about = "host:port of process 0, if you start each process by hand; 'auto': JAX detects it."
    flags.DEFINE_string("coordinator", None, about, flag_values=values)
    flags.DEFINE_boolean("dry_run", False, "Print what would run, and start nothing.", flag_values=values)
    return values


def described_flags(values: flags.FlagValues, mode: str) -> str:
    """Returns the help of the launchers' own flags, in the format of a mode's help."""
    lines = [f"flags of launch.{mode}:"]
    for flag in values.flags_by_module_dict()[__name__]:
        text = f"--{flag.name}  {flag.help}"
        lines += textwrap.wrap(text, 100, initial_indent="  ", subsequent_indent="      ")
    return "\n".join(lines)


def begin(mode: str, words: list[str], platform: str | None, cluster: dict | None):
    """Starts JAX and runs the stage in this process.

    Args:
      mode: the stage.
      words: the mode's flags.
      platform: the kind of device to use; None for the best.
      cluster: arguments of `jax.distributed.initialize`; None if this is the only process.
    """
    import jax  # imported here, because it reads the environment only once

    from kgpt_jax.devices import find_devices

    if cluster is not None:
        # JAX's preemption service would catch SIGTERM, which train/stop.py handles.
        jax.config.update("jax_enable_preemption_service", False)
        waiting = threading.Timer(
            PATIENCE, partial(print, waiting_message(cluster), file=sys.stderr, flush=True)
        )
        waiting.start()
        try:
            jax.distributed.initialize(**cluster, initialization_timeout=TIMEOUT)
        except (RuntimeError, ValueError) as error:
            fail(f"cannot join the other processes, {cluster or 'which JAX was to detect'}: {error}")
        finally:
            waiting.cancel()
    try:
        find_devices(platform)
    except UserError as error:
        main.show_error(str(error))
        sys.stderr.flush()
        os._exit(2)  # a normal exit would wait for the other processes
    if jax.process_index():
        sys.stdout = open(os.devnull, "w")  # process 0 prints for all
    try:
        main.run([f"--mode={mode}", *words])
    except BaseException as error:
        status = error.code if isinstance(error, SystemExit) else 1
        if jax.process_count() == 1 or not status or status in STOPPED:
            raise
        # At a normal exit, JAX would wait for the other processes, which may be waiting for this one.
        if not isinstance(error, SystemExit):
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def waiting_message(cluster: dict) -> str:
    """Returns the message of a process that waits for the others. It does not know which ones are missing.

    >>> waiting_message({"coordinator_address": "n1:8476", "num_processes": 2, "process_id": 0})
    'process 0 of 2 waits for the others, up to 300 s: all connect to n1:8476'
    """
    which = f"process {cluster['process_id']} of {cluster['num_processes']}" if cluster else "this process"
    address = cluster.get("coordinator_address", "the address that JAX detects")
    return f"{which} waits for the others, up to {TIMEOUT} s: all connect to {address}"


def cluster_of(given: flags.FlagValues) -> dict | None:
    """Returns keyword arguments for `jax.distributed.initialize`.

    The launcher's flags count more than the variables that a cluster sets. The result is None if all
    processes are on this machine, or there is only one.

    Raises:
      UserError: flags contradict each other, one that another needs is missing, or `cluster.arguments`
        refuses the variables.
    """
    if given.coordinator is None and given.num_processes:
        cluster = None
    elif given.coordinator == AUTO:
        cluster = {}
    elif given.coordinator:
        cluster = arguments(by_hand(given.coordinator, given.num_processes, given.process_id))
    else:
        cluster = arguments(os.environ)
    if given.process_id is not None and given.coordinator in (None, AUTO):
        raise UserError("--process_id needs --coordinator=host:port")
    if given.num_processes and given.coordinator == AUTO:
        raise UserError("with --coordinator=auto, JAX finds the processes: leave out --num_processes")
    if given.max_restarts and cluster is not None:
        raise UserError("--max_restarts restarts processes on this machine: leave it out on a cluster")
    return cluster


def by_hand(coordinator: str, num_processes: int, process_id: int | None) -> dict[str, str]:
    """Returns the variables for a process that the user starts by hand, with --coordinator=host:port."""
    if num_processes < 2 or process_id is None:
        raise UserError("--coordinator needs --num_processes, 2 or more, and --process_id")
    return {
        "JAX_COORDINATOR_ADDRESS": coordinator,
        "JAX_NUM_PROCESSES": str(num_processes),
        "JAX_PROCESS_ID": str(process_id),
    }


def environment(platform: str | None, devices: int = 0) -> dict[str, str]:
    """Returns the variables to set before JAX starts.

    Args:
      platform: the kind of device to use; None leaves the choice to JAX.
      devices: the number of devices to split the processor into; 0 changes nothing.

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
    """Returns a command with its variables, as a line to type in a shell.

    >>> described({"A": "b c"}, ["python", "-m", "x", "y z"])
    "A='b c' python -m x 'y z'"
    """
    return " ".join(
        [*(f"{name}={shlex.quote(value)}" for name, value in variables.items()), shlex.join(command)]
    )


def fail(error):
    """Prints an error as one line and ends this process with status 2."""
    main.show_error(str(error))
    sys.exit(2)
