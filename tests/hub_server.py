"""A stand-in of the hub on loopback: what `create_repo`, `repo_info` and `upload_folder` ask for."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub(ThreadingHTTPServer):
    """Files of all repositories lie under `folder`; `private` has the visibility of each by `org/name`."""

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Answer)
        self.folder, self.private, self.refusal = folder, {}, None
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def files(self, repository):
        place = self.folder / repository
        return sorted(path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file())


class Answer(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, content, status=200):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if self.server.refusal:
            return self.answer({"error": "not yours"}, self.server.refusal)
        repository = "/".join(self.path.split("?")[0].split("/")[3:5])
        if "/tree/" in self.path:
            files = self.server.files(repository)
            return self.answer([{"type": "file", "path": name, "size": 1, "oid": "0"} for name in files])
        siblings = [{"rfilename": name} for name in self.server.files(repository)]
        private = self.server.private[repository]
        self.answer({"id": repository, "private": private, "siblings": siblings, "sha": "0" * 40})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.server.refusal:
            return self.answer({"error": "not yours"}, self.server.refusal)
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            repository = f"{asked['organization']}/{asked['name']}"
            status = 409 if repository in self.server.private else 200
            self.server.private.setdefault(repository, asked.get("visibility") == "private")
            return self.answer({"url": f"{self.server.url}/{repository}"}, status)
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        repository = "/".join(self.path.split("/")[3:5])
        if "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
            return self.answer({"files": modes})
        for line in map(json.loads, body.splitlines()):
            path = self.server.folder / repository / line["value"].get("path", "")
            if line["key"] == "file":
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(base64.b64decode(line["value"]["content"]))
            elif line["key"] == "deletedFile":
                path.unlink()
        self.answer({"commitUrl": f"{self.server.url}/{repository}/commit/0", "commitOid": "0" * 40})
