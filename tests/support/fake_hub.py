"""As much of the Hugging Face Hub, over HTTP on loopback, as fetching a repository needs."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c0ffee" + "0" * 34
_RESOLVED = re.compile(rf"/owner/tiny/resolve/(?:main|{COMMIT})/(.+)")
_RANGE = re.compile(r"bytes=(\d+)-(?:\d+)?")


class FakeHub:
    """One public repository `owner/tiny` with the revision `main`, and a gated `owner/gated`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fetched: list[str] = []
        """Files whose content was asked for, as paths in the repository."""
        self.cut: dict[str, int] = {}
        """After how many bytes a file's next answer breaks off, once."""
        self.begun_at: dict[str, list[int]] = {}
        """Where each answer with a file's content began."""
        hub = self

        class Handler(_Handler):
            owner = hub

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> FakeHub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    owner: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        if "owner/gated" in path:
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif path in ("/api/models/owner/tiny", "/api/models/owner/tiny/revision/main"):
            files = [each for each in self.owner.folder.rglob("*") if each.is_file()]
            names = [str(each.relative_to(self.owner.folder)) for each in sorted(files)]
            about = {
                "id": "owner/tiny",
                "modelId": "owner/tiny",
                "sha": COMMIT,
                "private": False,
                "tags": [],
                "downloads": 0,
                "siblings": [{"rfilename": name} for name in names],
            }
            self._send(200, json.dumps(about).encode(), {"Content-Type": "application/json"})
        elif path == f"/api/models/owner/tiny/tree/{COMMIT}":
            files = [each for each in self.owner.folder.rglob("*") if each.is_file()]
            lines = [
                {
                    "type": "file",
                    "path": str(each.relative_to(self.owner.folder)),
                    "size": each.stat().st_size,
                    "oid": hashlib.sha256(each.read_bytes()).hexdigest()[:40],
                }
                for each in sorted(files)
            ]
            self._send(200, json.dumps(lines).encode(), {"Content-Type": "application/json"})
        elif path.startswith("/api/models/owner/tiny/revision/"):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif (resolved := _RESOLVED.fullmatch(path)) is not None:
            self._file(resolved[1])
        elif path.startswith("/owner/tiny/resolve/"):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _file(self, name: str) -> None:
        path = self.owner.folder / name
        if not path.is_file():
            told = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
            self._send(404, b"{}", told)
            return
        content = path.read_bytes()
        etag = hashlib.sha256(content).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        begin = int(asked[1]) if asked is not None else 0
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        cut = None
        if self.command == "GET":
            cut = self.owner.cut.pop(name, None)
            self.owner.fetched.append(name)
            self.owner.begun_at.setdefault(name, []).append(begin)
        self._send(206 if begin else 200, content[begin:], headers, cut)

    def _send(
        self, status: int, content: bytes, headers: dict[str, str], cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[:cut])
            self.close_connection = cut is not None
