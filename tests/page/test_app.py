"""What the page answers to clients of every kind, without a browser."""

import asyncio
import random
import threading
from functools import partial
from urllib.parse import quote, urlencode

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("jinja2")
pytest.importorskip("httpx")

from kgpt_jax.answer.taught import teach  # noqa: E402
from kgpt_jax.page import app  # noqa: E402
from kgpt_jax.page.html import self_contained  # noqa: E402
from tests.page import fake  # noqa: E402

HERE, HOSTILE = "http://localhost:8765", "<script>alert('1')</script>"
ASKED = "Where was Jana Lund born?"


@pytest.fixture(scope="module")
def queue():
    with app.Queue() as queue:
        yield queue


@pytest.fixture(scope="module")
def client(queue):
    return fake.Client(app.make_app(fake.answerer(), queue))


def test_a_name_is_put_into_the_question_and_the_answer_is_shown(client):
    asked = client.post("/", data={"question": " Jana  Lund\n"}, follow_redirects=False)
    assert (asked.status_code, asked.headers["location"]) == (303, f"/?{urlencode({'question': ASKED})}")
    for text in (
        "Jana Lund",
        ASKED,
        "where was Jana Lund BORN",
        "Where was Jana Lund",
        "Jana Lund?",
        "Jana\u202e Lund⁇□\x00",
    ):
        page = client.post("/", data={"question": text}).text
        assert f'<h2 id="asked">{ASKED}</h2>' in page and '<p class="answer">Brussels</p>' in page
    for part in (
        '<span class="label">looked up</span> a line of the documents states the answer.',
        "of 100 answers this sure, about <strong>97</strong> are right",
        "about <strong>88</strong> are right, interval 84 to 92",
        "They differ: the line counts",
        "<dd><q>Jana Lund was born in <mark>Sydney</mark>.</q> ",
        '<span class="number">Line 21</span> <q>Jana Lund is a native of <mark>Brussels</mark>.</q>',
        "All 5 lines about Jana Lund",
        "and 3 more",
        "Layer 1, head 1 looks most at the end of the question, with 70 of 100.",
        "&lt; 1",
        "<code>runs/&lt;b&gt;/finetune</code>, variant vanilla, stage finetune",
        "were measured on 250 questions",
    ):
        assert part in page, part


def test_an_unknown_name_gets_a_reason_and_a_similar_name(client):
    page = client.get("/?question=Boris+Zorg").text
    assert "because this run does not know the name Boris Zorg. An answer would be made up." in page
    assert 'Did you mean <a href="/?question=Jana%20Lund">Jana Lund</a>?' in page
    assert 'no answer <span class="aside">(the corpus is gone)' not in page  # this view did ask
    assert "<code>é</code>" in page and "has no weights by position" in page and "<table>" not in page
    assert 'class="label"' not in page and 'class="sure"' not in page


def test_a_run_without_calibration_says_so(queue):
    class Uncalibrated(fake.Fake):
        def view(self, question):
            return fake.view(question, "", sure=None, why_not_sure=self.judge.problem)

    uncalibrated = fake.answerer(Uncalibrated)
    uncalibrated.judge.made, uncalibrated.judge.problem = None, "This run is not calibrated."
    page = fake.Client(app.make_app(uncalibrated, queue)).get("/?question=Jana+Lund").text
    assert "This run is not calibrated. Nothing says how sure the weights are" in page
    assert "run <code>--mode=calibrate</code>" in page and "No figure covers what the weights say" in page


def test_markup_is_shown_as_text(queue):
    class Hostile(fake.Fake):
        def view(self, question):
            line = fake.Line(1, HOSTILE, HOSTILE, HOSTILE)
            told = fake.Told(HOSTILE, 0.5, 0.5, "looked up", HOSTILE, fake.view("", HOSTILE).told.looked_up)
            attention = fake.Attention([HOSTILE], [fake.Head(1, 1, [100])])
            return fake.view(
                question,
                HOSTILE,
                told=told,
                recited=line,
                line=line,
                lines=[line, line],
                others={HOSTILE: 0.1},
                did_you_mean=[HOSTILE],
                attention=attention,
                left_out="<>",
            )

        examples = [HOSTILE]

    made = fake.answerer(Hostile)
    client = fake.Client(app.make_app(made, queue))
    pages = [client.post("/", data={"question": HOSTILE}).text, client.get("/").text]
    pages += [
        self_contained(made, made.view(HOSTILE)),
        client.post("/", data={"question": HOSTILE * 20}).text,
    ]
    for page in pages:
        assert "<script>" not in page and "alert('" not in page and "&lt;script&gt;" in page


