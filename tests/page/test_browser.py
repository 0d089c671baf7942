"""The page in a browser: with and without JavaScript, narrow and wide, light and dark."""

import shutil
import socket
import threading
from contextlib import contextmanager

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("jinja2")
playwright = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="they need axe-playwright-python")

from tests.page import fake  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
STATES = {
    "empty": "/",
    "answer": "/?question=Jana+Lund",
    "unknown": "/?question=Boris+Zorg",
    "error": "/?question=",
    "not found": "/nowhere",
}
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        pytest.skip("the browser tests need chromium on the PATH")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--no-proxy-server"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address():
    with fake.served() as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def opened(browser, address, path="/", **context):
    """Opens a page, and checks at its end that nothing went wrong or went elsewhere."""
    with browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | context) as made:
        page, said, asked = made.new_page(), [], []
        made.on("request", lambda request: asked.append(request.url))
        made.on("console", lambda line: said.append(line.text))
        made.on("weberror", lambda error: said.append(str(error.error)))
        page.goto(address + path)
        yield page
        statuses = "Failed to load resource: the server responded with a status of 40"
        assert not [line for line in said if not line.startswith(statuses)]
        assert asked and all(url.startswith(address + "/") for url in asked)


@pytest.mark.parametrize("javascript", [True, False])
def test_a_visitor_asks_and_goes_back(browser, address, javascript):
    with opened(browser, address, java_script_enabled=javascript) as page:
        page.get_by_label("A name, or a whole question").fill("Jana Lund")
        page.get_by_role("button", name="Ask").click()
        page.wait_for_url("**/?question=Where+was+Jana+Lund+born%3F")
        assert page.locator(".answer").inner_text() == "Brussels"
        page.get_by_label("A name, or a whole question").fill("Boris Zorg")
        page.keyboard.press("Enter")
        page.wait_for_url("**Boris**")
        assert "I do not know" in page.locator(".answer").inner_text()
        page.get_by_role("link", name="Jana Lund").click()
        page.wait_for_url("**Jana**")
        for expected in ("I do not know,", "Brussels"):
            page.go_back()
            assert page.locator(".answer").inner_text() == expected
        page.go_back()
        assert page.locator(".answer").count() == 0 and page.get_by_role("status").inner_text() == ""


def test_a_visitor_asks_over_the_network(browser):
    """The page accepts the form by Origin alone: browsers send Sec-Fetch-Site over http to 127.0.0.1 only."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing, and finds the address that others would see
        except OSError:
            pytest.skip("this machine has no address but 127.0.0.1")
        host = probe.getsockname()[0]
    with fake.served(host=host) as port, browser.new_context() as made:
        page = made.new_page()
        page.goto(f"http://{host}:{port}")
        page.get_by_label("A name, or a whole question").fill("Jana Lund")
        page.keyboard.press("Enter")
        page.wait_for_url("**/?question=Where+was+Jana+Lund+born%3F")
        assert page.locator(".answer").inner_text() == "Brussels"


def test_a_visitor_stops_waiting_and_asks_again(browser):
    go = threading.Event()

    class Slow(fake.Fake):
        def view(self, question):
            go.wait(10)
            return super().view(question)

    with fake.served(fake.answerer(Slow)) as port, opened(browser, f"http://127.0.0.1:{port}") as page:
        page.evaluate("""addEventListener("submit", () => setTimeout(() => {
            said = document.getElementById("status").textContent
            stop()
        }, 300), {once: true})""")  # Playwright itself would wait for the answer
        page.get_by_label("A name, or a whole question").fill("Jana Lund")
        page.get_by_role("button", name="Ask").click()
        page.wait_for_function("window.said")
        assert page.evaluate("window.said") == "Asking the model…"
        go.set()
        page.get_by_label("A name, or a whole question").fill("Boris Zorg")
        assert page.get_by_role("status").inner_text() == ""
        page.get_by_role("button", name="Ask").dblclick()
        page.wait_for_url("**Boris**")
        assert "I do not know" in page.locator(".answer").inner_text()


def test_focus_goes_to_the_result_and_the_keyboard_reaches_everything(browser, address):
    with opened(browser, address, STATES["answer"]) as page:
        assert page.evaluate("document.activeElement.id") == "result"
        page.get_by_text("All 5 lines about Jana Lund").press("Enter")
        assert page.get_by_text("and 3 more").is_visible()
        page.locator(".scroll").focus()
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.locator(".skip").focus()
        assert page.locator(".skip").bounding_box()["x"] >= 0
    with opened(browser, address, STATES["error"]) as page:
        assert page.evaluate("document.activeElement.id") == "question"
        assert page.get_by_role("alert").is_visible()


def test_two_tabs_do_not_mix(browser, address):
    with opened(browser, address, STATES["answer"]) as page:
        other = page.context.new_page()
        other.goto(address + STATES["unknown"])
        page.reload()
        assert page.locator(".answer").inner_text() == "Brussels"
        assert other.locator(".answer").inner_text() == "I do not know,"


def test_a_page_of_another_site_cannot_ask(browser, address):
    with opened(browser, address) as page:
        page.goto("about:blank")
        page.set_content(
            f'<form method="post" action="{address}/"><input name="question" value="Ann"></form>'
        )
        page.evaluate("document.forms[0].submit()")
        page.wait_for_url(f"{address}/")
        assert page.get_by_role("heading", level=1).inner_text() == "Not from here"


@pytest.mark.parametrize(
    "scheme, paper, states",
    [("light", "rgb(250, 249, 246)", STATES), ("dark", "rgb(23, 22, 20)", ["answer", "error"])],
)
def test_axe_finds_nothing(browser, address, scheme, paper, states):
    with opened(browser, address, color_scheme=scheme) as page:
        for name in states:
            page.goto(address + STATES[name])
            for summary in page.locator("summary").all():
                summary.click()
            found = axe.Axe().run(page, options={"runOnly": {"type": "tag", "values": RULES}})
            assert found.violations_count == 0, (name, found.generate_report())
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == paper


def test_nothing_is_wider_than_a_small_screen(browser, address):
    # 640 pixels at 200 % have 320 CSS pixels.
    with opened(browser, address, viewport={"width": 320, "height": 640}) as page:
        for name, path in STATES.items():
            page.goto(address + path)
            for summary in page.locator("summary").all():
                summary.click()
            assert page.evaluate("document.documentElement.scrollWidth") <= 320, name
            small = [
                box
                for each in page.locator("a:visible, button:visible, input:visible, summary:visible").all()
                if (box := each.bounding_box()) and box["height"] < 24 and box["width"] < 24
            ]
            assert not small, name
