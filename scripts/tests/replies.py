"""Answers that come late, twice or never, between a mount and the nodes.

`replies.py proxy CLUSTER.toml PROXIED.toml COUNTS` stands in front of every node's port for clients, writes a cluster
file that leads there, and runs until it is ended. It knows frames: requests are sent on twice, answers are held back so that
others overtake them, come twice, or are lost with their connection after the node has done what was asked.

`replies.py loop DIRECTORY SEED OPERATIONS` makes, links, renames and removes names in two directories of a mount, and holds
every result, errors included, against a model that nothing happens to. It prints what is there in the end.
"""
import errno
import json
import os
import random
import re
import socket
import struct
import sys
import threading
import time

REQUESTS_TWICE, ANSWERS_LATE, ANSWERS_TWICE, ANSWERS_LOST = 0.2, 0.2, 0.2, 1 / 120
LATE_SECONDS_MAX = 0.03


class Proxy:
    def __init__(self, addresses):
        self.counts = {"frames": 0, "requests_twice": 0, "late": 0, "twice": 0, "lost": 0}
        self.lock = threading.Lock()
        self.random = random.Random(1)
        self.fronts = {}
        self.listeners = []
        for address in addresses:
            listener = socket.socket()
            # As long as the address it stands for, since it replaces that in the middle of a message.
            while True:
                try:
                    listener.bind(("127.0.0.1", self.random.randrange(10000, 19999)))
                    break
                except OSError:
                    continue
            listener.listen()
            self.fronts[address] = f"127.0.0.1:{listener.getsockname()[1]}"
            self.listeners.append((listener, address))

    def chance(self, odds, name):
        with self.lock:
            happens = self.random.random() < odds
            self.counts[name] += happens
            return happens

    def run(self):
        for listener, address in self.listeners:
            threading.Thread(target=self.serve, args=(listener, address), daemon=True).start()

    def serve(self, listener, address):
        while True:
            client, _ = listener.accept()
            host, port = address.split(":")
            try:
                node = socket.create_connection((host, int(port)))
            except OSError:
                client.close()
                continue
            for end in (client, node):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.requests, args=(client, node), daemon=True).start()
            threading.Thread(target=self.answers, args=(node, client), daemon=True).start()

    def requests(self, client, node):
        try:
            node.sendall(exactly(client, 8))
            node.sendall(frame(client))  # the login comes once
            while True:
                whole = frame(client)
                node.sendall(whole)
                if self.chance(REQUESTS_TWICE, "requests_twice"):
                    node.sendall(whole)
        except (OSError, EOFError):
            close(client, node)

    def answers(self, node, client):
        sending = threading.Lock()

        def send(whole):
            try:
                with sending:
                    client.sendall(whole)
            except OSError:
                close(client, node)

        try:
            welcome = frame(node)
            for address, front in self.fronts.items():
                assert len(address) == len(front), (address, front)
                welcome = welcome.replace(address.encode(), front.encode())
            send(welcome)
            while True:
                whole = frame(node)
                self.chance(1, "frames")
                if self.chance(ANSWERS_LOST, "lost"):
                    raise EOFError
                copies = 1 + self.chance(ANSWERS_TWICE, "twice")
                for _ in range(copies):
                    if self.chance(ANSWERS_LATE, "late"):
                        threading.Timer(self.random.random() * LATE_SECONDS_MAX, send, (whole,)).start()
                    else:
                        send(whole)
        except (OSError, EOFError):
            close(client, node)


def exactly(connection, size):
    taken = bytearray()
    while len(taken) < size:
        chunk = connection.recv(size - len(taken))
        if not chunk:
            raise EOFError
        taken += chunk
    return bytes(taken)


def frame(connection):
    """A Cap'n Proto message with the table of its segments in front."""
    head = exactly(connection, 4)
    segments = struct.unpack("<I", head)[0] + 1
    table = exactly(connection, 4 * segments + (4 if segments % 2 == 0 else 0))
    words = sum(struct.unpack_from(f"<{segments}I", table))
    return head + table + exactly(connection, 8 * words)


