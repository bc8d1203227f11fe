"""The part of the Hub's HTTP interface that loading and pushing use, on this machine and in memory."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


MAIN = "main"
SPACES = "spaces/"
"""What the names of Spaces begin with, among repos and in addresses."""
# What the Hub's `.gitattributes` puts into large file storage, of what a LION has.
LARGE_SUFFIXES = (".model", ".png", ".safetensors")


@dataclass(frozen=True)
class Commit:
    """A commit: the whole content of the repo, by path."""

    sha: str
    parent: str | None
    title: str
    files: dict[str, bytes]


@dataclass
class Repo:
    """A repo: its commits by sha, and the newest one of each branch."""

    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def find(self, revision: str) -> Commit | None:
        """The commit that a branch or sha names."""
        return self.commits.get(self.branches.get(revision.removeprefix("refs/heads/"), revision))

    def commit(self, branch: str, title: str, files: dict[str, bytes]) -> Commit:
        parent = self.branches.get(branch)
        sha = hashlib.sha1(f"{len(self.commits)} {parent} {branch} {title} {sorted(files)}".encode()).hexdigest()
        self.commits[sha] = Commit(sha, parent, title, files)
        self.branches[branch] = sha
        return self.commits[sha]


@dataclass
class Fault:
    """
    What goes wrong with requests that match `pattern` (`"VERB path"`), the next `times` times.

    Args:
        pattern: regular expression, searched for.
        status: the answer; None closes the connection without one.
        times: how often; None is always.
        applied: whether the request has its effect all the same, as where only the answer gets lost.
        after: how many bytes of the body are read before the connection is closed; None is all of it.
        action: what happens just before, instead of all that.
    """

    pattern: str
    status: int | None = 500
    times: int | None = 1
    applied: bool = False
    after: int | None = None
    action: Callable[[], object] | None = None
    seen: int = 0

    def meets(self, request: str) -> bool:
        if not re.search(self.pattern, request) or (self.times is not None and self.seen >= self.times):
            return False
        self.seen += 1
        return True


class LoopbackHub:
    """
    Use as a context manager; `url` is what `HF_ENDPOINT` must name.

    Attributes:
        repos: by name.
        large: large file storage, by SHA-256.
        verified: what of it the client has asked about; the rest counts as not there yet.
        requests: all requests, as `"VERB path"`, in their order.
        uploads: the sizes of all files that were put into large file storage.
        sent: the paths of all files that the last commit changed, or was to change.
        faults: what goes wrong.
        tokens: by token whether it may `"write"` or `"read"`; None lets everybody write.
    """

    def __init__(self, tokens: dict[str, str] | None = None) -> None:
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}
        self.verified: set[str] = set()
        self.requests: list[str] = []
        self.uploads: list[int] = []
        self.sent: list[str] = []
        self.faults: list[Fault] = []
        self.tokens = tokens
        self.lock = threading.RLock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def create(self, repo: str, private: bool = False) -> Repo:
        """A repo as the Hub makes it: with a first commit."""
        self.repos[repo] = Repo(private)
        self.repos[repo].commit(MAIN, "initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"})
        return self.repos[repo]

    def commit_folder(self, repo: str, folder: Path, title: str = "a folder") -> str:
        """Add a commit to the main branch that holds the files of `folder` and no others, and return its sha."""
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return (self.repos.get(repo) or self.create(repo)).commit(MAIN, title, files).sha

    def files(self, repo: str, revision: str = MAIN) -> dict[str, bytes]:
        """The content of a repo at a branch or commit."""
        commit = self.repos[repo].find(revision)
        assert commit is not None, f"{repo} has no {revision}"
        return commit.files

    def log(self, repo: str, branch: str = MAIN) -> list[str]:
        """The titles of a branch's commits, oldest first."""
        found, titles = self.repos[repo].find(branch), []
        while found is not None:
            titles.append(found.title)
            found = self.repos[repo].commits.get(found.parent) if found.parent else None
        return titles[::-1]

    def fail(self, pattern: str, status: int | None = 500, **kwargs) -> Fault:
        """Let something go wrong: see [`Fault`]."""
        self.faults.append(Fault(pattern, status, **kwargs))
        return self.faults[-1]

    def forget(self) -> None:
        """Forget requests, uploads and faults, to look at the next ones alone."""
        self.requests.clear()
        self.uploads.clear()
        self.sent = []
        self.faults.clear()

    def __enter__(self) -> "LoopbackHub":
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self.server.shutdown()
        self.server.server_close()


