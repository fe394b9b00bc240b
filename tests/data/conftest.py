"""Small image trees and a web server on this machine, for the data tests."""

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def make_tree(tmp_path: Path) -> Callable[..., Path]:
    """make_tree({"train/cat": 3}, size=(32, 32), suffix=".png") -> root of random images."""

    def make(
        counts: dict[str, int],
        *,
        size: tuple[int, int] = (32, 32),
        suffix: str = ".png",
        name: str = "tree",
    ) -> Path:
        generator = np.random.default_rng(0)
        root = tmp_path / name
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / folder / f"{i:03d}{suffix}")
        return root

    return make


class Server:
    """Serves `files` (name to bytes); remembers the ranges that were asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.ranges: list[str | None] = []
        self.honours_range = True
        self.tells_length = True
        self.cut_after: list[int] = []
        """Bytes after which the next answers break off."""
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer._answer(self)

            def log_message(self, *args: object) -> None: ...

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}/{name}"

    def _answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range")
        self.ranges.append(asked)
        data = self.files.get(request.path.lstrip("/"))
        if data is None:
            request.send_error(404)
            return
        start = int(asked[len("bytes=") : -1]) if asked and self.honours_range else 0
        if start and start >= len(data):
            request.send_error(416)
            return
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if self.tells_length:
            request.send_header("Content-Length", str(len(data) - start))
        request.end_headers()
        body = data[start:]
        request.wfile.write(body[: self.cut_after.pop(0)] if self.cut_after else body)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()
