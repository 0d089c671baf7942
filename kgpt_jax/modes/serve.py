"""--mode=serve: answers questions on a web page.

    python -m kgpt_jax.main --mode=serve --port=8765

serves the page on this machine until Ctrl-C. Open http://127.0.0.1:8765 in a browser. Other machines can open
the page only with --host=NAME --allow_network, where NAME is this machine's name or address.

    python -m kgpt_jax.main --mode=serve --question="Where was Ruth Kaplan born?" --outputs_path=answer.html

writes the page about one question to a file instead. With --recite the model recites what it has read about
the name, and the page shows it. The page and the file need `pip install ".[web]"`.
"""

from importlib.util import find_spec
from pathlib import Path

from absl import flags

from kgpt_jax.config import UserError
from kgpt_jax.modes.command import Command

SHARED = ("reading_params_path", "outputs_path", "checkpoint", "voters", "question", "recite")
KIND = "a page about one question"
NEEDED = ("jinja2", "starlette", "uvicorn")


def define_flags(values: flags.FlagValues):
    flags.DEFINE_integer("port", 8765, "Port of the page; 0: a free one.", 0, 65535, flag_values=values)
    flags.DEFINE_string("host", "127.0.0.1", "Name or address of this machine.", flag_values=values)
    flags.DEFINE_boolean("allow_network", False, "Let other machines open the page.", flag_values=values)


def run(command: Command):
    if missing := [name for name in NEEDED if not find_spec(name)]:
        raise UserError(f'--mode=serve needs {" and ".join(missing)}: pip install ".[web]"')
    from kgpt_jax.answer.voters import load_voters, with_voters
    from kgpt_jax.page.app import Queue, listen, make_app, make_server
    from kgpt_jax.page.view import open_answerer

    hosts = allowed(command)
    path = output(command)
    start = command.start("finetune")
    asked = with_voters(start, command.flags.voters, command.config(start))

    def opened():
        recites = command.flags.recite
        return open_answerer(load_voters(asked, "answering with", recites), recites)

    if path:
        write(opened(), command.flags.question[0], path)
        return
    with listen(command.flags.host, command.flags.port) as listening, Queue() as queue:
        answers = opened()
        answers.warm_up()
        host, port = command.flags.host, listening.getsockname()[1]
        address = f"[{host}]" if ":" in host else host
        print(f"open http://{address}:{port} in a browser; Ctrl-C ends", flush=True)
        app = make_app(answers, queue, hosts, teaching=not command.flags.allow_network)
        make_server(app).run(sockets=[listening])


def allowed(command: Command) -> set[str]:
    """Returns the hosts under which the page can be asked for.

    Raises:
      UserError: the page would be open to the network without --allow_network, or under no certain name.
    """
    from kgpt_jax.page.app import LOCAL

    host = command.flags.host.lower()
    if host not in LOCAL and not command.flags.allow_network:
        raise UserError(
            f"--host={host} opens the page to other machines: if that is what you want, add --allow_network"
        )
    if host in ("", "0.0.0.0", "::"):
        raise UserError(f"--host={host} is every address: give this machine's own name or address")
    return {*LOCAL, host}


def output(command: Command) -> Path | None:
    """Returns the file to write; None to serve the page.

    Raises:
      UserError: only one of --question and --outputs_path is given, or the file cannot be written.
    """
    from kgpt_jax.store.outputs import check

    question, path = command.flags.question, command.flags.outputs_path
    if not question and not path:
        return None
    if not question or not path or len(question) > 1:
        raise UserError("--question and --outputs_path belong together: give one of each, to write a file")
    check(Path(path), KIND)
    return Path(path)


def write(answerer, text: str, path: Path):
    """Writes the page about one question to a file.

    Raises:
      UserError: the question cannot be asked, or the file cannot be written.
    """
    from kgpt_jax.page.html import self_contained
    from kgpt_jax.store.outputs import write_lines

    view = answerer.view(answerer.question(text))
    write_lines(path, self_contained(answerer, view).splitlines(), KIND)
    print(f"wrote {path}")