def is_large(path: str) -> bool:
    return path.endswith(LARGE_SUFFIXES)


def object_id(path: str, content: bytes) -> str:
    """What the Hub tells files apart by: SHA-256 of large ones, Git's SHA-1 of others."""
    if is_large(path):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"
    timeout = 30
    disable_nagle_algorithm = True  # would hold back bodies until headers are acknowledged
    answered_by: int | None = None

    def log_message(self, *args) -> None:
        pass

    # --- The way of a request ---

    def handle_request(self) -> None:
        self.path = unquote(urlsplit(self.path).path).strip("/")
        request = f"{self.command} {self.path}"
        with self.hub.lock:
            self.hub.requests.append(request)
            fault = next((fault for fault in self.hub.faults if fault.meets(request)), None)
        self.answered_by = None
        if fault is not None and fault.after is not None:
            self.rfile.read(min(fault.after, int(self.headers.get("Content-Length", 0)) // 2))
            return self.hang_up()
        self.content = self.body()
        if fault is not None and fault.action is not None:
            fault.action()
            fault = None
        if fault is not None and not fault.applied:
            return self.hang_up() if fault.status is None else self.reply({"error": "planned"}, fault.status)
        refused = self.refusal()
        if refused is not None:
            return self.reply({"error": "no access"}, refused)
        if fault is None:
            return self.answer()
        self.answered_by = -1 if fault.status is None else fault.status  # whatever the answer would have been
        self.answer()
        if fault.status is None:
            self.hang_up()

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def refusal(self) -> int | None:
        """The status that the request's token deserves, None if it is good enough."""
        if self.hub.tokens is None or self.path.startswith(("large/", "verify/")):
            return None
        level = self.hub.tokens.get(self.headers.get("Authorization", "").removeprefix("Bearer "))
        if level is None:
            return 401
        return 403 if level == "read" and self.command != "GET" and self.command != "HEAD" else None

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    def reply(self, content: bytes | dict | list, status: int = 200, **headers: str) -> None:
        if self.answered_by is not None:
            if self.answered_by < 0:
                return
            content, status = {"error": "planned"}, self.answered_by
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def missing(self, what: str, **headers: str) -> None:
        self.reply({"error": what}, 404, X_Error_Code=what, **headers)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().strip(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def answer(self) -> None:
        with self.hub.lock:
            if self.command == "PUT":
                return self.put()
            if self.command == "POST":
                return self.post()
            if self.path.startswith("api/models/"):
                return self.describe(self.path.removeprefix("api/models/").split("/"))
            if self.path.startswith("api/spaces/"):
                return self.describe(self.path.removeprefix("api/spaces/").split("/"), SPACES)
            return self.resolve()

    # --- Reading ---

    def resolve(self) -> None:
        if self.path.count("/") < 4 or self.path.split("/")[2] != "resolve":
            return self.missing("RepoNotFound")
        owner, name, _, rest = self.path.split("/", 3)
        repo = self.hub.repos.get(f"{owner}/{name}")
        if repo is None:
            return self.missing("RepoNotFound")
        revision, file = rest.split("/", 1)
        commit = repo.find(revision)
        if commit is None:
            return self.missing("RevisionNotFound")
        headers = {"X_Repo_Commit": commit.sha}
        if file not in commit.files:
            return self.missing("EntryNotFound", **headers)
        content = commit.files[file]
        etag = f'"{object_id(file, content)}"'
        if is_large(file):
            headers |= {"X_Linked_ETag": etag, "X_Linked_Size": str(len(content))}
        return self.reply(content, ETag=etag, **headers)

    def describe(self, parts: list[str], kind: str = "") -> None:
        name, rest = "/".join(parts[:2]), parts[2:]
        repo = self.hub.repos.get(kind + name)
        if repo is None:
            return self.missing("RepoNotFound")
        commit = repo.find(rest[1] if len(rest) > 1 else MAIN)
        if commit is None:
            return self.missing("RevisionNotFound")
        if rest and rest[0] == "tree":
            below = "/".join(rest[2:])
            return self.reply(
                [
                    self.entry(path, content)
                    for path, content in commit.files.items()
                    if not below or path.startswith(below + "/")
                ]
            )
        siblings = [{"rfilename": path} for path in commit.files]
        return self.reply(
            {"id": name, "sha": commit.sha, "siblings": siblings, "private": repo.private, "tags": [], "downloads": 0}
        )

    def entry(self, path: str, content: bytes) -> dict:
        found = {"type": "file", "path": path, "size": len(content), "oid": object_id(path, content)}
        if is_large(path):
            found |= {"oid": "0" * 40, "lfs": {"oid": found["oid"], "size": len(content), "pointerSize": 130}}
        return found

    # --- Writing ---

    def post(self) -> None:
        parts = self.path.split("/")
        if self.path == "api/repos/create":
            self.create(json.loads(self.content))
        elif self.path == "api/validate-yaml":
            self.reply({"errors": [], "warnings": []})
        elif self.path.endswith("/info/lfs/objects/batch"):
            self.batch(json.loads(self.content)["objects"])
        elif parts[0] == "verify":
            sent = json.loads(self.content)
            stored = self.hub.large.get(sent["oid"])
            good = stored is not None and len(stored) == sent["size"]
            self.hub.verified |= {sent["oid"]} if good else set()
            self.reply({}, 200 if good else 422)
        elif len(parts) == 6 and parts[0] == "api" and parts[4] in ("branch", "commit", "preupload"):
            name, revision = {"models": "", "spaces": SPACES}[parts[1]] + "/".join(parts[2:4]), parts[5]
            if name not in self.hub.repos:
                self.missing("RepoNotFound")
            else:
                getattr(self, parts[4])(name, revision)
        else:
            self.missing("EntryNotFound")

    def create(self, sent: dict) -> None:
        name = "/".join((sent.get("organization") or "lions", sent["name"]))
        id_, name = name, (SPACES if sent.get("type") == "space" else "") + name
        status = 409 if name in self.hub.repos else 200
        if status == 200:
            self.hub.create(name, bool(sent.get("private")) or sent.get("visibility") == "private")
        self.reply({"url": f"{self.hub.url}/{name}", "name": id_, "id": id_}, status)

    def branch(self, name: str, revision: str) -> None:
        repo = self.hub.repos[name]
        if revision in repo.branches:
            return self.reply({"error": "the branch exists"}, 409)
        repo.branches[revision] = repo.branches[MAIN]
        return self.reply({})

    def preupload(self, name: str, revision: str) -> None:
        commit = self.hub.repos[name].find(revision)
        if commit is None:
            return self.missing("RevisionNotFound")
        answers = []
        for file in json.loads(self.content)["files"]:
            path = file["path"]
            answer = {"path": path, "uploadMode": "lfs" if is_large(path) else "regular", "shouldIgnore": False}
            if path in commit.files:
                answer["oid"] = object_id(path, commit.files[path])
            answers.append(answer)
        return self.reply({"files": answers})

    def batch(self, objects: list[dict]) -> None:
        answers = []
        for wanted in objects:
            answer = dict(wanted)
            if wanted["oid"] not in self.hub.verified:
                actions = {"upload": "large", "verify": "verify"}
                answer["actions"] = {
                    action: {"href": f"{self.hub.url}/{folder}/{wanted['oid']}", "header": {}}
                    for action, folder in actions.items()
                }
            answers.append(answer)
        self.reply({"transfer": "basic", "objects": answers})

    def put(self) -> None:
        oid = self.path.rpartition("/")[2]
        if hashlib.sha256(self.content).hexdigest() != oid:
            return self.reply({"error": "not what was announced"}, 400)
        self.hub.large[oid] = self.content
        self.hub.uploads.append(len(self.content))
        return self.reply({})

    def commit(self, name: str, revision: str) -> None:
        repo, lines = self.hub.repos[name], [json.loads(line) for line in self.content.splitlines() if line]
        head = repo.find(revision)
        if head is None or revision not in repo.branches:
            return self.missing("RevisionNotFound")
        self.hub.sent = [line["value"]["path"] for line in lines if line["key"] in ("deletedFile", "file", "lfsFile")]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit") not in (None, head.sha):
            return self.reply({"error": "A commit has happened since. Please refresh and try again."}, 412)
        files = dict(head.files)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.verified:
                    return self.reply({"error": f"{value['path']} was never uploaded"}, 422)
                files[value["path"]] = self.hub.large[value["oid"]]
            elif line["key"] == "deletedFile":
                if files.pop(value["path"], None) is None:
                    return self.missing("EntryNotFound")
        sha = repo.commit(revision, header["summary"], files).sha
        url = f"{self.hub.url}/{name}/commit/{sha}"
        return self.reply(
            {"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": "", "pullRequestUrl": None}
        )
