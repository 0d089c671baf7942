"""An answerer with prepared answers, and the real server around it, so that tests wait for no model."""

import asyncio
import dataclasses
import threading
from contextlib import contextmanager
from functools import partialmethod
from pathlib import Path
from types import SimpleNamespace

import pytest

from kgpt_jax.answer.hybrid import Told
from kgpt_jax.answer.open_book import LookedUp, Source
from kgpt_jax.answer.record import Sure
from kgpt_jax.answer.voters import Voter
from kgpt_jax.config import BiographiesConfig, DataConfig, override
from kgpt_jax.data.names import Frame
from kgpt_jax.data.vocab import Vocab
from kgpt_jax.page import app
from kgpt_jax.page.view import Answerer, Attention, Head, Line, View
from tests import runs

PEOPLE = DataConfig(biographies=BiographiesConfig(n_train=40, n_dev=10, n_test=0, n_facts=1))
WHERE = Frame("Where was ", " born?")
ATTENTION = Attention(
    ["Where", "was", "Maximiliana", "Featherstonehaugh", "born?", "⁇"],
    [Head(1, 1, [4, 3, 2, 1, 20, 70]), Head(2, 1, [100, 0, 0, 0, 0, 0])],
)
SURE = Sure("Sydney", "read", True, 0.9, 0.88, (0.84, 0.92), "", {})


def view(question, name, **changes):
    """Returns a view of an answer that was looked up, and differs from what the weights say."""
    source = Source(21, "Jana Lund is a native of Brussels.", 25, 33)
    found = LookedUp("Brussels", 0.97, source, name, "name", (), {})
    made = View(
        question,
        Told("Brussels", 0.97, 0.97, "looked up", "Sydney", found),
        SURE,
        "",
        "",
        {"Seoul": 0.19, "Tunis": 0.001},
        Line(0, "Jana Lund was born in ", "Sydney", "."),
        Line(21, "Jana Lund is a native of ", "Brussels", "."),
        [Line(21, "Jana Lund is a native of Brussels.", "", ""), Line(22, "Jana Lund sang.", "", "")],
        3,
        [],
        ATTENTION,
        "",
        "",
    )
    return made._replace(**changes)


def unknown(question, name):
    told = Told("Emeka", None, 0.07, "made up", "Emeka")
    nobody = SURE._replace(label="made up", known=False, did_you_mean="Jana Lund")
    return view(
        question,
        name,
        told=told,
        sure=nobody,
        unknown=f"this run does not know the name {name}",
        recited=None,
        line=None,
        lines=[],
        more=0,
        did_you_mean=["Jana Lund"],
        attention=Attention([], [], "variant 'linformer' has no weights by position"),
        left_out="é",
    )


def saved(folder):
    """Saves a tiny run with random parameters. It has two layers, because the page shows each by itself."""
    config = override(runs.CONFIG, {"model.n_layer": 2})
    return runs.saved(folder, dataclasses.replace(config, data=PEOPLE))


class Fake(Answerer):
    """Knows Jana Lund. Every other name is unknown, and "Fail" makes it fail."""

    def view(self, question):
        name = self.where.name(question)
        if name == "Fail":
            raise RuntimeError("broken")
        return (view if name == "Jana Lund" else unknown)(question, name)

    @property
    def examples(self):
        return ["Jana Lund", "Ada Bell"]


def answerer(kind=Fake):
    model = SimpleNamespace(seq_len=127, variant="vanilla")
    run = SimpleNamespace(
        vocab=Vocab.of("Jan"), folder=Path("runs/<b>/finetune"), facts={"stage": "finetune"}
    )
    voters = [Voter(run, SimpleNamespace(model=model), None)]
    made = SimpleNamespace(asks=SimpleNamespace(where=WHERE), quality=SimpleNamespace(n=250))
    judge = SimpleNamespace(voters=voters, made=made, problem="")
    return kind(judge, None, "the corpus is gone")


@contextmanager
def served(fake=None, host="127.0.0.1"):
    """Serves the page in a thread, and gives its port."""
    with app.listen(host, 0) as listening, app.Queue() as queue:
        server = app.make_server(app.make_app(fake or answerer(), queue, {*app.LOCAL, host}))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()


class Client:
    """Sends requests to an app in this process. Starlette's own client needs another package."""

    def __init__(self, asgi):
        self.asgi = asgi

    async def arequest(self, method, url, **rest):
        httpx = pytest.importorskip("httpx")
        there = httpx.ASGITransport(self.asgi)
        async with httpx.AsyncClient(transport=there, base_url="http://localhost:8765") as client:
            return await client.request(method, url, **{"follow_redirects": True} | rest)

    def request(self, method, url, **rest):
        return asyncio.run(self.arequest(method, url, **rest))

    get, post = partialmethod(request, "GET"), partialmethod(request, "POST")
