"""Somebody with nothing but a key and an HTTP client, who deploys models of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from quickthaw.client import Scope
from support.platform import Platform, until

PATIENCE_SECONDS = 250.0
PART_BYTES = 64 * 1024


@dataclass
class Tenant:
    http: httpx.Client

    def upload(self, path: Path, name: str | None = None) -> str:
        """In parts; the URL."""
        begun = self.http.post(
            "/cdn/files/upload/multipart", headers={"x-fal-file-name": name or path.name}
        ).json()
        url, parts = begun["access_url"], []
        below = f"{url}/multipart/{begun['uploadId']}"
        content = path.read_bytes()
        for number, start in enumerate(range(0, len(content), PART_BYTES), 1):
            sent = self.http.put(f"{below}/{number}", content=content[start : start + PART_BYTES])
            assert sent.status_code == 200, sent.text
            parts.append(sent.json())
        done = self.http.post(f"{below}/complete", json={"parts": parts})
        assert done.status_code == 200, done.text
        return str(url)

    def upload_folder(self, folder: Path) -> list[dict[str, str]]:
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return [{"url": self.upload(path), "path": str(path.relative_to(folder))} for path in paths]

    def deploy(self, name: str, files: object, **wishes: object) -> str:
        """The deployment's URL."""
        made = self.http.post("/v1/deployments", json={"name": name, "files": files, **wishes})
        assert made.status_code == 201, made.text
        return str(made.json()["urls"]["get"])

    def until(
        self, url: str, holds: Callable[[Mapping[str, Any]], object], what: str
    ) -> dict[str, Any]:
        """What the deployment is once that holds of it."""
        now: dict[str, Any] = {}

        def looked() -> bool:
            nonlocal now
            try:
                answer = self.http.get(url)
            except httpx.TransportError:
                return False
            if answer.status_code != 200:
                return False
            now = answer.json()
            return bool(holds(now))

        asyncio.run(until(looked, f"{what} of {url}", PATIENCE_SECONDS))
        return now

    def ended(self, url: str) -> dict[str, Any]:
        return self.until(url, lambda now: now["finished_at"], "the end")


def a_tenant(platform: Platform, name: str, *scopes: Scope) -> Tenant:
    """With a new key; to be closed by closing its `http`."""
    with platform.client() as client:
        key = client.keys.create(name, scopes or (Scope.CALL, Scope.DEPLOY)).secret
    headers = {"authorization": f"Key {key}"}
    return Tenant(httpx.Client(base_url=platform.ready["http"], headers=headers, timeout=60))
