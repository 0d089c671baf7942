"""What the server does with slow, long, waiting and malformed requests."""

import http.client
import socket
import threading
import time

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("jinja2")

from kgpt_jax.config import UserError  # noqa: E402
from kgpt_jax.page import app  # noqa: E402
from tests.page import fake  # noqa: E402


@pytest.fixture(scope="module")
def port():
    with fake.served() as port:
        yield port


def get(port, path="/?question=Jana+Lund"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text


def test_trickling_clients_are_cut_off_and_stop_nobody(port, monkeypatch):
    monkeypatch.setattr(app, "SECONDS", 1.0)
    began, slow = time.monotonic(), [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
    body = [b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: " + app.FORM.encode()]
    head = body[0] + b"\r\nContent-Length: 100\r\n\r\n"
    for i, one in enumerate(slow):
        one.sendall(head if i % 2 else b"GET / HTTP/1.1\r\n")
    assert get(port)[0] == 200 and time.monotonic() - began < 1
    ended = {}
    while len(ended) < 50 and time.monotonic() - began < 5:
        for i, one in enumerate(slow):
            one.setblocking(False)
            try:
                if i not in ended:
                    one.send(b"a")
                    ended[i] = one.recv(1 << 16)
            except BlockingIOError:
                pass
            except ConnectionError:
                ended[i] = b""
        time.sleep(0.05)
    for one in slow:
        one.close()
    assert len(ended) == 50 and time.monotonic() - began < 4
    assert all(said.startswith(b"HTTP/1.1 408") for i, said in ended.items() if i % 2 and said)
    assert any(ended.values())


def test_a_form_is_counted_while_it_arrives(port, monkeypatch):
    monkeypatch.setattr(app, "LINGER", 0.1)
    head = f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: {app.FORM}\r\n".encode()
    with socket.create_connection(("127.0.0.1", port), timeout=4) as one:  # it never ends
        one.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n1388\r\n" + b"a" * 5000 + b"\r\n")
        assert one.recv(1 << 16).startswith(b"HTTP/1.1 413")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", "/", b"a" * 1_000_000, {"Content-Type": app.FORM})
    assert connection.getresponse().status == 413
    connection.close()


def test_questions_that_wait_when_the_server_ends_are_sent_away():
    started, go, said = threading.Event(), threading.Event(), []

    class Slow(fake.Fake):
        def view(self, question):
            started.set()
            go.wait(10)

    with fake.served(fake.answerer(Slow)) as port:
        visitors = [threading.Thread(target=lambda: said.append(get(port))) for _ in range(3)]
        for visitor in visitors:
            visitor.start()
        started.wait(5)
    go.set()
    for visitor in visitors:
        visitor.join(5)
    assert [status for status, _ in said] == [503] * 3 and "Busy" in said[0][1]


def test_malformed_requests_get_no_traceback(port, capfd):
    for sent, status in (
        (b"\x16\x03\x01\x02\x00\x01\x00", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", b"200"),
        (b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n", b"404"),
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as one:
            one.sendall(sent)
            try:
                said = one.recv(1 << 16)
            except ConnectionError:  # it has hung up before all was sent
                assert len(sent) > 1_000_000
                continue
        assert said[9:12] == status, (sent[:80], said[:80])
    assert get(port)[0] == 200
    shown = capfd.readouterr()
    assert "Traceback" not in shown.err + shown.out


def test_a_port_in_use_is_named():
    with app.listen("127.0.0.1", 0) as taken, pytest.raises(UserError, match="in use.*; give another --port"):
        app.listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(UserError, match="cannot listen on nowhere.invalid"):
        app.listen("nowhere.invalid", 1)