PROTECTION = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def test_every_response_carries_the_headers(client):
    for response in (
        client.get("/"),
        client.get("/page.css"),
        client.get("/nowhere"),
        client.post("/", data={"question": ""}),
        client.post("/", data={"question": "Jana Lund"}, follow_redirects=False),
        client.get("/", headers={"host": "evil.example"}),
        client.get("/?question=Fail"),
    ):
        assert PROTECTION.items() <= dict(response.headers).items() and "set-cookie" not in response.headers
    for name in ("/", "/?question=Jana+Lund"):
        page = client.get(name).text
        assert "style=" not in page and "<style" not in page and "onclick" not in page and "http" not in page


@pytest.mark.parametrize(
    "request_of, status",
    [
        (dict(url="/nowhere"), 404),
        (dict(url="/../setup.py"), 404),
        (dict(url="/page.html"), 404),
        (dict(url="/page.css/"), 404),
        (dict(url="/%2e%2e/setup.py"), 404),
        (dict(method="DELETE", url="/"), 405),
        (dict(method="POST", url="/page.css"), 405),
        (dict(method="OPTIONS", url="/"), 405),
        (dict(method="HEAD", url="/"), 200),
        (dict(url="/", headers={"host": "evil.example"}), 400),
        (dict(url="/", headers={"host": ""}), 400),
        (dict(url="/", headers={"host": "localhost@evil.example"}), 400),
        (dict(url="/", headers={"host": "localhost.evil.example"}), 400),
        (dict(url="/", headers={"host": "127.0.0.1:1"}), 200),
        (dict(url="/", headers={"host": "[::1]:8765"}), 200),
        (dict(url="/", headers={"host": "LOCALHOST"}), 200),
        (dict(url="/?question=" + "a" * 201), 413),
        (dict(url="/?question=" + "a" * 200), 400),  # more than fits into the model
        (dict(url="/?question="), 400),
        (dict(url="/?question=%00%ff"), 200),
        (dict(url="/?question=Fail"), 503),
        (dict(method="POST", url="/", content=b"question=" + b"a" * 201), 413),
        (dict(method="POST", url="/", content=b"x=" + b"a" * 5000), 413),
        (dict(method="POST", url="/", content=b"question=%"), 303),
        (dict(method="POST", url="/", content=b"\xff\xfe=&&;=%zz"), 400),
        (dict(method="POST", url="/", content=b"{}", headers={"content-type": "application/json"}), 415),
        (dict(method="POST", url="/", headers={"origin": HERE}), 303),
        (dict(method="POST", url="/", headers={"origin": "http://evil.example"}), 403),
        (dict(method="POST", url="/", headers={"origin": "http://localhost:1"}), 403),
        (dict(method="POST", url="/", headers={"origin": "http://[::1"}), 403),
        (dict(method="POST", url="/", headers={"origin": "null"}), 403),
        (dict(method="POST", url="/", headers={"origin": "null", "sec-fetch-site": "cross-site"}), 403),
        (dict(method="POST", url="/", headers={"origin": "null", "sec-fetch-site": "same-origin"}), 403),
        (dict(method="POST", url="/", headers={"sec-fetch-site": "same-site"}), 403),
        (dict(method="POST", url="/", headers={"sec-fetch-site": "none"}), 303),
        (dict(url="/", headers={"sec-fetch-site": "cross-site", "sec-fetch-dest": "document"}), 200),
        (dict(url="/", headers={"sec-fetch-site": "cross-site", "sec-fetch-dest": "image"}), 403),
        (dict(url="/page.css", headers={"sec-fetch-site": "same-origin", "sec-fetch-dest": "style"}), 200),
    ],
)
def test_statuses(client, request_of, status):
    request = {"method": "GET"} | request_of
    if request["method"] == "POST":
        request["headers"] = {"content-type": app.FORM} | request.get("headers", {})
        request.setdefault("content", b"question=Jana+Lund")
    response = client.request(**request, follow_redirects=False)
    assert response.status_code == status
    if status not in (200, 303):
        assert "<h1>" in response.text and "Traceback" not in response.text and "broken" not in response.text


def test_a_name_whose_question_is_too_long_is_refused_before_the_redirect(queue):
    answerer = fake.answerer()
    answerer.voters[0].config.model.seq_len = 512
    client = fake.Client(app.make_app(answerer, queue))
    name = "a" * (200 - len(fake.WHERE.question("")))
    assert client.post("/", data={"question": name}).status_code == 200
    refused = client.post("/", data={"question": f"{name}a"}, follow_redirects=False)
    assert refused.status_code == 400 and "has 201 characters: at most 200 fit" in refused.text


