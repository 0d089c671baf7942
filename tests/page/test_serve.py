"""--mode=serve as users type it."""

import http.client
import re
import signal
import subprocess
import sys

import pytest

from kgpt_jax.config import UserError
from kgpt_jax.modes import command, serve
from tests.commands import CHECKOUT, refused, run
from tests.page import fake

pytest.importorskip("jinja2")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")


@pytest.fixture(scope="module")
def reading(tmp_path_factory):
    return f"--reading_params_path={fake.saved(tmp_path_factory.mktemp('run')).folder}"


def test_one_question_is_written_to_one_file(reading, tmp_path):
    path = tmp_path / "answer.html"
    flags = ("--mode=serve", reading, f"--outputs_path={path}")
    assert f"wrote {path}" in run(*flags, "--question=Ann <b>")
    page = path.read_text("utf-8")
    assert "<h1>Where was Ann &lt;b&gt; born?</h1>" in page and page.count("<h1>") == 1
    assert not re.findall(
        r"<(?:script|link|form|img|a) ?[^>]*(?:src|href|action)=\"/", page
    ) and "http" not in page.replace("http-equiv", "")
    assert "<style>" in page and "default-src 'none'; style-src 'unsafe-inline'" in page
    run(*flags, "--question=Bob")  # its own file may be replaced
    path.write_text("mine", "utf-8")
    assert "this program did not write" in refused(*flags, "--question=Bob")


@pytest.mark.parametrize(
    "flags, complaint",
    [
        (["--question=Ann"], "belong together"),
        (["--outputs_path=a.html"], "belong together"),
        (["--question=Ann", "--question=Bob", "--outputs_path=a.html"], "belong together"),
        (["--host=192.0.2.1"], "--host=192.0.2.1 opens the page to other machines"),
        (["--host=0.0.0.0", "--allow_network"], "--host=0.0.0.0 is every address"),
        (["--host=my..host", "--allow_network"], "cannot listen on my..host, port 8765: "),
        (["--port=70000"], "port"),
        (["--question=" + "a" * 201, "--outputs_path={tmp}/a.html"], "has 201 characters: at most 126 fit"),
    ],
)
def test_wrong_flags(reading, flags, complaint, tmp_path):
    assert complaint in refused("--mode=serve", reading, *(flag.format(tmp=tmp_path) for flag in flags))


def test_only_hosts_of_this_machine_and_the_named_one_are_allowed():
    def allowed(*flags):
        return serve.allowed(command.parse(["--mode=serve", *flags]))

    local = {"127.0.0.1", "localhost", "::1"}
    assert allowed() == allowed("--host=localhost") == local
    assert allowed("--host=Box.example", "--allow_network") == local | {"box.example"}
    with pytest.raises(UserError, match="add --allow_network"):
        allowed("--host=box.example")


def test_missing_packages_are_named(reading, monkeypatch):
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "uvicorn" else name)
    assert '--mode=serve needs uvicorn: pip install ".[web]"' in refused("--mode=serve", reading)


@pytest.mark.parametrize(
    "host, end, status",
    [("127.0.0.1", signal.SIGINT, 130), ("localhost", signal.SIGTERM, -signal.SIGTERM)],
)
def test_the_server_answers_and_ends_with_a_signal(reading, host, end, status):
    """It prints the host that it was given, because it refuses requests for any other."""
    command = [sys.executable, "-m", "kgpt_jax.main", "--mode=serve", reading, f"--host={host}", "--port=0"]
    with subprocess.Popen(
        command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            said = next(line for line in process.stdout if line.startswith("open "))
            port = int(re.match(rf"open http://{host}:(\d+) ", said)[1])
            connection = http.client.HTTPConnection(host, port, timeout=30)
            connection.request("GET", "/?question=Ann")
            page = connection.getresponse().read().decode()
            connection.close()
        finally:
            process.send_signal(end)
        out, err = process.communicate(timeout=30)
    assert "Where was Ann born?" in page and process.returncode == status
    assert not out and "Traceback" not in err
