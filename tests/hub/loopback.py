"""The part of the Hub's HTTP interface that loading and pushing use, on this machine and in memory."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class LoopbackHub:
    """
    Use as a context manager; `url` is what `HF_ENDPOINT` must name.

    `repos` maps a repo's name to its commits, oldest first, each a dict of path to content. A commit's sha is made of
    its position; `main` is the last one.
    """

    def __init__(self) -> None:
        self.repos: dict[str, list[dict[str, bytes]]] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def commit_folder(self, repo: str, folder: Path) -> str:
        """Add a commit that holds the files of `folder`, and return its sha."""
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        self.repos.setdefault(repo, []).append(files)
        return self.sha(len(self.repos[repo]) - 1)

    @staticmethod
    def sha(index: int) -> str:
        return hashlib.sha1(str(index).encode()).hexdigest()

    def index(self, repo: str, revision: str) -> int | None:
        commits = range(len(self.repos.get(repo, ())))
        if revision in ("main", "refs/heads/main"):
            return commits[-1] if commits else None
        return next((index for index in commits if self.sha(index) == revision), None)

    def __enter__(self) -> "LoopbackHub":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        pass

    def reply(self, content: bytes | dict | list, status: int = 200, **headers: str) -> None:
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def missing(self, what: str) -> None:
        self.reply({"error": what}, 404, X_Error_Code=what)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().strip(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.requests.append(f"{self.command} {path}")
        if path.startswith("api/models/"):
            return self.describe(path.removeprefix("api/models/").split("/"))
        if path.count("/") < 4 or path.split("/")[2] != "resolve":
            return self.missing("RepoNotFound")
        owner, name, _, revision, file = path.split("/", 4)
        repo = f"{owner}/{name}"
        index = self.hub.index(repo, revision)
        if index is None:
            return self.missing("RepoNotFound" if repo not in self.hub.repos else "RevisionNotFound")
        commit = {"X_Repo_Commit": self.hub.sha(index)}
        if file not in self.hub.repos[repo][index]:
            return self.reply({"error": "no such file"}, 404, X_Error_Code="EntryNotFound", **commit)
        content = self.hub.repos[repo][index][file]
        return self.reply(content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', **commit)

    do_HEAD = do_GET

    def describe(self, parts: list[str]) -> None:
        repo, rest = "/".join(parts[:2]), parts[2:]
        if repo not in self.hub.repos:
            return self.missing("RepoNotFound")
        index = self.hub.index(repo, rest[1] if len(rest) > 1 else "main")
        if index is None:
            return self.missing("RevisionNotFound")
        files = self.hub.repos[repo][index]
        if rest and rest[0] == "tree":
            below = "/".join(rest[2:])
            return self.reply(
                [
                    {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for path, content in files.items()
                    if not below or path.startswith(below + "/")
                ]
            )
        siblings = [{"rfilename": path} for path in files]
        return self.reply({"id": repo, "sha": self.hub.sha(index), "siblings": siblings, "private": False, "tags": []})

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path).strip("/"), self.body()
        self.hub.requests.append(f"POST {path}")
        if path == "api/repos/create":
            sent = json.loads(body)
            repo = "/".join(part for part in (sent.get("organization"), sent["name"]) if part)
            status = 409 if repo in self.hub.repos else 200
            self.hub.repos.setdefault(repo, [{}])
            self.reply({"url": f"{self.hub.url}/{repo}", "name": repo, "id": repo}, status)
        elif path == "api/validate-yaml":
            self.reply({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            mode = {True: "lfs", False: "regular"}
            self.reply(
                {
                    "files": [
                        {
                            "path": file["path"],
                            "uploadMode": mode[file["path"].endswith(".safetensors")],
                            "shouldIgnore": False,
                        }
                        for file in files
                    ]
                }
            )
        elif path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            answers = [
                {**item, "actions": {"upload": {"href": f"{self.hub.url}/large/{item['oid']}", "header": {}}}}
                for item in objects
            ]
            self.reply({"transfer": "basic", "objects": answers})
        elif "/commit/" in path:
            self.commit("/".join(path.split("/")[2:4]), [json.loads(line) for line in body.splitlines() if line])
        else:
            self.missing("EntryNotFound")

    def do_PUT(self) -> None:
        self.hub.large[urlsplit(self.path).path.rpartition("/")[2]] = self.body()
        self.reply({})

    def commit(self, repo: str, lines: list[dict]) -> None:
        files = dict(self.hub.repos[repo][-1])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
        self.hub.repos[repo].append(files)
        sha = self.hub.sha(len(self.hub.repos[repo]) - 1)
        url = f"{self.hub.url}/{repo}/commit/{sha}"
        self.reply({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": "", "pullRequestUrl": None})
