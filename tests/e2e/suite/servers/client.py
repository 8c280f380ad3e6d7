"""Sends HTTP/1.1 exchanges as they are written, and prints what came back as JSON.

    client.py HOST PORT SERVER          every exchange, each on a connection of its own
    client.py HOST PORT SERVER COUNT    the statuses of so many POSTs, about 300 ms apart

SERVER.test is the host of the requests.
"""
import concurrent.futures
import http.client
import json
import socket
import sys
import time

BODY = bytes(range(256)) * 64
# What differs between two equal responses, or belongs to the connection.
OWN = {"date", "connection", "keep-alive", "transfer-encoding", "content-length"}


def request(line, *fields, body=b""):
    head = [line + " HTTP/1.1", "Host: @HOST", *fields, "", ""]
    return "\r\n".join(head).encode() + body


def chunked(body, *trailers):
    half = len(body) // 2
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:half], body[half:]))
    return chunks + b"0\r\n" + b"".join(line + b"\r\n" for line in trailers) + b"\r\n"


LENGTH = f"Content-Length: {len(BODY)}"
CHUNKED = "Transfer-Encoding: chunked"
# The methods, which say how long the responses are, and the bytes.
EXCHANGES = {
    "get": (["GET"], request("GET /a?b=c")),
    "head": (["HEAD"], request("HEAD /a")),
    "head of a large file": (["HEAD"], request("HEAD /large")),
    "options": (["OPTIONS"], request("OPTIONS /a")),
    "delete without a body": (["DELETE"], request("DELETE /a")),
    "post": (["POST"], request("POST /a", LENGTH, body=BODY)),
    "empty post": (["POST"], request("POST /a", "Content-Length: 0")),
    "post in chunks": (["POST"], request("POST /a", CHUNKED, body=chunked(BODY))),
    "post with trailers": (
        ["POST"],
        request("POST /a", CHUNKED, "Trailer: x-end", body=chunked(BODY, b"x-end: 1")),
    ),
    "get with a body": (["GET"], request("GET /a", CHUNKED, body=chunked(BODY))),
    "expectation": (["POST"], request("POST /a", LENGTH, "Expect: 100-continue", body=BODY)),
    "large response": (["GET"], request("GET /large")),
    "response without content": (["GET"], request("GET /empty")),
    "many fields": (["GET"], request("GET /a", *[f"x-field-{n}: {n}" for n in range(90)])),
    "two cookies": (["GET"], request("GET /a", "Cookie: a=1; b=2")),
    "odd target": (["GET"], request("GET /a%20b/c;d?e=%2F&f=[g]|h")),
    "target in two spellings": (["GET"], request("GET /a//%7Eb/./c")),
    "target in one spelling": (["GET"], request("GET /a/~b/c")),
    "range": (["GET"], request("GET /large", "Range: bytes=10-19")),
    "unsatisfied range": (["GET"], request("GET /large", "Range: bytes=9000000-")),
    "unmodified": (
        ["GET"],
        request("GET /large", "If-Modified-Since: Fri, 31 Dec 2100 23:59:59 GMT"),
    ),
    "two cookie fields": (["GET"], request("GET /a", "Cookie: a=1", "Cookie: b=2")),
    "body over the limit": (
        ["POST"],
        request("POST /a", "Content-Length: 1048576", body=BODY[:1024]),
    ),
    "pipelined": (
        ["GET", "POST", "HEAD", "GET"],
        request("GET /1")
        + request("POST /2", LENGTH, body=BODY)
        + request("HEAD /3")
        + request("GET /4"),
    ),
    "upgrade that is not taken": (
        ["GET"],
        request("GET /a", "Connection: Upgrade", "Upgrade: weft/test"),
    ),
}
# Exchanges that the others do not answer.
ONLY = {"body over the limit": "nginx"}


class Shared:
    """A connection's reader. It outlives each response, and what was read ahead is not lost."""

    def __init__(self, connection):
        self.reader = connection.makefile("rb")

    def makefile(self, *_):
        return self

    def close(self):
        pass

    def __getattr__(self, name):
        return getattr(self.reader, name)


def read(reader, method):
    response = http.client.HTTPResponse(reader, method=method)
    response.begin()
    body = response.read()
    fields = ((name.lower(), value) for name, value in response.getheaders())
    return {
        "status": response.status,
        "fields": sorted([name, value] for name, value in fields if name not in OWN),
        "length": response.getheader("content-length") if method == "HEAD" else None,
        "size": len(body),
        "body": body[:200].decode("latin-1"),
        "sum": sum(body) % 65521,
    }


def exchange(address, host, methods, written):
    responses = []
    try:
        with socket.create_connection(address, timeout=10) as connection:
            reader = Shared(connection)
            connection.sendall(written.replace(b"@HOST", host.encode()))
            for method in methods:
                responses.append(read(reader, method))
    except (OSError, http.client.HTTPException, ValueError) as error:
        responses.append({"error": repr(error)})
    return responses


def apart(address, host, count):
    statuses = []
    for number in range(count):
        post = request(f"POST /{number}", LENGTH, body=BODY)
        [response] = exchange(address, host, ["POST"], post)
        statuses.append(response.get("status", response.get("error")))
        # Around the time after which the servers close idle connections.
        time.sleep(0.29 + 0.002 * (number % 10))
    return statuses


def main(host, port, server, count=None):
    address, name = (host, int(port)), f"{server}.test"
    if count is not None:
        return apart(address, name, int(count))
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        results = {
            case: threads.submit(exchange, address, name, methods, written)
            for case, (methods, written) in EXCHANGES.items()
            if ONLY.get(case, server) == server
        }
    return {case: result.result() for case, result in results.items()}


json.dump(main(*sys.argv[1:]), sys.stdout)
