"""A server on loopback that speaks the few endpoints of the Hub which its client uses, and a tiny model."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from promptseg.models import ModelConfig, PromptableModel

CONFIG = ModelConfig(
    name="random", tile_size=32, stem_channels=(8, 8, 8), stem_depths=(1, 1, 1), embed_dim=24, depth=1, num_heads=2,
    decoder_depth=1, decoder_channels=(8, 8, 8), num_levels=4, text_dim=6,
)  # fmt: skip


@dataclass
class Repository:
    """Commits of a repository, oldest first, and the names that point to them."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Adds a commit on top of a branch."""
        content = {**self.commits.get(self.refs.get(branch, ""), {}), **files}
        oid = hashlib.sha1(f"{len(self.commits)}{sorted(content)}".encode()).hexdigest()
        self.commits[oid] = content
        self.refs[branch] = oid
        return oid


@dataclass
class FakeHub:
    """State of the server, and what it should do wrong."""

    url: str = ""
    token: str | None = None
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    drop_after: int | None = None
    """Closes the next transfer of weights after so many bytes."""
    corrupts: bool = False
    """Changes a byte of the weights that are sent."""
    ranges: list[str] = field(default_factory=list)
    """Ranges that clients asked for."""
    downloads: list[str] = field(default_factory=list)


def is_large(name: str) -> bool:
    """Whether the Hub keeps a file in its large file storage."""
    return name.endswith(".safetensors")


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps quiet."""

    def answer(self, body: bytes | dict[str, Any] = b"", status: int = 200, **headers: str) -> None:
        """Sends a response with a length."""
        content = json.dumps(body).encode() if isinstance(body, dict) else body
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def allowed(self) -> bool:
        if self.hub.token is None or self.headers.get("Authorization") == f"Bearer {self.hub.token}":
            return True
        self.answer(status=401, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
        return False

    def do_HEAD(self) -> None:
        """Metadata of a file."""
        self.do_GET()

    def do_GET(self) -> None:
        """A file, or part of it."""
        match = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", self.path)
        if not self.allowed():
            return
        if match is None:
            self.answer(status=404)
            return
        repository = self.hub.repositories.get(match[1])
        if repository is None:
            self.answer(status=404, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
            return
        commit = repository.refs.get(match[2], match[2])
        if commit not in repository.commits:
            self.answer(status=404, X_Error_Code="RevisionNotFound", X_Error_Message="Invalid rev id")
            return
        content = repository.commits[commit].get(match[3])
        if content is None:
            self.answer(
                status=404, X_Error_Code="EntryNotFound", X_Error_Message="Entry not found", X_Repo_Commit=commit
            )
            return
        self.send_file(match[3], content, commit)

    def send_file(self, name: str, content: bytes, commit: str) -> None:
        hub = self.hub
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        headers = {"ETag": f'"{git}"', "X_Repo_Commit": commit, "Accept_Ranges": "bytes"}
        if is_large(name):
            headers |= {
                "X_Linked_Etag": f'"{hashlib.sha256(content).hexdigest()}"',
                "X_Linked_Size": str(len(content)),
            }
        if self.command == "HEAD":
            self.answer(b"", Content_Length=str(len(content)), **headers)
            return
        hub.downloads.append(name)
        if hub.corrupts and is_large(name):
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = 0
        if asked := self.headers.get("Range"):
            hub.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").split("-")[0])
            headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if is_large(name) and hub.drop_after is not None:
            cut, hub.drop_after = hub.drop_after, None
            self.send_response(200)
            for key, value in headers.items():
                self.send_header(key.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:cut])
            self.wfile.flush()
            self.close_connection = True
            return
        self.answer(content[start:], 206 if asked else 200, **headers)

    def do_PUT(self) -> None:
        """An object of the large file storage."""
        content = self.body()
        self.hub.objects[self.path.removeprefix("/lfs/")] = content
        self.answer()

    def do_POST(self) -> None:
        """Making a repository, and the steps of a commit."""
        content = self.body()
        if not self.allowed():
            return
        hub = self.hub
        if self.path == "/api/repos/create":
            values = json.loads(content)
            repo_id = f"{values['organization']}/{values['name']}" if values.get("organization") else values["name"]
            exists = repo_id in hub.repositories
            hub.repositories.setdefault(repo_id, Repository()).refs.setdefault("main", "")
            self.answer({"url": f"{hub.url}/{repo_id}"}, 409 if exists else 200)
        elif self.path == "/api/validate-yaml":
            assert json.loads(content)["content"].startswith("---\n")
            self.answer({"errors": [], "warnings": []})
        elif re.fullmatch(r"/api/models/(.+)/preupload/(.+)", self.path):
            files = [
                {"path": f["path"], "uploadMode": "lfs" if is_large(f["path"]) else "regular", "shouldIgnore": False}
                for f in json.loads(content)["files"]
            ]
            self.answer({"files": files})
        elif self.path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**o, "actions": {"upload": {"href": f"{hub.url}/lfs/{o['oid']}"}}}
                for o in json.loads(content)["objects"]
            ]
            self.answer({"transfer": "basic", "objects": objects})
        elif match := re.fullmatch(r"/api/models/(.+)/commit/(.+)", self.path):
            files = {}
            for line in content.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                elif entry["key"] == "lfsFile":
                    files[entry["value"]["path"]] = hub.objects[entry["value"]["oid"]]
            oid = hub.repositories[match[1]].commit(files, match[2])
            url = f"{hub.url}/{match[1]}/commit/{oid}"
            self.answer({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})
        else:
            self.answer(status=404)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A running server that the client takes for the Hub, with a cache of its own."""
    import huggingface_hub.constants as constants

    state = FakeHub()
    handler = type("BoundHandler", (Handler,), {"hub": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", state.url)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield state
    server.shutdown()
    server.server_close()


@pytest.fixture
def model() -> PromptableModel:
    """A tiny model with random weights."""
    torch.manual_seed(0)
    return PromptableModel(CONFIG).eval()
