"""A stand-in for the Hub: local folders as model repositories, over HTTP on the loopback device.

It speaks what `snapshot_download` asks for: repository info, tree, and HEAD and GET of files; and what a push asks
for: create, whoami, branches, tags, preupload, LFS, commits with parents, pull requests, history. It fails if told to.
huggingface_hub reads HF_ENDPOINT when it is imported, so that tests load in processes of their own, with
`HubServer.environment`.
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import unquote

from hub_repository import Repository, blob_id

TOKEN = "hf_of_me"  # may write to me/*
READER = "hf_of_a_reader"  # may write nowhere
NO_COMMIT = "0" * 40
DATE = "2026-11-22T11:10:00.000Z"


class Request(NamedTuple):
    """A line of the log."""

    method: str
    path: str
    status: int
    user_agent: str
    token: str | None
    host: str = ""
    range: str = ""


@dataclass
class Fault:
    """What goes wrong with the next requests of this method, whose path has all of these parts.

    `what` is a status; or "dropped": no answer; "reset": the connection, likewise; "lost": done, and no answer;
    "foreign": somebody commits just before; "slow": after `seconds`; of a file's content "cut": half of it; "wrong":
    with another byte; "refusing": 429 that asks for `seconds` of patience.
    """

    what: int | str
    method: str
    parts: tuple[str, ...]
    times: int = 1
    seconds: float = 0.0


class HubServer(ThreadingHTTPServer):
    """Serves while it is entered; `requests` is its log, which clients mark by asking for /case/LABEL."""

    daemon_threads = True

    def __init__(self, handler: type["Handler"] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), handler or Handler)
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.created: dict[str, dict[str, object]] = {}
        self.commits: list[tuple[str, list[dict[str, object]]]] = []
        self.faults: list[Fault] = []
        self.stored: dict[str, bytes] = {}
        self.connections: list[socket.socket] = []
        self.place = Path(tempfile.mkdtemp(prefix="hub-"))

    def add(self, repo_id: str, folder: Path, revision: str = "main", **options: object) -> None:
        repository = self.repositories.setdefault(repo_id, Repository(**options))
        repository.revisions[revision] = folder
        found = repository.find(revision)
        assert found is not None
        repository.revisions[found[0]] = folder  # which stays, when the branch moves on

    def fail(self, what: int | str, method: str, *parts: str, times: int = 1, seconds: float = 0.0) -> None:
        self.faults.append(Fault(what, method, parts, times, seconds))

    def fault_of(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times and fault.method == method and all(part in path for part in fault.parts):
                fault.times -= 1
                return fault
        return None

    def new_folder(self) -> Path:
        return self.place / str(len(list(self.place.iterdir())))

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """What a branch holds now."""
        found = self.repositories[repo_id].find(revision)
        assert found is not None
        return {name: path.read_bytes() for name, path in found[1].items()}

    def requests_of(self, label: str) -> list[Request]:
        """The requests between the mark of this case and the next mark."""
        marks = [i for i, request in enumerate(self.requests) if request.path.startswith("/case/")]
        start = next(i for i in marks if self.requests[i].path == f"/case/{label}")
        return self.requests[start + 1 : next((i for i in marks if i > start), None)]

    def files_asked(self) -> set[str]:
        """Names of all files whose content or size was asked for."""
        paths = (request.path for request in self.requests if "/resolve/" in request.path)
        return {unquote(path).split("/", 5)[5] for path in paths}

    def environment(self, home: Path) -> dict[str, str]:
        """The environment of a process whose Hub this server is, with a cache of its own and no token."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING_FACE_", "HFGEN_"))}
        switches = dict.fromkeys(("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "OMP_NUM_THREADS"), "1")
        hub = {
            "HF_ENDPOINT": f"http://127.0.0.1:{self.server_port}",
            "HF_HOME": str(home),
            "NO_PROXY": "127.0.0.1,localhost",
        }
        return {**inherited, **switches, **hub}

    def get_request(self) -> tuple[socket.socket, object]:
        connection, address = super().get_request()
        self.connections.append(connection)
        return connection, address

    @contextlib.contextmanager
    def gone(self) -> Iterator[None]:
        """Within, nobody listens at this address, and connections that were open are closed."""
        self.shutdown()
        self.socket.close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        yield
        self.socket = socket.socket(self.address_family, self.socket_type)
        self.server_bind()
        self.server_activate()
        self.__enter__()

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.shutdown()
        self.server_close()
        shutil.rmtree(self.place)


class Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    fault: int | str | None = None
    body = b""

    def serve(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = [unquote(part) for part in self.path.partition("?")[0].strip("/").split("/")]
        found = self.server.fault_of(self.command, self.path)
        self.fault = fault = found and found.what
        if found and fault == "slow":
            time.sleep(found.seconds)
        if fault in ("dropped", "reset"):
            self.note(0)
            self.close_connection = True
            if fault == "reset":
                self.reset()
        elif found and fault == "refusing":
            self.answer(429, b"{}", {"Retry-After": str(int(found.seconds))})
        elif isinstance(fault, int):
            self.refuse(fault, "", "The stand-in was told to fail.")
        else:
            if fault == "foreign":
                self.commit_by_another("/".join(parts[2:4]))
            {"GET": self.read, "HEAD": self.read, "POST": self.write, "PUT": self.store}[self.command](parts)

    def reset(self) -> None:
        """Close with a reset, as a machine does that knows nothing of the connection."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    do_GET = do_HEAD = do_POST = do_PUT = serve

    def read(self, parts: list[str]) -> None:
        if parts[0] == "case":
            return self.answer_json({})
        if parts[0] == "stored":
            return self.read_stored(parts[1])
        if parts == ["api", "whoami-v2"]:
            return self.who()
        is_api = parts[:2] == ["api", "models"]
        parts = parts[2:] if is_api else parts
        repo_id, rest = "/".join(parts[:2]), parts[2:] or ["revision", "main"]
        repository = self.server.repositories.get(repo_id, Repository(token="nobody has it"))
        if repository.dropped:
            self.close_connection = True
        elif self.token not in (None, TOKEN, READER, *(other.token for other in self.server.repositories.values())):
            self.refuse(401, "", "Invalid credentials in Authorization header")
        elif repository.gated and repository.token != self.token and not is_api:
            message = f"Access to model {repo_id} is restricted. You must have access to it and be authenticated."
            self.refuse(403 if self.token else 401, "GatedRepo", message)
        elif repository.token not in (None, self.token) and not repository.gated:
            self.refuse(404 if self.token else 401, "RepoNotFound", "Repository not found")
        elif rest[0] == "discussions":
            self.answer_json(self.pull_requests(repo_id, repository))
        else:
            self.answer_about(repo_id, repository.find(rest[1]), "/".join([rest[0], *rest[2:]]), is_api)

    def who(self) -> None:
        name, role = {TOKEN: ("me", "write"), READER: ("a-reader", "read")}.get(self.token or "", ("", ""))
        if not name:
            return self.refuse(401, "", "Invalid credentials in Authorization header")
        auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": role}}
        return self.answer_json({"type": "user", "name": name, "orgs": [], "auth": auth})

    def write(self, parts: list[str]) -> None:
        """Of one user, `me`, whose token is `TOKEN`; `READER` is that of somebody who may ask for pull requests."""
        if parts[1] == "validate-yaml":
            return self.validate(json.loads(self.body)["content"])
        if self.token not in (TOKEN, READER):
            return self.refuse(401, "", "Invalid credentials in Authorization header")
        if parts[1:] == ["repos", "create"]:
            return self.create(json.loads(self.body))
        if parts[-3:] == ["lfs", "objects", "batch"]:
            return self.answer_json({"objects": [self.action(asked) for asked in json.loads(self.body)["objects"]]})
        repo_id, verb = "/".join(parts[2:4]), parts[4]
        repository = self.server.repositories[repo_id]
        asks = "create_pr=1" in self.path
        if not asks and (self.token != TOKEN or not repo_id.startswith("me/")):
            return self.refuse(403, "", "Pass `create_pr=1` as a query parameter to create a Pull Request")
        if verb == "branch":
            if parts[5] in repository.revisions:
                return self.refuse(409, "", "Reference already exists")
            repository.commit(parts[5], "main", self.server.new_folder(), {}, [])
            return self.answer_json({})
        if verb == "tag":
            found, tag = repository.find(parts[5]), json.loads(self.body)["tag"]
            if found is None or tag in repository.revisions:
                return self.refuse(409 if found else 404, "" if found else "RevisionNotFound", "No such, or exists")
            repository.revisions[tag] = repository.revisions[parts[5]]
            return self.answer_json({})
        if verb == "preupload":
            asked = [file["path"] for file in json.loads(self.body)["files"]]
            return self.answer_json({"files": [self.mode(repository, parts[5], name) for name in asked]})
        return self.commit(repo_id, repository, parts[5], asks)

    def create(self, asked: dict[str, str]) -> None:
        repo_id = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if not repo_id.startswith("me/") or self.token != TOKEN:
            return self.refuse(403, "", f"You may not create a repository under {repo_id.partition('/')[0]}.")
        self.server.created[repo_id] = asked
        exists = repo_id in self.server.repositories
        if not exists:
            token = TOKEN if asked.get("visibility") == "private" else None
            repository = self.server.repositories[repo_id] = Repository(token=token)
            repository.commit("main", "", self.server.new_folder(), {".gitattributes": b"*.safetensors lfs\n"}, [])
        return self.answer_json({"url": f"http://{self.headers['Host']}/{repo_id}"}, 409 if exists else 200)

    def mode(self, repository: Repository, revision: str, name: str) -> dict[str, object]:
        """How a file is sent, and the id of the one that is there."""
        is_lfs, found = name.endswith(".safetensors"), repository.find(revision)
        path = found[1].get(name) if found else None
        oid = path and (hashlib.sha256(path.read_bytes()).hexdigest() if is_lfs else blob_id(path))
        return {"path": name, "uploadMode": "lfs" if is_lfs else "regular", "shouldIgnore": False, "oid": oid}

    def action(self, asked: dict[str, object]) -> dict[str, object]:
        if asked["oid"] in self.server.stored:
            return asked
        href = f"http://localhost:{self.server.server_port}/stored/{asked['oid']}"
        return {**asked, "actions": {"upload": {"href": href}}}

    def store(self, parts: list[str]) -> None:
        """As storage does, which knows no tokens; its path names the content."""
        if self.token or hashlib.sha256(self.body).hexdigest() != parts[1]:
            return self.refuse(400, "", "A token was sent to storage, or another file than announced")
        self.server.stored[parts[1]] = self.body
        return self.answer_json({})

    def commit(self, repo_id: str, repository: Repository, branch: str, asks: bool) -> None:
        header, *operations = [json.loads(line) for line in self.body.splitlines()]
        found = repository.find(branch)
        if found is None:
            return self.refuse(404, "RevisionNotFound", "Invalid rev id")
        if not asks and header["value"].get("parentCommit", found[0]) != found[0]:
            return self.refuse(412, "", "The branch was updated since you opened this page. Please refresh.")
        files, removed, stored = {}, [], self.server.stored
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "deletedFile":
                removed.append(value["path"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = stored[value["oid"]]
                repository.lfs.add(value["path"])
            else:
                files[value["path"]] = base64.b64decode(value["content"])
        target = f"refs/pr/{len(repository.pulls) + 1}" if asks else branch
        sha = repository.commit(target, branch, self.server.new_folder(), files, removed)
        self.server.commits.append((repo_id, [header, *operations]))
        url = f"http://{self.headers['Host']}/{repo_id}"
        if asks:
            repository.pulls.append(header["value"]["summary"])
        pull = {"pullRequestUrl": f"{url}/discussions/{len(repository.pulls)}"} if asks else {}
        return self.answer_json({"success": True, "commitOid": sha, "commitUrl": f"{url}/commit/{sha}", **pull})

    def commit_by_another(self, repo_id: str) -> None:
        files = {"NOTES.md": b"By somebody else.\n"}
        self.server.repositories[repo_id].commit("main", "main", self.server.new_folder(), files, [])

    def pull_requests(self, repo_id: str, repository: Repository) -> dict[str, object]:
        common = {"status": "open", "createdAt": DATE, "isPullRequest": True, "author": {"name": "me"}}
        repo = {"name": repo_id, "type": "model"}
        found = [{"num": n, "title": title, "repo": repo, **common} for n, title in enumerate(repository.pulls, 1)]
        return {"discussions": found, "count": len(found), "start": 0}

    def validate(self, content: str) -> None:
        if "pipeline_tag: nonsense" in content:
            return self.answer(400, b"pipeline_tag is none of the known ones", {"Content-Type": "text/plain"})
        return self.answer_json({"warnings": [], "errors": []})

    def answer_about(self, repo_id: str, found: tuple[str, dict[str, Path]] | None, what: str, is_api: bool) -> None:
        if found is None:
            return self.refuse(404, "RevisionNotFound", "Invalid rev id")
        commit, files = found
        if (is_api, what) == (True, "revision"):
            siblings = [self.sibling(repo_id, name, path) for name, path in files.items()]
            private = self.server.repositories[repo_id].token is not None
            return self.answer_json({"id": repo_id, "sha": commit, "siblings": siblings, "private": private})
        if (is_api, what) == (True, "tree"):
            return self.answer_json([self.entry(repo_id, name, path) for name, path in files.items()])
        if (is_api, what) == (True, "commits"):
            history = next((h for h in self.server.repositories[repo_id].history.values() if h[0] == commit), [commit])
            common = {"title": "", "message": "", "date": DATE, "authors": []}
            return self.answer_json([{"id": id_, **common} for id_ in history])
        path = files.get(what.removeprefix("resolve/"))
        if is_api or path is None:
            return self.refuse(404, "EntryNotFound", "Entry not found", commit)
        data, headers = path.read_bytes(), {"X-Repo-Commit": commit}
        if what.removeprefix("resolve/") in self.server.repositories[repo_id].lfs:
            sha256 = hashlib.sha256(data).hexdigest()
            self.server.stored[sha256] = data
            headers |= {"X-Linked-ETag": f'"{sha256}"', "X-Linked-Size": str(len(data))}
            location = f"http://localhost:{self.server.server_port}/stored/{sha256}"
            return self.answer(302, b"", {**headers, "Location": location})
        return self.answer_file(data, {**headers, "ETag": f'"{blob_id(path)}"'})

    def read_stored(self, sha256: str) -> None:
        """From storage, which knows no tokens."""
        if self.token or sha256 not in self.server.stored:
            return self.refuse(400, "", "A token was sent to storage, or nothing such is stored")
        return self.answer_file(self.server.stored[sha256], {"ETag": f'"{sha256}"'})

    def answer_file(self, data: bytes, headers: dict[str, str]) -> None:
        """All of it, or from the byte on that is asked for."""
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        body = data[start:]
        if self.fault == "wrong":
            body = bytes([*body[:-1], body[-1] ^ 1])
        if asked:
            headers = {**headers, "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        self.answer(206 if asked else 200, body, {**headers, "Accept-Ranges": "bytes"})

    def sibling(self, repo_id: str, name: str, path: Path) -> dict[str, object]:
        if "blobs=" not in self.path:
            return {"rfilename": name}
        entry = self.entry(repo_id, name, path)
        lfs = entry.get("lfs")
        found = {"rfilename": name, "size": entry["size"], "blobId": entry["oid"]}
        return {**found, "lfs": {**lfs, "sha256": lfs["oid"]}} if isinstance(lfs, dict) else found

    def entry(self, repo_id: str, name: str, path: Path) -> dict[str, object]:
        size = path.stat().st_size
        found = {"type": "file", "path": name, "size": size, "oid": blob_id(path)}
        if name not in self.server.repositories[repo_id].lfs:
            return found
        oid = hashlib.sha256(path.read_bytes()).hexdigest()
        return {**found, "oid": NO_COMMIT, "lfs": {"oid": oid, "size": size, "pointerSize": 120}}

    @property
    def token(self) -> str | None:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") or None

    def refuse(self, status: int, code: str, message: str, commit: str | None = None) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message, "X-Repo-Commit": commit}
        self.answer(status, b"{}", {name: value for name, value in headers.items() if value})

    def answer_json(self, value: object, status: int = 200) -> None:
        self.answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.note(status)
        if self.fault == "lost":
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if self.fault == "cut" else body)
        if self.fault == "cut":
            self.close_connection = True

    def note(self, status: int) -> None:
        agent = self.headers.get("User-Agent", "")
        host, asked = self.headers.get("Host", ""), self.headers.get("Range", "")
        self.server.requests.append(Request(self.command, self.path, status, agent, self.token, host, asked))

    def log_message(self, *args: object) -> None:
        """The log is `HubServer.requests`."""
