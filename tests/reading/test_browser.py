"""A whole reading in headless Chromium: by keyboard, through a kill, by two at once, and nothing leaves the machine."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from candidates import CLASSES
from helpers import ROOT
from readings import prepare, write_arms

from bundle.reading.sealed import KEY

pytestmark = pytest.mark.slow
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
FLAGS += ["--disable-sync", "--no-first-run"]
HOSTILE = "../../reading_key/key.json <script>window.hit = 1</script> =1+1"


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.is_file():
        pytest.skip(f"there is no {CHROMIUM}")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def sealed(tmp_path):
    return prepare(write_arms(tmp_path))


class Server:
    """scripts/read.py as a process of its own; `urls` by reader."""

    def __init__(self, folder, *readers, port=0):
        names = [part for name in readers for part in ("--reader", name)]
        command = [sys.executable, ROOT / "scripts" / "read.py", folder, "--no_browser", "--port", str(port), *names]
        self.process = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.urls = {}
        for line in self.process.stdout:
            if line.startswith("Each address"):
                break
            name, _, url = line.strip().rpartition(": http")
            self.urls[name.partition(",")[0]] = f"http{url}"
        assert self.urls, self.process.stderr.read()[-2000:]

    @property
    def port(self):
        return int(re.search(r":(\d+)/", next(iter(self.urls.values())))[1])

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def opened(chromium):
    """Opens pages, each in a browser context of its own; says at the end whether anything left the machine."""
    contexts, asked, faults = [], [], []

    def open_page(url, **settings):
        context = chromium.new_context(locale="en-GB", **settings)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if "Security Policy" in message.text else None)
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert bool(asked) == bool(contexts) and all(url.startswith("http://127.0.0.1:") for url in asked), asked
    assert not faults, faults


def wait_for_count(page, done):
    """Playwright's own waiting for a function is an eval, which the page's policy forbids."""
    page.locator("#count", has_text=re.compile(rf"^{done} of ")).wait_for()


def wait_for_patch(page):
    page.locator("#patch[src]").wait_for()
    while not page.evaluate("document.getElementById('patch').naturalWidth"):
        time.sleep(0.02)


def answer_next(page, done, keys):
    wait_for_count(page, done)
    for key in keys:
        page.keyboard.press(key)


def answers(sealed, reader):
    file = next((sealed.folder / "answers").glob(f"{reader}_*.jsonl"))
    return [json.loads(line) for line in file.read_text().splitlines()][1:]


def test_a_whole_reading_by_keyboard_through_a_kill(opened, sealed):
    total = len(sealed.pictures)
    with Server(sealed.folder, "A") as server:
        page = opened(server.urls["A"])
        answer_next(page, 0, ["r", "2", "4", "+", "m", "ArrowLeft", "Shift+ArrowDown", "Escape", "c"])
        page.keyboard.type(HOSTILE)
        page.keyboard.press("Escape")
        page.keyboard.press("Enter")
        answer_next(page, 1, ["s", "9", "0", "5", "Backspace", "3", "Enter"])  # 9 is no class; 5 is taken back
        answer_next(page, 2, ["p"])
        page.wait_for_selector("#paused:not([hidden])")
        for key in ("p", "0", "1", "Enter"):  # can't say, so nobody asks how sure
            page.keyboard.press(key)
        wait_for_count(page, 3)
        server.kill()
        answer_next(page, 3, ["s", "1", "1", "Enter"])
        page.wait_for_selector("#error:not([hidden])")
        assert "does not answer" in page.inner_text("#error") and page.evaluate("window.hit") is None
    assert len(answers(sealed, "A")) == 3
    with Server(sealed.folder, "A") as server:
        page = opened(server.urls["A"])
        for done in range(3, total):
            answer_next(page, done, ["s", "1", "1", "Enter"])
        page.wait_for_selector("#finished:not([hidden])")
    found = answers(sealed, "A")
    assert len({row["picture"] for row in found}) == len(found) == total
    told = [(row["called"], row["class"], row["confidence"], row["comment"], row["mark"]) for row in found[:4]]
    assert told == [
        ("real", CLASSES[1], 4, HOSTILE, [0.48, 0.6]),
        ("synthetic", None, 3, "", None),
        ("unsure", CLASSES[0], None, "", None),
        ("synthetic", CLASSES[0], 1, "", None),
    ]
    run = subprocess.run(
        [sys.executable, ROOT / "scripts" / "read.py", sealed.folder, "--result"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert "1 readers, 12 answers" in run.stdout and (sealed.folder / "rejected.csv").is_file()


def test_two_read_at_once_each_in_an_order_of_their_own(opened, sealed):
    with Server(sealed.folder, "A", "B") as server:
        pages = {name: opened(url) for name, url in server.urls.items()}
        for done in range(3):
            for name, page in pages.items():
                answer_next(page, done, ["r" if name == "A" else "s", "1", "2", "Enter"])
        for page in pages.values():
            wait_for_count(page, 3)
        forged = server.urls["A"].replace("/" + server.urls["A"].split("/")[3], "/" + "x" * 43)
        assert "not valid" in opened(forged).inner_text("body")
        for path in (KEY, f"../reading_key/{KEY}", f"patches/../../reading_key/{KEY}", "reading.json", "answers"):
            status = pages["A"].evaluate("path => fetch(path).then(r => r.status)", path)
            assert status in (403, 404, 405), path
    found = {name: answers(sealed, name) for name in "AB"}
    assert {row["called"] for row in found["A"]} == {"real"} and {row["called"] for row in found["B"]} == {"synthetic"}
    assert [row["picture"] for row in found["A"]] != [row["picture"] for row in found["B"]]


def test_an_answer_given_while_the_server_is_away_is_not_lost(opened, sealed):
    """The page waits for a server at the same address, as a network that drops; here the process stands still."""
    with Server(sealed.folder, "A") as server:
        page = opened(server.urls["A"])
        page.route("**/answers", lambda route: route.abort())
        answer_next(page, 0, ["r", "1", "2", "Enter"])
        page.wait_for_selector("#error:not([hidden])")
        page.unroute("**/answers")
        wait_for_count(page, 1)
        assert page.is_hidden("#error")
    assert len(answers(sealed, "A")) == 1


def test_it_fits_320_pixels_in_every_language_and_in_the_dark(opened, sealed, tmp_path):
    """The pictures are to be looked at: the environment variable SCREENSHOTS names a folder that keeps them."""
    with Server(sealed.folder, "A") as server:
        for language, scheme in itertools.product(("en", "de", "tr", "zh"), ("light", "dark")):
            screen = {"viewport": {"width": 320, "height": 640}, "color_scheme": scheme}
            page = opened(f"{server.urls['A']}#{language}", **screen)
            wait_for_patch(page)
            assert page.evaluate("document.documentElement.lang") == language
            assert page.evaluate("document.documentElement.scrollWidth") <= 320
            folder = os.environ.get("SCREENSHOTS", str(tmp_path))
            page.screenshot(path=f"{folder}/{language}_{scheme}.png", full_page=True)


def test_a_page_without_javascript_says_so(opened, sealed):
    with Server(sealed.folder, "A") as server:
        page = opened(server.urls["A"], java_script_enabled=False)
        assert "This page needs JavaScript" in page.inner_text("body")


def test_axe_finds_no_serious_fault(opened, sealed):
    if "AXE_JS" not in os.environ:
        pytest.skip("AXE_JS does not name axe.min.js of the npm package axe-core")
    with Server(sealed.folder, "A") as server:
        for scheme in ("light", "dark"):
            page = opened(server.urls["A"], color_scheme=scheme, bypass_csp=True)
            wait_for_patch(page)
            page.evaluate(Path(os.environ["AXE_JS"]).read_text())
            for keys in ([], ["r", "1", "m"], ["0"], ["p"]):
                for key in keys:
                    page.keyboard.press(key)
                found = page.evaluate("axe.run()")["violations"]
                assert not found, [(one["id"], one["impact"], [node["html"] for node in one["nodes"]]) for one in found]
