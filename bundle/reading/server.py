"""The page of a reading, for this computer alone: a small ASGI application and the server that runs it.

It can answer with three kinds of things: its own static files, pictures that `reading.json` lists, and what a reader
has answered. No path of a request becomes a path of the disk, and the key is read nowhere here.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import socket
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bundle.reading.answers import AnswerFile
from bundle.reading.sealed import Sealed

HOST = "127.0.0.1"
PAGE = Path(__file__).parent / "page"
STATIC = {
    "": ("reading.html", "text/html"),
    "reading.css": ("reading.css", "text/css"),
    "reading.js": ("reading.js", "text/javascript"),
    "labels.json": ("labels.json", "application/json"),
}
MEDIA = {"jpg": "image/jpeg", "png": "image/png"}
LONGEST_BODY = 20_000  # bytes; a comment of 2000 characters has 8000 at most, or 12000 as JSON writes them
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Fixed:
    """Middleware: every response, also one of an error, has `HEADERS`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.headers = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *self.headers]
            await send(message)

        await self.app(scope, receive, send_with_headers)


def application(sealed: Sealed, readers: dict[str, AnswerFile]) -> Starlette:
    """The application.

    Args:
        sealed: the reading.
        readers: the answers of each reader, by the token that stands first in the reader's address.
    """

    def answers_of(request: Request) -> AnswerFile:
        given = request.path_params["token"].encode()
        found = [file for token, file in readers.items() if hmac.compare_digest(token.encode(), given)]
        if not found:
            raise HTTPException(
                403, "This address is not valid, or no longer. Open the one that scripts/read.py shows."
            )
        return found[0]

    async def static(request: Request) -> Response:
        answers_of(request)
        name = request.path_params.get("name", "")
        if name not in STATIC:
            raise HTTPException(404)
        file, kind = STATIC[name]
        return Response(_static(file), media_type=kind)

    async def state(request: Request) -> Response:
        return JSONResponse(_state(answers_of(request)))

    async def picture(request: Request) -> Response:
        answers_of(request)
        name = request.path_params["name"]
        if name not in sealed.pictures:
            raise HTTPException(404)
        return Response(sealed.picture(name).read_bytes(), media_type=MEDIA[sealed.suffix])

    async def answer(request: Request) -> Response:
        answers = answers_of(request)
        _require_own_page(request)
        try:
            answers.add(json.loads(await request.body()))
        except (ValueError, RecursionError) as error:
            raise HTTPException(422, str(error)) from error
        except OSError as error:
            raise HTTPException(507, str(error)) from error
        return JSONResponse(_state(answers))

    async def told(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return Response(error.detail, error.status_code, media_type="text/plain")

    made = Starlette(
        routes=[
            Route("/{token}/", static),
            Route("/{token}/state", state),
            Route("/{token}/answers", answer, methods=["POST"]),
            Route("/{token}/patches/{name}", picture),
            Route("/{token}/{name}", static),
        ],
        middleware=[
            Middleware(Fixed),
            # A name of another's that leads to this address, as in DNS rebinding, is refused.
            Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"]),
            Middleware(RequestBodyLimitMiddleware, max_body_size=LONGEST_BODY),
        ],
        exception_handlers={HTTPException: told},
    )
    made.router.redirect_slashes = False
    return made


def _require_own_page(request: Request) -> None:
    """Refuses to write what another site's page has a browser send."""
    own = f"http://{request.headers.get('host', '')}"
    same_site = request.headers.get("sec-fetch-site", "same-origin") == "same-origin"
    if request.headers.get("origin") != own or not same_site:
        raise HTTPException(403, "Answers are taken from the page of this reading alone.")
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise HTTPException(415, "An answer is JSON.")


def _state(answers: AnswerFile) -> dict[str, Any]:
    sealed = answers.sealed
    return {
        "reader": answers.reader,
        "classes": sealed.classes,
        "done": len(answers.answers),
        "total": len(answers.order),
        "picture": answers.next,
    }


@cache
def _static(file: str) -> bytes:
    return (PAGE / file).read_bytes()


def listen(port: int) -> socket.socket:
    """A socket of this computer alone that listens already, so that a browser can be opened before the server runs.

    Args:
        port: 0 for a free one.

    Raises:
        OSError: the port is in use, or not ours to take; names it.
    """
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if os.name == "posix":  # else a server just killed would keep its port from the next; Windows means another thing
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((HOST, port))
    except (OSError, OverflowError) as error:
        found.close()
        raise OSError(f"--port {port} can't be had ({error}): give another, or leave it out for a free one") from error
    found.listen(128)
    return found


def addresses(answers: Sequence[AnswerFile], port: int) -> dict[str, tuple[str, AnswerFile]]:
    """A random token for each reader, with the address that it makes: {token: (address, answers)}."""
    tokens = [secrets.token_urlsafe(32) for _ in answers]
    return {token: (f"http://{HOST}:{port}/{token}/", file) for token, file in zip(tokens, answers)}


def serve(sealed: Sealed, readers: dict[str, AnswerFile], listening: socket.socket) -> None:
    """Serves the reading until it is interrupted.

    Args:
        sealed: the reading.
        readers: see :func:`application`.
        listening: of :func:`listen`.
    """
    settings = uvicorn.Config(
        application(sealed, readers),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
    )
    uvicorn.Server(settings).run(sockets=[listening])
