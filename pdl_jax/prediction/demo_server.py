"""A server of the page on one address, which refuses what it cannot take and loads nothing."""

import importlib
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from pdl_jax.prediction.demo import STYLE

# A browser then asks nobody but this server; Gradio's scripts need the two that are unsafe.
_POLICY = '; '.join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
    )
)
# Gradio would fetch addresses for whoever asks.
_REFUSED = ('/proxy=', '/file=http')
# Around the bytes of a file in a form.
_FORM_BYTES = 2**16
_STOP_SECONDS = 2
# Longer bodies than so many times the limit are cut off.
_MAX_DRAINED = 8

# Fonts of the machine: those of Gradio's themes lie on other hosts.
_FONT = ('system-ui', 'sans-serif')

_Receive = Callable[[], Awaitable[Any]]
_Send = Callable[[Any], Awaitable[None]]


def open_socket(host: str, port: int) -> socket.socket:
    """Binds an address.

    Args:
      host: name or number of an interface of this machine.
      port: 0 takes a free one.

    Raises:
      ValueError: there is no such port.
      OSError: the address is taken or is not this machine's.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f'port (={port}) must lie in [0, 65535]')
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        reason = str(error.strerror or error).partition(' (while')[0]
        raise OSError(
            f'cannot serve at {host}:{port}: {reason}: choose another --port or --host'
        ) from error


def make_server(blocks: Any, *, host: str, port: int, max_bytes: int) -> Any:
    """Makes the server of a page.

    Args:
      blocks: gradio.Blocks, see `make_demo`.
      host, port: the address of the page.
      max_bytes: largest file that is uploaded.

    Returns:
      uvicorn.Server; `run(sockets=[...])` serves until the process is interrupted.
    """
    gradio, fastapi, uvicorn = map(importlib.import_module, ('gradio', 'fastapi', 'uvicorn'))

    app = gradio.mount_gradio_app(
        fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        blocks,
        path='/',
        server_name=host,
        server_port=port,
        footer_links=['api'],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        max_file_size=max_bytes,
        theme=gradio.themes.Default(font=_FONT, font_mono=('ui-monospace', 'monospace')),
        css=STYLE,
    )
    config = uvicorn.Config(
        Guard(app, max_bytes + _FORM_BYTES),
        log_level='warning',
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
    return uvicorn.Server(config)


class Guard:
    """Refuses long bodies before they are read, and forbids pages to load anything from elsewhere.

    Args:
      app: an ASGI application.
      max_bytes: longest body.
    """

    def __init__(self, app: Any, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Any, receive: _Receive, send: _Send) -> None:
        """Answers one request."""
        if scope['type'] != 'http':
            await self._app(scope, receive, send)
            return
        if any(part in scope['path'] for part in _REFUSED):
            await _refuse(send, 403, 'addresses are not fetched: upload the file')
            return
        length = dict(scope['headers']).get(b'content-length', b'0')
        if not length.isdigit() or int(length) > self._max_bytes:
            await self._drain(receive)
            text = f'the request has {length.decode("latin-1")} bytes, the limit is '
            await _refuse(send, 413, f'{text}{self._max_bytes}: shrink the image')
            return
        await self._app(scope, self._count(receive), _add_policy(send))

    async def _drain(self, receive: _Receive) -> None:
        """Throws a body away: a client that still sends would not see the answer."""
        left = _MAX_DRAINED * self._max_bytes
        while left > 0:
            message = await receive()
            left -= len(message.get('body', b''))
            if not message.get('more_body'):
                break

    def _count(self, receive: _Receive) -> _Receive:
        """Ends a request whose body, sent without its length, grows too long."""
        taken = 0

        async def receive_counted() -> Any:
            nonlocal taken
            message = await receive()
            taken += len(message.get('body', b''))
            return message if taken <= self._max_bytes else {'type': 'http.disconnect'}

        return receive_counted


def _add_policy(send: _Send) -> _Send:
    async def send_with_policy(message: Any) -> None:
        if message['type'] == 'http.response.start':
            headers = [*message.get('headers', ()), (b'content-security-policy', _POLICY.encode())]
            message = {**message, 'headers': headers}
        await send(message)

    return send_with_policy


async def _refuse(send: _Send, status: int, text: str) -> None:
    body = text.encode()
    headers = [(b'content-type', b'text/plain; charset=utf-8')]
    headers += [(b'content-length', str(len(body)).encode()), (b'connection', b'close')]
    await send({'type': 'http.response.start', 'status': status, 'headers': headers})
    await send({'type': 'http.response.body', 'body': body})
