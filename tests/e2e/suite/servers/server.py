"""Python's http.server as an application of the cluster tests: answers with what it read.

The answer of each server is one line of text: the method, the target, the number of cookie fields,
the size of the body and its sum modulo 65521.
"""
import http.server

LARGE = b"weft" * 262144


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def chunks(self):
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass

    def read_body(self):
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            return b"".join(self.chunks())
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def answer(self):
        body = self.read_body()
        cookies = len(self.headers.get_all("cookie", []))
        line = f"{self.command} {self.path} {cookies} {len(body)} {sum(body) % 65521}\n"
        content = LARGE if self.path == "/large" else line.encode()
        self.send_response(204 if self.path == "/empty" else 200)
        self.send_header("Content-Type", "text/plain")
        for value in ("a=1", "b=2"):
            self.send_header("Set-Cookie", value)
        if self.path == "/empty":
            return self.end_headers()
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = answer

    def log_message(self, *arguments):
        pass


http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()
