"""The page as an ASGI app, and the server that runs it on this machine.

    with listen("127.0.0.1", 8765) as listening, Queue() as queue:
        make_server(make_app(answerer, queue)).run(sockets=[listening])

Browsers let any web site send requests to this machine, so the app answers only requests for its own host,
and takes forms only from its own page. Functions import Starlette and Uvicorn when they are called, because
both are optional.
"""

import asyncio
import logging
import re
import socket
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, urlencode

from kgpt_jax.config import UserError, first_line
from kgpt_jax.page.html import asset, message, page
from kgpt_jax.page.view import MAX_QUESTION, Answerer

log = logging.getLogger(__name__)

OWN_SITES = (None, "none", "same-origin")  # Sec-Fetch-Site of a request that no other site has caused
LOCAL = ("127.0.0.1", "localhost", "::1")
MOST_BYTES = 4096  # of a form
SECONDS = 5.0  # within which a request must have arrived
LINGER = 1.0  # seconds for which the rest of a form that is too long is read, and dropped
LIFETIME = 60.0  # seconds of a connection
WAITING = 32  # questions that wait for the model
ASSETS = {"/page.css": "text/css", "/page.js": "text/javascript", "/icon.svg": "image/svg+xml"}
FORM = "application/x-www-form-urlencoded"
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # with "no-referrer", our own form would have the origin "null"
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
    "connection": "close",  # a connection has one request, so that one deadline is enough
}
MESSAGES = {
    400: ("Wrong host", "This page answers only under its own name."),
    403: ("Not from here", "Another web site has sent this. Please use the form of this page."),
    404: ("Not found", "There is no such page."),
    405: ("Not possible", "This page can be read, and takes questions from its form."),
    408: ("Too slow", f"The question did not arrive within {SECONDS:g} seconds."),
    413: ("Too long", f"A form has at most {MOST_BYTES} bytes."),
    415: ("No form", "Please use the form of this page."),
    500: ("Not stored", "The answer could not be stored."),
    503: ("Busy", "The model cannot answer now. Please ask again in a few seconds."),
}


class Full(Exception):
    """Too many questions wait for the model."""


class Queue:
    """Runs functions one after the other in a thread of its own.

    At its end, the context drops the functions that still wait.
    """

    def __init__(self):
        self.thread, self.there = ThreadPoolExecutor(1, "model"), 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.thread.shutdown(wait=False, cancel_futures=True)

    async def run(self, function: Callable, *args):
        """Returns what a function returns. Raises `Full` if one function runs and WAITING others wait."""
        if self.there > WAITING:
            raise Full
        self.there += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.thread, function, *args)
        finally:
            self.there -= 1