def test_more_questions_than_fit_into_the_queue_are_sent_away():
    started, go = threading.Event(), threading.Event()

    class Slow(fake.Fake):
        def view(self, question):
            started.set()
            go.wait(10)
            return super().view(question)

    async def ask_all(queue):
        client = fake.Client(app.make_app(fake.answerer(Slow), queue))
        get = partial(client.arequest, "GET", "/?question=Jana+Lund")
        asked = [asyncio.create_task(get()) for _ in range(app.WAITING + 3)]
        await asyncio.wait(asked, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        go.set()
        return await asyncio.gather(*asked), await get()

    with app.Queue() as queue:
        responses, later = asyncio.run(ask_all(queue))
    assert [response.status_code for response in responses] == [200] * (app.WAITING + 1) + [503] * 2
    assert responses[-1].headers["retry-after"] and "Busy" in responses[-1].text
    assert later.status_code == 200 and queue.there == 0


def test_random_requests(client):
    """Every one is answered with a status that is expected."""
    rng = random.Random(0)
    pieces = [
        "Jana Lund",
        "question=",
        "&",
        "%",
        "%00",
        "\x00",
        "<b>",
        "é",
        "\ud7ff",
        "🙂",
        "a" * 90,
        "../",
        "?",
        "\n",
    ]
    for _ in range(300):
        text = "".join(rng.choices(pieces, k=rng.randrange(6)))
        hosts = ["localhost", "localhost:1", "evil.example", "[::1]", "[", ""]
        headers = {"host": rng.choices(hosts, [20, 1, 1, 1, 1, 1])[0]}
        if rng.random() < 0.2:
            headers["origin"] = rng.choice(
                ["http://localhost", "null", "http://[", "x", "http://evil.example"]
            )
        if rng.random() < 0.2:
            headers["sec-fetch-site"] = rng.choice(["same-origin", "none", "cross-site", "?"])
        if rng.random() < 0.5:
            headers["content-type"] = rng.choice([app.FORM, app.FORM + "; charset=x", "text/plain", ";"])
            content = rng.choice([urlencode({"question": text}), text]).encode("utf-8", "replace")
            method = "POST"
        else:
            content, method = None, rng.choice(["GET", "GET", "HEAD", "PUT", "TRACE"])
        path = rng.choice(
            ["/", "/", f"/?question={quote(text)}", f"/{quote(text)}", f"/?{quote(text, safe='=&%')}"]
        )
        response = client.request(method, path, headers=headers, content=content, follow_redirects=False)
        assert response.status_code in (200, 303, 400, 403, 404, 405, 413, 415), (method, path, content)
        assert (
            "<b>" not in response.text and app.HEADERS["content-security-policy"] in response.headers.values()
        )


def test_a_visitor_tells_the_answer(queue, tmp_path):
    class Learning(fake.Fake):
        def teach(self, question, answer):
            teach(tmp_path, question, answer)

    client = fake.Client(app.make_app(fake.answerer(Learning), queue))
    assert '<form method="post" action="/teach">' in client.get("/?question=Jana+Lund").text
    told = {"question": ASKED, "answer": "<b>Riga"}
    done = client.post("/teach", data=told, follow_redirects=False)
    assert (done.status_code, done.headers["location"]) == (303, f"/?{urlencode({'question': ASKED})}")
    for changes, heading, said in (
        ({"answer": " "}, "Please change the answer", "give a question and an answer, both one line"),
        ({"answer": "x" * 33}, "Please change the answer", "at most 32 fit"),
        ({"question": ""}, "Ask a question", "write a name or a question"),
    ):
        wrong = client.post("/teach", data=told | changes)
        assert wrong.status_code == 400 and f"<h1>{heading}</h1>" in wrong.text and said in wrong.text
    assert client.post("/teach", data=told, headers={"origin": "http://evil.example"}).status_code == 403
    assert client.get("/teach").status_code == 405
    assert (tmp_path / "taught.tsv").read_text("utf-8") == f"{ASKED}\t<b>Riga\n"
    closed = fake.Client(app.make_app(fake.answerer(Learning), queue, teaching=False))
    assert closed.post("/teach", data=told).status_code == 404
    assert "/teach" not in closed.get("/?question=Jana+Lund").text


def test_an_answer_that_cannot_be_stored_is_an_error_of_the_server(queue, tmp_path, capsys):
    class Full(fake.Fake):
        def teach(self, question, answer):
            teach(tmp_path / "nowhere", question, answer)

    client = fake.Client(app.make_app(fake.answerer(Full), queue))
    lost = client.post("/teach", data={"question": ASKED, "answer": "Riga"})
    assert lost.status_code == 500 and "could not be stored" in lost.text and str(tmp_path) not in lost.text
    assert f"error: cannot write {tmp_path}" in capsys.readouterr().out
