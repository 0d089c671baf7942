"""Measures the page: how long an answer takes for one visitor and for many, and how much memory it uses.

    python -m benchmarks.page --reading_params_path=runs/vanilla/finetune

starts the page, asks about people of the run's documents, misspelled names and strangers, and prints

    seconds from the command to the first page
    seconds for one question, asked one after the other
    seconds for one question, while 20 visitors ask 20 questions each, and the errors
    how many of these answers are those of --mode=ask --look_up=always
    memory before and after 2,000 further questions

The page and the visitors share the processors of this command: `taskset -c 1` measures one core.
"""

import html
import http.client
import json
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
from absl import app, flags

import kgpt_jax
from benchmarks.report import guarded
from kgpt_jax.answer.calibrated import CALIBRATION_FILE
from kgpt_jax.answer.open_book import open_book
from kgpt_jax.config import UserError
from kgpt_jax.data.holdout import learned_rows
from kgpt_jax.data.names import misspelled, recombined

VISITORS, EACH = 20, 20
MANY = 2_000  # questions, after which the memory is measured again
FLAGS = flags.FLAGS
COMMAND = [sys.executable, "-m", "kgpt_jax.main"]


def questions(folder: str, n: int) -> list[str]:
    """Returns questions: three quarters about people in the documents, the others about nobody.

    Questions that were used for a calibration are left out, because the command line would refuse it for all.
    """
    book, rng = open_book(kgpt_jax.load(folder).config.data), np.random.default_rng(0)
    path = Path(folder, CALIBRATION_FILE)
    used = set(json.loads(path.read_text("utf-8"))["pairs"]) if path.exists() else set()
    everyone = list(book.lookup.rows_of)
    rows = learned_rows([book.where.question(name) for name in everyone], used)
    names = [name for row, name in enumerate(everyone) if row not in rows]
    others = misspelled(names, everyone, rng)[: n // 8] + recombined(names, everyone, rng)[: n // 8]
    chosen = [str(name) for name in rng.choice(names, n - len(others))] + others
    return [book.where.question(chosen[i]) for i in rng.permutation(n)]


def asked(port: int, question: str) -> tuple[float, int, str]:
    """Sends the form and follows it to the answer. Returns the seconds, the status and the answer."""
    began = time.perf_counter()
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    status, headers, page = send(port, "POST", "/", urlencode({"question": question}), form)
    if status == 303:
        status, _, page = send(port, "GET", headers["location"])
    answer = re.search(r'<p class="answer[^>]*>(.*?)</p>', page)
    return time.perf_counter() - began, status, html.unescape(answer[1]) if answer else ""


def send(
    port: int, method: str, path: str, body=None, headers=None
) -> tuple[int, http.client.HTTPMessage, str]:
    """Returns the status, the headers and the text of a response."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read().decode()
    finally:
        connection.close()


def of_the_command_line(reading: str, asked: list[str]) -> list[str]:
    """Returns what --mode=ask answers to each question, as a whole line without the question."""
    command = [*COMMAND, "--mode=ask", reading, "--look_up=always"]
    done = subprocess.run(command, input="\n".join(asked), stdout=subprocess.PIPE, text=True, check=True)
    return [line[len(question) + 1 :] for line, question in zip(done.stdout.splitlines(), asked, strict=True)]


def same(on_page: str, line: str) -> bool:
    """Returns whether the page and the command line give the same answer, or both give none."""
    return line.startswith("(I do not know" if on_page == "I do not know," else f"{on_page} (")


def shown(seconds: list[float]) -> str:
    """Returns quantiles in words."""
    middle, most = np.quantile(seconds, [0.5, 0.95])
    return f"p50 {1000 * middle:.0f} ms, p95 {1000 * most:.0f} ms, longest {1000 * max(seconds):.0f} ms"


def memory(process: int) -> float:
    """Returns the resident memory of a process in megabytes."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def main(_):
    folder = FLAGS.reading_params_path
    reading = f"--reading_params_path={folder}"
    each = questions(folder, VISITORS * EACH)
    began = time.perf_counter()
    with subprocess.Popen(
        [*COMMAND, "--mode=serve", reading, "--port=0"], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            line = next((line for line in server.stdout if line.startswith("open ")), "")
            if not line:
                raise UserError("the page did not start; its message is above")
            # A full pipe would stop the server.
            threading.Thread(target=server.stdout.read, daemon=True).start()
            port = int(re.search(r":(\d+) ", line)[1])
            send(port, "GET", "/")
            print(f"ready after {time.perf_counter() - began:.1f} s")
            print("one visitor:  ", shown([asked(port, question)[0] for question in each[:200]]))
            with ThreadPoolExecutor(VISITORS) as visitors:
                found = list(visitors.map(lambda question: asked(port, question), each))
            errors = sum(status != 200 for _, status, _ in found)
            print(f"{VISITORS} visitors:  {shown([seconds for seconds, *_ in found])}; {errors} errors")
            before = memory(server.pid)
            for i in range(MANY):
                asked(port, each[i % len(each)])
            after = memory(server.pid)
            print(f"memory: {before:.0f} MB, after {MANY:,} more questions {after:.0f} MB")
        finally:
            server.terminate()
    lines = of_the_command_line(reading, each)
    equal = [same(answer, line) for (*_, answer), line in zip(found, lines)]
    print(f"as on the command line: {sum(equal)} of {len(equal)} answers")
    for question, (*_, answer), line, alike in zip(each, found, lines, equal):
        if not alike:
            print(f"  {question} {answer!r}, but {line!r}")


if __name__ == "__main__":
    flags.DEFINE_string("reading_params_path", None, "The run that answers.", required=True)
    app.run(guarded(main))
