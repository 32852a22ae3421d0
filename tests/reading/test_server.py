"""The page's server: each reader's address is a secret, the key is out of reach, and only its own page writes."""

import json
import re
import socket

import pytest
from helpers import ROOT
from readings import answer, prepare, write_arms
from starlette.testclient import TestClient

from bundle.reading import server
from bundle.reading.answers import AnswerFile
from bundle.reading.sealed import KEY

ORIGIN = "http://127.0.0.1:4321"
TOKEN = "t" * 43


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    return prepare(write_arms(tmp_path_factory.mktemp("arms")))


@pytest.fixture
def client(sealed):
    for path in (sealed.folder / "answers").glob("*"):
        path.unlink()
    readers = {TOKEN: AnswerFile(sealed, "A"), "u" * 43: AnswerFile(sealed, "B")}
    made = TestClient(server.application(sealed, readers), base_url=ORIGIN)
    made.readers = readers
    return made


def post(client, content, token=TOKEN, **headers):
    given = {"Origin": ORIGIN, "Content-Type": "application/json", "Sec-Fetch-Site": "same-origin", **headers}
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return client.post(f"/{token}/answers", content=body, headers={k: v for k, v in given.items() if v is not None})


def test_a_reading_by_its_requests(client, sealed):
    state = client.get(f"/{TOKEN}/state").json()
    assert (state["reader"], state["done"], state["total"]) == ("A", 0, 12)
    while state["picture"]:
        shown = client.get(f"/{TOKEN}/patches/{state['picture']}")
        assert shown.headers["content-type"] == "image/jpeg"
        assert shown.content == sealed.picture(state["picture"]).read_bytes()
        state = post(client, answer(state["picture"])).json()
    assert state["done"] == 12 and len(AnswerFile(sealed, "A").answers) == 12
    assert client.get(f"/{'u' * 43}/state").json()["done"] == 0


def test_nothing_says_which_is_which(client):
    state = client.get(f"/{TOKEN}/state")
    assert set(state.json()) == {"reader", "classes", "done", "total", "picture"}
    shown = client.get(f"/{TOKEN}/patches/{state.json()['picture']}")
    assert {"last-modified", "etag"}.isdisjoint(shown.headers)


@pytest.mark.parametrize("name", ["", "state", "reading.js", "reading.css", "labels.json", "patches/x", "answers"])
def test_a_forged_token_is_refused(client, name):
    for token in ("x" * 43, "", "t" * 42, "tt" * 43, "%C3%BC"):
        assert client.get(f"/{token}/{name}", follow_redirects=False).status_code in (403, 404, 405), token
    assert post(client, answer(client.readers[TOKEN].next), token="x" * 43).status_code == 403


@pytest.mark.parametrize(
    "path",
    [KEY, "reading.json", "result.json", "patches", "../reading.json", f"../../reading_key/{KEY}", "patches/%2e%2e"]
    + [f"patches/..%2F..%2Freading_key%2F{KEY}", f"..%2f..%2freading_key%2f{KEY}", "labels.json%00", "server.py"]
    + ["answers", "patches/0123456789abcdef", f"patches/....//{KEY}", "//etc/passwd"],
)
def test_the_key_can_not_be_fetched(client, sealed, path):
    found = client.get(f"/{TOKEN}/{path}")
    assert found.status_code in (403, 404, 405)
    assert sealed.key_sha256 not in found.text and "salt" not in found.text


@pytest.mark.parametrize("path", ["", "state", "reading.js", "none", "../"])
def test_every_response_forbids_what_the_page_does_not_need(client, path):
    headers = client.get(f"/{TOKEN}/{path}").headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert headers["referrer-policy"] == "no-referrer" and headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:4321", "127.0.0.1.evil.example", "", "10.0.0.1"])
def test_another_name_for_this_address_is_refused(client, host):
    assert client.get(f"/{TOKEN}/state", headers={"Host": host}).status_code == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:80"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": None}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
    ],
)
def test_only_its_own_page_writes(client, headers, status):
    file = client.readers[TOKEN]
    assert post(client, answer(file.next), **headers).status_code == status
    assert not file.answers and post(client, answer(file.next)).status_code == 200


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"", 422), (b"x", 422), (b"\xff", 422), ([], 422), (b"[" * 10_000, 422), (b" " * 30_000, 413)]
    + [({"picture": "../key.json"}, 422)],
)
def test_what_is_no_answer_is_refused(client, content, status):
    found = post(client, content)
    assert found.status_code == status and "Traceback" not in found.text
    assert not client.readers[TOKEN].answers


def test_the_longest_comment_is_taken(client):
    file = client.readers[TOKEN]
    assert post(client, answer(file.next, comment="\U0001f52c" * 1000)).status_code == 200
    assert file.answers[0]["comment"] == "\U0001f52c" * 1000


def test_a_disk_that_is_full_is_said_to_the_reader(client, monkeypatch):
    monkeypatch.setattr(AnswerFile, "_write", lambda self, content: (_ for _ in ()).throw(OSError(28, "disk is full")))
    found = post(client, answer(client.readers[TOKEN].next))
    assert found.status_code == 507 and "disk is full" in found.text


def test_a_port_in_use_is_said():
    with server.listen(0) as taken:
        port = taken.getsockname()[1]
        assert taken.getsockname()[0] == "127.0.0.1"
        with pytest.raises(OSError, match=f"--port {port} can't be had .*: give another, or leave it out"):
            server.listen(port)
    with pytest.raises(OSError, match="--port 70000 can't be had"):
        server.listen(70000)
    with server.listen(port) as again, socket.create_connection(("127.0.0.1", port)):
        assert again.getsockname()[1] == port


def test_addresses_hold_a_token_each(sealed, client):
    found = server.addresses(list(client.readers.values()), 4321)
    assert len(found) == 2 and all(len(token) >= 43 and f"/{token}/" in url for token, (url, _) in found.items())


def test_every_language_says_everything():
    labels = json.loads((server.PAGE / "labels.json").read_text())
    assert set(labels) == {"en", "de", "tr", "zh"}
    places = {name: set(re.findall(r"\{(\w+)\}", text)) for name, text in labels["en"].items()}
    for words in labels.values():
        assert {name: set(re.findall(r"\{(\w+)\}", text)) for name, text in words.items()} == places
    page = (server.PAGE / "reading.html").read_text() + (server.PAGE / "reading.js").read_text()
    used = set(re.findall(r'data-label="(\w+)"', page)) | set(re.findall(r'say\("(\w+)"', page))
    used |= set(re.findall(r'"(key_\w+)"', page)) | {"ask_called", "ask_class", "ask_confidence"}
    assert used == set(places)


def test_the_page_has_nothing_inline_and_nothing_from_elsewhere():
    page = (server.PAGE / "reading.html").read_text()
    assert not re.search(r"<style|style=|\son\w+=|<script(?! src=\"reading.js\" defer></script>)|https?:|//", page)
    script = (server.PAGE / "reading.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|https?:", script)
    assert "url(" not in (server.PAGE / "reading.css").read_text()


def test_the_package_brings_the_page():
    project = (ROOT / "pyproject.toml").read_text()
    assert '"bundle.reading" = ["page/*"]' in project and all(
        (server.PAGE / name).is_file() for name, _ in server.STATIC.values()
    )
