"""A stand-in for the Hub: local folders as model repositories, over HTTP on the loopback device.

It speaks what `snapshot_download` asks for: repository info, tree, and HEAD and GET of files; and of what
`create_repo` and `upload_folder` ask for the simplest: files come within the commit. huggingface_hub reads
HF_ENDPOINT when it is imported, so that tests load in processes of their own, with `HubServer.environment`.
"""

import hashlib
import json
import os
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import unquote

TOKEN = "hf_of_me"


class Request(NamedTuple):
    """A line of the log."""

    method: str
    path: str
    status: int
    user_agent: str
    token: str | None


@dataclass
class Repository:
    """Revision name -> folder. A private one has a token; a dropped one closes the connection without an answer."""

    revisions: dict[str, Path] = field(default_factory=dict)
    token: str | None = None
    dropped: bool = False

    def find(self, revision: str) -> tuple[str, dict[str, Path]] | None:
        """(commit id, files) of a branch, a tag or a commit id."""
        for name, folder in self.revisions.items():
            files = {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}
            commit = hashlib.sha1("".join(n + blob_id(p) for n, p in files.items()).encode()).hexdigest()
            if revision in (name, commit):
                return commit, files
        return None


def blob_id(path: Path) -> str:
    """git's id of a file."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class HubServer(ThreadingHTTPServer):
    """Serves while it is entered; `requests` is its log, which clients mark by asking for /case/LABEL."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.created: dict[str, dict[str, object]] = {}
        self.commits: list[tuple[str, list[dict[str, object]]]] = []

    def add(self, repo_id: str, folder: Path, revision: str = "main", **options: object) -> None:
        repository = self.repositories.setdefault(repo_id, Repository(**options))
        repository.revisions[revision] = folder

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
        hub = {"HF_ENDPOINT": f"http://127.0.0.1:{self.server_port}", "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"}
        return {**inherited, **switches, **hub}

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = [unquote(part) for part in self.path.partition("?")[0].strip("/").split("/")]
        if parts[0] == "case":
            return self.answer_json({})
        is_api = parts[:2] == ["api", "models"]
        parts = parts[2:] if is_api else parts
        repo_id, rest = "/".join(parts[:2]), parts[2:] or ["revision", "main"]
        repository = self.server.repositories.get(repo_id, Repository(token="nobody has it"))
        if repository.dropped:
            self.close_connection = True
        elif self.token not in (None, *(other.token for other in self.server.repositories.values())):
            self.refuse(401, "", "Invalid credentials in Authorization header")
        elif repository.token not in (None, self.token):
            self.refuse(404 if self.token else 401, "RepoNotFound", "Repository not found")
        else:
            self.answer_about(repo_id, repository.find(rest[1]), "/".join([rest[0], *rest[2:]]), is_api)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Of one user, `me`, whose token is `TOKEN`."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = [unquote(part) for part in self.path.partition("?")[0].strip("/").split("/")]
        if self.token != TOKEN:
            return self.refuse(401, "", "Invalid username or password.")
        if parts[1:] == ["repos", "create"]:
            asked = json.loads(body)
            repo_id = f"{asked.get('organization') or 'me'}/{asked['name']}"
            if not repo_id.startswith("me/"):
                return self.refuse(403, "", f"You may not create a repository under {asked['organization']}.")
            self.server.created[repo_id] = asked
            return self.answer_json({"url": f"http://{self.headers['Host']}/{repo_id}"})
        repo_id, verb = "/".join(parts[2:4]), parts[4] if len(parts) > 4 else parts[1]
        if verb == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": n, "uploadMode": "regular", "shouldIgnore": False, "oid": None} for n in names]
            return self.answer_json({"files": files})
        if verb == "commit":
            self.server.commits.append((repo_id, [json.loads(line) for line in body.splitlines()]))
            sha = "0" * 40
            return self.answer_json(
                {
                    "success": True,
                    "commitOid": sha,
                    "commitUrl": f"http://{self.headers['Host']}/{repo_id}/commit/{sha}",
                }
            )
        return self.answer_json({"warnings": [], "errors": []})  # of the card's metadata

    def answer_about(self, repo_id: str, found: tuple[str, dict[str, Path]] | None, what: str, is_api: bool) -> None:
        if found is None:
            return self.refuse(404, "RevisionNotFound", "Invalid rev id")
        commit, files = found
        if (is_api, what) == (True, "revision"):
            siblings = [{"rfilename": name} for name in files]
            return self.answer_json({"id": repo_id, "sha": commit, "siblings": siblings})
        if (is_api, what) == (True, "tree"):
            sizes = {name: (path.stat().st_size, blob_id(path)) for name, path in files.items()}
            entries = [{"type": "file", "path": n, "size": size, "oid": oid} for n, (size, oid) in sizes.items()]
            return self.answer_json(entries)
        path = files.get(what.removeprefix("resolve/"))
        if is_api or path is None:
            return self.refuse(404, "EntryNotFound", "Entry not found", commit)
        self.answer(200, path.read_bytes(), {"X-Repo-Commit": commit, "ETag": f'"{blob_id(path)}"'})

    @property
    def token(self) -> str | None:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") or None

    def refuse(self, status: int, code: str, message: str, commit: str | None = None) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message, "X-Repo-Commit": commit}
        self.answer(status, b"{}", {name: value for name, value in headers.items() if value})

    def answer_json(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        agent = self.headers.get("User-Agent", "")
        self.server.requests.append(Request(self.command, self.path, status, agent, self.token))
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """The log is `HubServer.requests`."""
