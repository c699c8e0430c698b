"""A small Hugging Face Hub on loopback: the endpoints that its client uses to push and to fetch, with real bytes."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

TOKEN = "hf_of_the_test"


class Repo:
    """Commits, the oldest first: (hash, path -> bytes)."""

    def __init__(self, private: bool) -> None:
        self.private = private
        self.commits: list[tuple[str, dict[str, bytes]]] = []
        self.commit({".gitattributes": b"*.safetensors filter=lfs\n"})

    def commit(self, changed: dict[str, bytes]) -> str:
        files = (self.commits[-1][1] if self.commits else {}) | changed
        told = repr([len(self.commits), *((name, hashlib.sha1(data).hexdigest()) for name, data in files.items())])
        self.commits.append((hashlib.sha1(told.encode()).hexdigest(), files))
        return self.commits[-1][0]

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit[0] == revision), None)


class Hub(ThreadingHTTPServer):
    """``repos`` by USER/NAME, ``objects`` of LFS by SHA-256, and ``asked``: method and path of each request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def _answer(self, status: int, body: Any = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _missing(self, code: str, status: int = 404) -> None:
        self._answer(status, {"error": code}, X_Error_Code=code, X_Error_Message=code)

    def _route(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        words = [unquote(word) for word in self.path.split("?")[0].strip("/").split("/")]
        self.server.asked.append(f"{self.command} {self.path}")
        self.known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if self.command == "PUT":
            self.server.objects[words[-1]] = data
            self._answer(200)
        elif self.command == "POST" and not self.known:
            self._answer(401, {"error": "Invalid credentials"}, X_Error_Message="Invalid username or password.")
        elif words[:3] == ["api", "repos", "create"]:
            self._create(json.loads(data))
        elif words == ["api", "validate-yaml"]:
            self._answer(200, {"errors": [], "warnings": []})
        else:
            is_api = words[:2] == ["api", "models"]
            at = 2 if is_api else 0
            self._of_repo("/".join(words[at : at + 2]).removesuffix(".git"), is_api, words[at + 2 :], data)

    def _of_repo(self, name: str, is_api: bool, words: list[str], data: bytes) -> None:
        repo = self.server.repos.get(name)
        if repo is None or (repo.private and not self.known):
            self._missing("RepoNotFound", 404 if self.known else 401)
        elif is_api:
            self._api(name, repo, words, data)
        elif words == ["info", "lfs", "objects", "batch"]:
            self._batch(json.loads(data))
        else:
            self._resolve(repo, words[1], "/".join(words[2:]))

    do_GET = do_HEAD = do_POST = do_PUT = _route

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        if name.startswith("notmine/"):
            return self._answer(403, {"error": "no"}, X_Error_Message="You don't have the rights")
        if name in self.server.repos:
            return self._answer(409, {"error": "You already created this model repo"})
        self.server.repos[name] = Repo(wanted.get("private") is True or wanted.get("visibility") == "private")
        return self._answer(200, {"url": f"{self.server.url}/{name}", "name": name})

    def _api(self, name: str, repo: Repo, words: list[str], data: bytes) -> None:
        if not words or words[0] == "revision":
            found = repo.at(words[1] if words else "main")
            if found is None:
                return self._missing("RevisionNotFound")
            siblings = [{"rfilename": path} for path in found[1]]
            info = {"id": name, "modelId": name, "sha": found[0], "private": repo.private, "siblings": siblings}
            return self._answer(200, info | {"tags": [], "downloads": 0, "likes": 0})
        if words[0] == "preupload":
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(data)["files"]
            ]
            return self._answer(200, {"files": files})
        assert words[0] == "commit", words
        return self._commit(name, repo, [json.loads(line) for line in data.splitlines()])

    def _commit(self, name: str, repo: Repo, lines: list[dict[str, Any]]) -> None:
        parent, changed = lines[0]["value"].get("parentCommit"), {}
        if parent not in (None, repo.commits[-1][0]):
            return self._answer(412, {"error": "A commit has happened since. Please refresh and try again."})
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                changed[value["path"]] = base64.b64decode(value["content"])
            else:
                assert line["key"] == "lfsFile", line
                changed[value["path"]] = self.server.objects[value["oid"]]
                assert len(changed[value["path"]]) == value["size"]
        commit = repo.commit(changed)
        url = f"{self.server.url}/{name}/commit/{commit}"
        return self._answer(200, {"success": True, "commitOid": commit, "commitUrl": url})

    def _batch(self, wanted: dict[str, Any]) -> None:
        objects = [
            file | {"actions": {"upload": {"href": f"{self.server.url}/lfs/{file['oid']}"}}}
            for file in wanted["objects"]
        ]
        return self._answer(200, {"transfer": "basic", "objects": objects})

    def _resolve(self, repo: Repo, revision: str, path: str) -> None:
        found = repo.at(revision)
        if found is None:
            return self._missing("RevisionNotFound")
        if path not in found[1]:
            return self._answer(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=found[0])
        data = found[1][path]
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        return self._answer(200, data, ETag=etag, X_Repo_Commit=found[0])
