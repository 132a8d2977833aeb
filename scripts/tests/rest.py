"""Every route of the gateway against a real cluster. Usage: rest.py BASE_PORT PID_OF_THE_GATEWAY"""

import base64
import http.client
import json
import resource
import socket
import sys
import threading
import time
from urllib.parse import quote

PORT, GATEWAY = int(sys.argv[1]), sys.argv[2]
# 10 KiB each beside what uploads left in the allocator.
RESIDENT_MIB_MAX = 400
# How long the gateway waits for the rest of a request's head.
HEAD_TIMEOUT = 60
MIB = 1 << 20


class Answer:
    def __init__(self, response, body):
        self.status, self.headers, self.body = response.status, response.headers, body

    def json(self):
        return json.loads(self.body)

    @property
    def errno(self):
        assert self.headers["content-type"] == "application/problem+json", (self.status, self.headers, self.body)
        return self.json()["errno"]


def send(method, target, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if isinstance(body, dict):
        body, headers["Content-Type"] = json.dumps(body), "application/json"
    try:
        connection.request(method, target, body=body, headers=headers)
    except BrokenPipeError:
        pass  # refused before all of it was sent: the answer is there
    response = connection.getresponse()
    answer = Answer(response, response.read())
    connection.close()
    return answer


def check(answer, status, errno=None):
    assert answer.status == status, (status, answer.status, answer.body[:300])
    if errno:
        assert answer.errno == errno, (errno, answer.body)
    return answer


def rpc(method, **arguments):
    path = arguments.pop("PATH", None)
    target = f"/v1/rpc/{method}" + (f"?path={quote(path)}" if path else "")
    return send("POST", target, arguments)


def b64(data):
    return base64.b64encode(data if isinstance(data, bytes) else data.encode()).decode()


def files():
    check(send("PUT", "/v1/dirs/rest"), 201)
    check(send("PUT", "/v1/files/rest/a", b"0123456789"), 201)
    whole = check(send("GET", "/v1/files/rest/a"), 200)
    tag = whole.headers["etag"]
    assert whole.body == b"0123456789" and whole.headers["content-length"] == "10"
    head = check(send("HEAD", "/v1/files/rest/a"), 200)
    assert head.headers["content-length"] == "10" and head.body == b""
    for given, status, body, shown in [
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-2", 206, b"89", "bytes 8-9/10"),
        ("bytes=0-999", 206, b"0123456789", "bytes 0-9/10"),
        ("lines=1-2", 200, b"0123456789", None),
    ]:
        part = check(send("GET", "/v1/files/rest/a", Range=given), status)
        assert (part.body, part.headers["content-range"]) == (body, shown), given
    check(send("GET", "/v1/files/rest/a", Range="bytes=10-"), 416, "EINVAL")
    check(send("GET", "/v1/files/rest/a", If_None_Match=tag), 304)
    check(send("GET", "/v1/files/rest/a", If_Match='"other"'), 412, "ECANCELED")
    check(send("PUT", "/v1/files/rest/a", b"x", If_None_Match="*"), 412, "ECANCELED")
    check(send("PUT", "/v1/files/rest/a", b"new", If_Match=tag), 204)
    check(send("PUT", "/v1/files/rest/a", b"x", If_Match=tag), 412, "ECANCELED")
    assert send("GET", "/v1/files/rest/a").body == b"new"
    check(send("PUT", "/v1/files/rest/b", b"x", If_Match="*"), 412, "ECANCELED")
    large = bytes(range(256)) * 4096 * 20
    check(send("PUT", "/v1/files/rest/large", large), 201)
    assert send("GET", "/v1/files/rest/large").body == large
    assert send("GET", "/v1/files/rest/large", Range="bytes=1048570-1048585").body == large[1048570:1048586]
    check(send("PUT", "/v1/files/rest/chunked", iter([b"a" * 100_000, b"b" * 100_000])), 201)
    assert len(send("GET", "/v1/files/rest/chunked").body) == 200_000
    odd = quote(b"\xff <b>&\xc3\xbc")
    check(send("PUT", f"/v1/files/rest/{odd}", b"odd"), 201)
    assert send("GET", f"/v1/files/rest/{odd}").body == b"odd"
    check(send("GET", "/v1/files/rest/missing"), 404, "ENOENT")
    check(send("GET", "/v1/files/rest"), 409, "EISDIR")
    check(send("PUT", "/v1/files/rest/a/b", b"x"), 409, "ENOTDIR")
    check(send("PUT", "/v1/files/nowhere/b", b"x"), 404, "ENOENT")
    check(send("PUT", "/v1/files/rest/a", b"x", Content_Range="bytes 0-0/1"), 400)
    check(send("DELETE", "/v1/files/rest/large"), 204)
    check(send("DELETE", "/v1/files/rest/large"), 404, "ENOENT")
    check(send("PATCH", "/v1/files/rest/a", b""), 405, "EOPNOTSUPP")


def meta():
    found = check(send("GET", "/v1/meta/rest/a"), 200).json()
    assert (found["kind"], found["size"], found["linkCount"]) == ("regular", "3", 1), found
    changed = check(send("PATCH", "/v1/meta/rest/a", {"mode": 0o640, "owner": 7, "group": 8, "size": "5",
                                                      "modified": "1700000000000000001"}), 200).json()
    assert (changed["mode"], changed["owner"], changed["group"]) == (0o640, 7, 8), changed
    assert (changed["size"], changed["modified"]) == ("5", "1700000000000000001"), changed
    assert send("GET", "/v1/files/rest/a").body == b"new\0\0"
    check(send("PATCH", "/v1/meta/rest/a", {"mood": 1}), 400, "EINVAL")
    check(send("PATCH", "/v1/meta/rest/a", b"{}"), 415)
    check(send("POST", "/v1/meta/rest/link", {"link": "/rest/a"}), 201)
    assert send("GET", "/v1/meta/rest/a").json()["linkCount"] == 2
    assert send("GET", "/v1/files/rest/link").body == b"new\0\0"
    check(send("POST", "/v1/meta/rest/link", {"link": "/rest/a"}), 409, "EEXIST")
    check(send("POST", "/v1/meta/rest/soft", {"symlink": "a"}), 201)
    assert send("GET", "/v1/files/rest/soft").body == b"new\0\0"
    soft = send("GET", "/v1/meta/rest/soft?follow=false").json()
    assert (soft["kind"], soft["target"]) == ("symlink", "a"), soft
    moved = check(send("POST", "/v1/meta/rest/link", {"rename": "/rest/moved <i>"}), 200)
    assert moved.headers["location"] == "/v1/meta/rest/moved%20%3Ci%3E", moved.headers["location"]
    check(send("GET", "/v1/meta/rest/link"), 404, "ENOENT")
    check(send("PUT", "/v1/dirs/rest/sub/deeper?parents=true"), 201)
    check(send("POST", "/v1/meta/rest/sub", {"rename": "/rest/sub/deeper/in"}), 400, "EINVAL")
    check(send("POST", "/v1/meta/rest/sub", {"rename": "/rest/other"}), 200)
    check(send("GET", "/v1/meta/rest/other/deeper"), 200)
    check(send("POST", "/v1/meta/rest/a", {"rename": "b"}), 400, "EINVAL")
    check(send("POST", "/v1/meta/rest/a", {}), 400, "EINVAL")


def directories():
    for number in range(10):
        check(send("PUT", f"/v1/files/rest/other/file-{number}", b"x"), 201)
    names, target = [], "/v1/dirs/rest/other?limit=3"
    while target:
        page = check(send("GET", target), 200).json()
        assert len(page["entries"]) <= 3
        names += [entry["name"] for entry in page["entries"]]
        target = page["next"]
    # Pages come in the order of digests of the names; each is sorted.
    assert sorted(names) == ["deeper"] + [f"file-{number}" for number in range(10)], names
    taken = check(send("GET", "/v1/meta/rest/other?usage=true"), 200).json()["usage"]
    # Ten files of a byte, the directory below, and itself.
    assert (taken["bytes"], taken["inodes"]) == ("10", "12"), taken
    assert "usage" not in check(send("GET", "/v1/meta/rest/other"), 200).json()
    check(send("GET", "/v1/meta/rest/other?usage=maybe"), 400, "EINVAL")
    check(send("PUT", "/v1/dirs/rest/other"), 409, "EEXIST")
    check(send("PUT", "/v1/dirs/rest/other?parents=true"), 200)
    check(send("GET", "/v1/dirs/rest/a"), 409, "ENOTDIR")
    check(send("DELETE", "/v1/dirs/rest/other"), 409, "ENOTEMPTY")
    check(send("DELETE", "/v1/dirs/rest/other?recursiv=true"), 400, "EINVAL")
    check(send("DELETE", "/v1/dirs/rest/other?recursive=true"), 204)
    check(send("GET", "/v1/dirs/rest/other"), 404, "ENOENT")
    check(send("DELETE", "/v1/dirs/?recursive=true"), 400, "EINVAL")
    check(send("DELETE", "/v1/dirs/rest?recursive=true"), 204)


def keys():
    first = check(send("PUT", "/v1/keys/rest/one", b"1", If_None_Match="*"), 204)
    tag = first.headers["etag"]
    found = check(send("GET", "/v1/keys/rest/one"), 200)
    assert (found.body, found.headers["etag"]) == (b"1", tag)
    assert check(send("HEAD", "/v1/keys/rest/one"), 200).headers["content-length"] == "1"
    check(send("GET", "/v1/keys/rest/one", If_None_Match=tag), 304)
    check(send("PUT", "/v1/keys/rest/one", b"2", If_Match=tag), 204)
    check(send("PUT", "/v1/keys/rest/one", b"3", If_Match=tag), 412, "ECANCELED")
    spelled = send("GET", "/v1/keys/rest/one", Accept="application/json").json()
    assert (spelled["value"], spelled["expires"]) == (b64("2"), {"never": None}), spelled
    check(send("PUT", "/v1/keys/rest/brief?ttl_ms=200", b"x"), 204)
    assert int(send("GET", "/v1/keys/rest/brief").headers.get("bark-expires-at") or 1) > 0
    deadline = time.monotonic() + 10
    while send("GET", "/v1/keys/rest/brief").status != 404:
        assert time.monotonic() < deadline, "a key outlives its time"
    assert send("POST", "/v1/keys/rest/n/incr?by=41").json() == {"value": "41"}
    assert send("POST", "/v1/keys/rest/n/incr").json() == {"value": "42"}
    check(send("PUT", "/v1/keys/rest/text", b"text"), 204)
    check(send("POST", "/v1/keys/rest/text/incr"), 409)
    for number in range(10):
        check(send("PUT", f"/v1/keys/rest-page/{number}", b"x"), 204)
    names, target = [], "/v1/keys?prefix=rest-page/&limit=3"
    while target:
        page = check(send("GET", target), 200).json()
        names += [key["key"] for key in page["keys"]]
        target = page["next"]
    assert names == [f"rest-page/{number}" for number in range(10)], names
    check(send("DELETE", "/v1/keys/rest/one"), 204)
    check(send("DELETE", "/v1/keys/rest/one"), 404, "ENOENT")


def methods():
    set_ = check(rpc("KeyValue/set", key=b64("rpc"), value=b64(b"\xff\x00"), ttlMs="600000"), 200).json()
    assert set_["applied"] is True and set_["previous"] == {"absent": None}, set_
    found = check(rpc("KeyValue/get", key=b64("rpc")), 200).json()
    assert (found["found"], found["value"], found["version"]) == (True, b64(b"\xff\x00"), set_["version"]), found
    refused = check(rpc("KeyValue/set", key=b64("rpc"), condition={"ifAbsent": None}, returnPrevious=True), 200).json()
    assert refused["applied"] is False, refused
    big = str(2**62 + 1)
    assert rpc("KeyValue/increment", key=b64("rpc-n"), by=big).json() == {"value": big}
    check(rpc("KeyValue/increment", key=b64("rpc-n"), by=big), 409, "EOVERFLOW")
    check(rpc("KeyValue/setMany", pairs=[{"key": b64(f"rpc-{n}"), "value": b64(str(n))} for n in range(20)]), 200)
    many = rpc("KeyValue/getMany", keys=[b64("rpc-1"), b64("rpc-none"), b64("rpc-19")]).json()
    assert many == {"values": [{"present": b64("1")}, {"absent": None}, {"present": b64("19")}]}, many
    assert rpc("KeyValue/exists", keys=[b64("rpc-1"), b64("rpc-none")]).json() == {"count": "1"}
    page = rpc("KeyValue/scan", prefix=b64("rpc-1"), limit=2).json()
    assert page == {"keys": [b64("rpc-1"), b64("rpc-10")], "more": True}, page
    assert rpc("KeyValue/delete", keys=[b64(f"rpc-{n}") for n in range(20)]).json() == {"count": "20"}

    status = check(rpc("Admin/status"), 200).json()["status"]
    assert len(status["nodes"]) == 3 and status["partitionCount"] == 16, status
    assert len(rpc("Admin/nodes").json()["nodes"]) == 3
    assert len(rpc("Admin/partitions").json()["partitions"]) == 16
    located = rpc("Admin/locate", target={"key": b64("rpc")}).json()
    assert located["inode"] == "0" and len(located["replicas"]) == 3, located
    assert int(rpc("FileSystem/statistics").json()["totalBytes"]) > 0

    made = check(rpc("Node/makeDirectory", PATH="/", entryName=b64("rpc")), 200).json()
    assert made["attributes"]["kind"] == "directory" and "node" not in made, made
    created = check(rpc("Node/create", PATH="/rpc", entryName=b64("f"), content=b64("hello")), 200).json()
    assert created["created"] is True and created["attributes"]["size"] == "5", created
    assert rpc("Node/stat", PATH="/rpc/f").json()["attributes"]["size"] == "5"
    read = rpc("File/read", PATH="/rpc/f", offset="1", length=3).json()
    assert read == {"data": b64("ell"), "endOfFile": False}, read
    assert rpc("File/append", PATH="/rpc/f", data=b64(" you")).json() == {"offset": "5"}
    assert rpc("File/write", PATH="/rpc/f", offset=0, data=b64("J")).json() == {"written": 1}
    check(rpc("File/writeStream", PATH="/rpc/f", offset=20_000, data=b64(b"z" * 100_000)), 200)
    assert rpc("File/size", PATH="/rpc/f").json() == {"size": "120000"}
    assert send("GET", "/v1/files/rpc/f").body == b"Jello you" + b"\0" * 19_991 + b"z" * 100_000
    check(rpc("File/truncate", PATH="/rpc/f", size="9"), 200)
    check(rpc("File/sync", PATH="/rpc/f"), 200)
    assert rpc("File/done", PATH="/rpc/f").json()["size"] == "9"
    check(rpc("Node/symlink", PATH="/rpc", entryName=b64("s"), target=b64("f")), 200)
    change = {"changesMode": True, "mode": 0o600}
    assert rpc("Node/setAttributes", PATH="/rpc/f", change=change).json()["attributes"]["mode"] == 0o600
    listed = rpc("Node/list", PATH="/rpc").json()
    assert [entry["name"] for entry in listed["entries"]] == [b64("f"), b64("s")], listed
    check(rpc("Node/stat", PATH="/rpc/missing"), 404, "ENOENT")
    check(rpc("Node/readLink", PATH="/rpc/f"), 400, "EINVAL")
    check(rpc("Node/list", PATH="/rpc/f"), 409, "ENOTDIR")
    check(rpc("Node/remove", PATH="/", entryName=b64("rpc"), directory=True), 409, "ENOTEMPTY")
    check(send("DELETE", "/v1/dirs/rpc?recursive=true"), 204)
    check(rpc("KeyValue/get", key=b64(b"k" * 65537)), 400)
    check(send("PUT", "/v1/keys/rpc-large", b"x" * (9 * MIB)), 204)
    check(rpc("KeyValue/get", key=b64("rpc-large")), 413, "EFBIG")
    check(send("DELETE", "/v1/keys/rpc-large"), 204)
    check(rpc("KeyValue/nothing"), 404, "ENOENT")
    check(rpc("Session/admin"), 501, "EOPNOTSUPP")


def rest():
    cluster = check(send("GET", "/v1/cluster"), 200).json()
    assert cluster["health"]["healthy"] is True and len(cluster["nodes"]) == 3, cluster["health"]
    assert sum(node["leads"] for node in cluster["nodes"]) == 16
    assert check(send("GET", "/openapi.json"), 200).json()["openapi"].startswith("3.")
    metrics = check(send("GET", "/metrics"), 200)
    assert metrics.headers["content-type"].startswith("text/plain") and b"# TYPE " in metrics.body
    check(send("GET", "/healthz"), 200)
    page = check(send("GET", "/"), 200)
    assert page.headers["content-security-policy"].startswith("default-src 'none'")


def bad_input():
    check(send("GET", "/v1/files/" + "n" * 256), 400, "ENAMETOOLONG")
    check(send("PUT", "/v1/files/" + "n" * 256, b"x"), 400, "ENAMETOOLONG")
    check(send("GET", "/v1/meta/" + "a/" * 2100), 400, "ENAMETOOLONG")
    check(send("GET", "/v1/files/a%2Fb"), 400, "EINVAL")
    check(send("GET", "/v1/files/a%00b"), 400, "EINVAL")
    check(send("GET", "/v1/nothing"), 404, "ENOENT")
    assert send("GET", "/v1/keys/" + "k" * 65537).status in (400, 414, 431)
    try:
        assert send("GET", "/", X="x" * 1_000_000).status == 431
    except OSError:
        pass  # closed before all of it was sent
    check(send("PUT", "/v1/keys/x", b"", Content_Length=str(65 * MIB)), 413, "EFBIG")
    check(send("PATCH", "/v1/meta/", b" " * (2 * MIB), Content_Type="application/json"), 413, "EFBIG")
    for garbage in [b"\0\1\2\xff\r\n\r\n", b"BARKPEER" + b"\xff" * 64, b"*1\r\n$4\r\nPING\r\n", b"\x16\x03\x01" + b"a" * 500]:
        with socket.create_connection(("127.0.0.1", PORT), timeout=30) as stream:
            stream.sendall(garbage)
            stream.shutdown(socket.SHUT_WR)
            answer = stream.recv(4096)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer
    check(send("GET", "/healthz"), 200)


def at_once():
    """Sixteen clients add to one number while another uploads."""
    failures = []

    def add():
        for _ in range(50):
            if send("POST", "/v1/keys/at-once/incr").status != 200:
                failures.append("incr")

    threads = [threading.Thread(target=add) for _ in range(16)]
    for thread in threads:
        thread.start()
    check(send("PUT", "/v1/files/at-once", b"x" * (8 * MIB)), 201)
    for thread in threads:
        thread.join()
    assert not failures and send("GET", "/v1/keys/at-once").body == b"800", failures
    check(send("DELETE", "/v1/files/at-once"), 204)


def turned_away(stream):
    """Whether the gateway closes this connection rather than answer on it."""
    try:
        stream.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return not stream.recv(4096)
    except OSError:
        return True


def crowd():
    """Twelve thousand who begin a request and say no more cost little and hold up nobody; more are turned away."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    count = min(12_000, limit - 200)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    half_open = []
    started = time.monotonic()
    for _ in range(count):
        stream = socket.create_connection(("127.0.0.1", PORT), timeout=30)
        stream.sendall(b"GET / HTTP/1.1\r\nHo")
        half_open.append(stream)
    if count == 12_000:
        one_more = socket.create_connection(("127.0.0.1", PORT), timeout=30)
        half_open.append(one_more)
        # The gateway gives up on the first of them after a minute, and then there is room.
        is_full = turned_away(one_more)
        assert is_full or time.monotonic() - started > HEAD_TIMEOUT, "more connections than there is room for"
    for stream in half_open[:100]:
        stream.close()
    deadline = time.monotonic() + 20
    while turned_away(probe := socket.create_connection(("127.0.0.1", PORT), timeout=30)):
        probe.close()
        assert time.monotonic() < deadline, "no room although a hundred went away"
    probe.close()
    check(send("PUT", "/v1/keys/crowd", b"x"), 204)
    assert send("GET", "/v1/keys/crowd").body == b"x"
    status = open(f"/proc/{GATEWAY}/status").read()
    resident = int(status.split("VmRSS:")[1].split()[0]) // 1024
    print(f"{count} half-open connections, the gateway has {resident} MiB")
    assert resident < RESIDENT_MIB_MAX, resident
    for stream in half_open:
        stream.close()
    check(send("DELETE", "/v1/keys/crowd"), 204)


for part in [files, meta, directories, keys, methods, rest, bad_input, at_once, crowd]:
    part()
    print(f"ok: {part.__name__}", flush=True)