def make_app(answerer: Answerer, queue: Queue, hosts: Collection[str] = LOCAL, teaching: bool = True):
    """Returns the ASGI app.

    Args:
      answerer: the runs and the documents that answer.
      queue: runs the model, one question at a time.
      hosts: the names and addresses that a request may have as its host, without ports.
      teaching: whether visitors may tell the run answers.
    """
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import HTMLResponse, RedirectResponse, Response
    from starlette.routing import Route

    def refused(status: int, headers=None) -> Response:
        return HTMLResponse(message(*MESSAGES[status]), status, headers)

    def question_of(text: str) -> tuple[str, Response | None]:
        """Returns the question that a text asks, or else the response that says what is wrong with it."""
        try:
            return answerer.question(text), None
        except UserError as error:
            status = 413 if len(text) > MAX_QUESTION else 400
            return "", HTMLResponse(page(answerer, text[:MAX_QUESTION], None, str(error)), status)

    async def show(request: Request) -> Response:
        text = request.query_params.get("question")
        if text is None:
            return HTMLResponse(page(answerer))
        question, wrong = question_of(text)
        if wrong:
            return wrong
        view = await queue.run(answerer.view, question)
        return HTMLResponse(page(answerer, question, view, teaching=teaching))

    async def form_of(request: Request) -> dict[str, str] | Response:
        """Returns the fields of a form. If it has none, returns the response that says why."""
        if request.headers.get("content-type", "").split(";")[0].strip().lower() != FORM:
            return refused(415)
        body, now = b"", asyncio.get_running_loop().time
        end = now() + SECONDS
        try:
            async with asyncio.timeout_at(end) as deadline:
                async for part in request.stream():
                    if len(body) <= MOST_BYTES:
                        body += part
                        if len(body) > MOST_BYTES:  # clients that still send would not see the response
                            deadline.reschedule(min(end, now() + LINGER))
        except TimeoutError:
            if len(body) <= MOST_BYTES:
                return refused(408)
        except ClientDisconnect:
            return Response()
        if len(body) > MOST_BYTES:
            return refused(413)
        fields = parse_qs(body.decode("ascii", "replace"), keep_blank_values=True)
        return {name: values[0] for name, values in fields.items()}

    async def take(request: Request) -> Response:
        """Redirects to the answer, so that the browser's back button does not send a form again."""
        fields = await form_of(request)
        if isinstance(fields, Response):
            return fields
        question, wrong = question_of(fields.get("question", ""))
        if not wrong and request.url.path == "/teach":
            try:
                answerer.teach(question, fields.get("answer", ""))
            except UserError as error:
                if not isinstance(error.__cause__, OSError):
                    return HTMLResponse(message("Please change the answer", str(error)), 400)
                log.error(f"error: {error}")  # it names a path, which the page does not show
                return refused(500)
        return wrong or RedirectResponse(f"/?{urlencode({'question': question})}", 303)

    async def send_asset(request: Request) -> Response:
        path = request.url.path
        return Response(asset(path[1:]), media_type=ASSETS[path])

    async def explain(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            return refused(error.status_code, error.headers)
        if not isinstance(error, Full):
            log.error(f"error: cannot answer: {' '.join(repr(error).split())}")
        return refused(503, {"retry-after": "2"})

    async def home(request: Request) -> Response:
        return await (take if request.method == "POST" else show)(request)

    routes = [Route("/", home, methods=["GET", "POST"]), *(Route(path, send_asset) for path in ASSETS)]
    if teaching:
        routes.append(Route("/teach", take, methods=["POST"]))
    app = Starlette(
        routes=routes, exception_handlers={HTTPException: explain, Full: explain, Exception: explain}
    )
    app.router.redirect_slashes = False

    async def guarded(scope, receive, send):
        """Checks where a request comes from, and adds HEADERS to its response."""

        async def with_headers(event):
            if event["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                event["headers"] = [*event.get("headers", []), *added]
            await send(event)

        headers = Request(scope).headers
        status = refusal(scope["method"], headers, hosts)
        try:
            await (refused(status) if status else app)(scope, receive, with_headers)
        except asyncio.CancelledError:  # the server is ending, and Uvicorn would send a 500
            await refused(503)(scope, receive, with_headers)
        except Exception:  # Starlette raises errors again that `explain` has answered
            pass

    return guarded


def refusal(method: str, headers, hosts: Collection[str]) -> int:
    """Returns the status that refuses a request for another host or from another site; 0 allows it.

    >>> refusal("GET", {"host": "localhost:8765"}, LOCAL), refusal("GET", {"host": "evil.example"}, LOCAL)
    (0, 400)
    >>> refusal("POST", {"host": "localhost", "origin": "http://evil.example"}, LOCAL)
    403
    """
    host = headers.get("host", "").lower()
    name = re.fullmatch(r"(?:\[([0-9a-f:]+)\]|([^\[\]:/@\s]+))(?::[0-9]+)?", host)
    if not name or (name[1] or name[2]) not in hosts:
        return 400
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if method in ("GET", "HEAD"):  # other sites may link here, but not load a page as their image
        used = headers.get("sec-fetch-dest", "document")
        return 0 if used == "document" or site in OWN_SITES else 403
    # No page can choose Origin or Sec-Fetch-Site. Over http, browsers send the second to this machine alone.
    own = origin in (None, f"http://{host}", f"https://{host}")
    return 0 if own and site in OWN_SITES else 403


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens. Port 0 chooses a free port.

    Raises:
      UserError: the host is not this machine, or the port is in use.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=256)
    except (OSError, UnicodeError) as error:  # a name with an empty part has no encoding
        why = error.strerror if isinstance(error, OSError) else first_line(error)
        raise UserError(
            f"cannot listen on {host}, port {port}: {why}; give another --port or --host"
        ) from None


def make_server(app):
    """Returns a Uvicorn server for an app of `make_app`. `run(sockets=[listen(...)])` runs it.

    Ctrl-C and SIGTERM take effect when the open requests are answered, or after two seconds.
    """
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Punctual(H11Protocol):
        """Closes connections whose request does not arrive in time, or that last too long."""

        def connection_made(self, transport):
            super().connection_made(transport)
            self.timers = [
                self.loop.call_later(SECONDS, self.close_unless_asked),
                self.loop.call_later(LIFETIME, transport.abort),
            ]

        def close_unless_asked(self):
            if self.cycle is None:  # the headers are not complete; `take` waits for the rest
                self.transport.close()

        def connection_lost(self, error):
            for timer in self.timers:
                timer.cancel()
            super().connection_lost(error)

    logging.getLogger("uvicorn").setLevel(logging.CRITICAL + 1)  # it logs each malformed request
    config = uvicorn.Config(
        app,
        http=Punctual,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=16 * 1024,
        timeout_graceful_shutdown=2,
    )
    return uvicorn.Server(config)
