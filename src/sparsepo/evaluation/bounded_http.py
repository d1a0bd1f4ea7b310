"""Limits on what a server can do to a client of httpx: a deadline for each request, and a largest reply."""

import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from threading import Timer
from typing import Any

from httpx2 import Limits, RemoteProtocolError, Request, Response, SyncByteStream

MAX_BYTES = 1 << 20  # of a reply
HEADERS = {"Accept-Encoding": "identity"}  # a kilobyte of a compressed reply can be a gigabyte
NO_REUSE = Limits(max_keepalive_connections=0)  # so that each request has a connection to end
CONNECTED = ("connection.connect_tcp.complete", "connection.start_tls.complete")


class Deadline:
    """Ends the connection of a request after some seconds, however slowly its server sends. `is_over`: it did."""

    def __init__(self, seconds: float) -> None:
        self.is_over, self._sockets = False, []
        self._timer = Timer(seconds, self._end)
        self._timer.daemon = True
        self._timer.start()

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """The `trace` of a request of httpx: takes its connections."""
        if event in CONNECTED:
            self._sockets.append(info["return_value"].get_extra_info("socket"))
            if self.is_over:
                self._end()

    def _end(self) -> None:
        self.is_over = True
        for connection in self._sockets:
            with suppress(OSError):  # it is closed
                socket.socket.shutdown(connection, socket.SHUT_RDWR)  # of TLS too, which may wait for its server

    def cancel(self) -> None:
        self._timer.cancel()


class _CappedStream(SyncByteStream):
    def __init__(self, response: Response) -> None:
        self._stream, self._request = response.stream, response.request

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for part in self._stream:
            size += len(part)
            if size > MAX_BYTES:
                raise RemoteProtocolError(f"an answer above {MAX_BYTES >> 20} MB", request=self._request)
            yield part

    def close(self) -> None:
        self._stream.close()


def start_deadline(request: Request, seconds: float) -> None:
    """Hook for requests of httpx."""
    deadline = Deadline(seconds)
    request.extensions = {**request.extensions, "deadline": deadline, "trace": deadline.trace}


def read_bounded(response: Response) -> None:
    """Hook for responses of httpx: reads the body. Raises RemoteProtocolError for one too large, or compressed."""
    try:
        if response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
            raise RemoteProtocolError("a compressed answer, which was not asked for", request=response.request)
        response.stream = _CappedStream(response)
        response.read()
    finally:
        response.request.extensions["deadline"].cancel()


def is_over(request: Request) -> bool:
    """Whether the deadline of this request ended it."""
    return request.extensions["deadline"].is_over
