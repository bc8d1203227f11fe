"""The part of the Hub's HTTP interface that `datasets.load_dataset` uses, on this machine and in memory."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


SHA = "0123456789abcdef0123456789abcdef01234567"


class DatasetHub:
    """
    Use as a context manager; `url` is what `HF_ENDPOINT` must name.

    `files` maps names of data sets (`"owner/name"`) to their files by path. Every revision is the same commit, `SHA`.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def add(self, name: str, files: dict[str, Path], configs: dict[str | None, dict[str, str]]) -> None:
        """
        Add files to a data set, and the card that tells `datasets` which of them are which.

        Args:
            name: the data set's name.
            files: by path.
            configs: by configuration, the pattern of each split's files.
        """
        content = self.files.setdefault(name, {})
        content |= {path: file.read_bytes() for path, file in files.items()}
        metadata = json.loads(content.get("metadata", b'{"configs": []}'))["configs"]
        for config, splits in configs.items():
            data_files = [{"split": split, "path": pattern} for split, pattern in splits.items()]
            entry = next((entry for entry in metadata if entry["config_name"] == (config or "default")), None)
            if entry is None:
                metadata.append({"config_name": config or "default", "data_files": data_files})
            else:
                entry["data_files"] += data_files
        content["metadata"] = json.dumps({"configs": metadata}).encode()
        # JSON is YAML.
        content["README.md"] = f"---\n{content['metadata'].decode()}\n---\n".encode()

    def __enter__(self) -> DatasetHub:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: DatasetHub
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

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        path = unquote(address.path).strip("/")
        self.hub.requests.append(f"{self.command} {path}")
        described = path.startswith("api/datasets/")
        owner, _, rest = path.removeprefix("api/").removeprefix("datasets/").partition("/")
        name, _, rest = rest.partition("/")
        files = self.hub.files.get(f"{owner}/{name}")
        if files is None:
            return self.reply({"error": "no such data set"}, 404, X_Error_Code="RepoNotFound")
        action, _, rest = rest.partition("/")
        if described:
            if action == "tree":
                below = rest.partition(SHA)[2].strip("/")
                return self.reply(self.tree(files, below, "recursive=true" in address.query.lower()))
            return self.reply(self.description(owner, name, files))
        # Revisions may hold slashes: refs/convert/parquet.
        file = next((file for file in files if rest.endswith(f"/{file}") and file != "metadata"), None)
        if action != "resolve" or file is None:
            return self.reply({"error": "no such file"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=SHA)
        self.reply(files[file], ETag=f'"{hashlib.sha256(files[file]).hexdigest()}"', X_Repo_Commit=SHA)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """What is asked about single paths."""
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.requests.append(f"POST {path}")
        name, _, _ = path.removeprefix("api/datasets/").partition("/paths-info/")
        entries = self.tree(self.hub.files.get(name, {}), "", recursive=True)
        self.reply([entry for entry in entries if entry["path"] in body["paths"]])

    def tree(self, files: dict[str, bytes], below: str, recursive: bool) -> list[dict]:
        """Files and folders of the folder `below`, of the whole data set if that is empty."""
        entries: dict[str, dict] = {}
        start = f"{below}/" if below else ""
        for path, content in files.items():
            if path == "metadata" or not path.startswith(start):
                continue
            parents = path.removeprefix(start).split("/")[:-1]
            for depth in range(1, len(parents) + 1 if recursive else min(2, len(parents) + 1)):
                folder = start + "/".join(parents[:depth])
                entries[folder] = {"type": "directory", "path": folder, "size": 0, "oid": SHA}
            if recursive or not parents:
                oid = hashlib.sha1(content).hexdigest()
                entries[path] = {"type": "file", "path": path, "size": len(content), "oid": oid}
        return list(entries.values())

    def description(self, owner: str, name: str, files: dict[str, bytes]) -> dict:
        siblings = [{"rfilename": path} for path in files if path != "metadata"]
        shared = {"private": False, "gated": False, "disabled": False, "downloads": 0, "likes": 0, "tags": []}
        return {"id": f"{owner}/{name}", "author": owner, "sha": SHA, "siblings": siblings, **shared}