def close(*connections):
    for connection in connections:
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        connection.close()


def proxy(cluster, proxied, counts):
    text = open(cluster).read()
    addresses = re.findall(r'^capnp = "(.*)"', text, re.MULTILINE)
    front = Proxy(addresses)
    for address, other in front.fronts.items():
        text = text.replace(f'capnp = "{address}"', f'capnp = "{other}"')
    front.run()
    with open(proxied + ".new", "w") as file:
        file.write(text)
    os.rename(proxied + ".new", proxied)
    while True:
        time.sleep(0.2)
        with open(counts + ".new", "w") as file:
            json.dump(front.counts, file)
        os.rename(counts + ".new", counts)


class Model:
    """Names of files in two directories: what each call has to answer, and what is there."""

    def __init__(self):
        self.names = {}
        self.made = 0

    def expect(self, call, name, other=None):
        if call in ("create", "mkdir"):
            if name in self.names:
                return errno.EEXIST
            self.made += 1
            self.names[name] = (call, self.made)
        elif name not in self.names:
            return errno.ENOENT
        elif call == "unlink":
            if self.names[name][0] == "mkdir":
                return errno.EISDIR
            del self.names[name]
        elif call == "link":
            if other in self.names:
                return errno.EEXIST
            if self.names[name][0] == "mkdir":
                return errno.EPERM
            self.names[other] = self.names[name]
        elif call == "rename":
            known = self.names.get(other)
            if known and name != other and known[0] != self.names[name][0]:
                return errno.EISDIR if known[0] == "mkdir" else errno.ENOTDIR
            if known != self.names[name]:
                self.names[other] = self.names.pop(name)
        elif call == "rmdir":
            if self.names[name][0] != "mkdir":
                return errno.ENOTDIR
            del self.names[name]
        return 0

    def links(self, name):
        kind, number = self.names[name]
        return 2 if kind == "mkdir" else sum(1 for other in self.names.values() if other[1] == number)


def loop(place, seed, operations):
    dice = random.Random(int(seed))
    model = Model()
    for directory in ("here", "there"):
        os.mkdir(f"{place}/{directory}")
    names = [f"{directory}/{name}" for directory in ("here", "there") for name in "abcd"]
    calls = {
        "create": lambda name, _: os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)),
        "mkdir": lambda name, _: os.mkdir(name),
        "unlink": lambda name, _: os.unlink(name),
        "rmdir": lambda name, _: os.rmdir(name),
        "link": os.link,
        "rename": os.rename,
    }
    weights = {"create": 4, "link": 4, "rename": 4, "unlink": 3, "mkdir": 1, "rmdir": 1}
    slowest = 0
    for number in range(int(operations)):
        call = dice.choices(list(weights), weights.values())[0]
        name, other = dice.choice(names), dice.choice(names)
        expected = model.expect(call, name, other)
        began = time.monotonic()
        try:
            calls[call](f"{place}/{name}", f"{place}/{other}")
            found = 0
        except OSError as error:
            found = error.errno
        slowest = max(slowest, time.monotonic() - began)
        what = f"operation {number}: {call} {name} {other}"
        assert found == expected, f"{what}: {errno.errorcode.get(found)} instead of {errno.errorcode.get(expected)}"
        for changed in (name, other):
            if changed in model.names:
                links = os.lstat(f"{place}/{changed}").st_nlink
                assert links == model.links(changed), f"{what}: {changed} has {links} links, not {model.links(changed)}"
            else:
                assert not os.path.lexists(f"{place}/{changed}"), f"{what}: {changed} is there"
    for directory in ("here", "there"):
        listed = sorted(os.listdir(f"{place}/{directory}"))
        expected = sorted(name.split("/")[1] for name in model.names if name.startswith(directory + "/"))
        assert listed == expected, (directory, listed, expected)
    print(json.dumps({"links": {name: model.links(name) for name in sorted(model.names)}, "slowest": round(slowest, 2)}))


if __name__ == "__main__":
    {"proxy": proxy, "loop": loop}[sys.argv[1]](*sys.argv[2:])
