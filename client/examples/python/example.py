#!/usr/bin/env python3
"""BarkFS from Python: files and keys over Cap'n Proto RPC.

    pip install pycapnp
    python client/examples/python/example.py [HOST:PORT]

A call that fails raises capnp.KjException; its text has the errno name and a sentence.
"""

import asyncio
import pathlib
import sys

import capnp

# The import path is the folder above capnp/: streaming methods import /capnp/stream.capnp.
SCHEMA = pathlib.Path(__file__).resolve().parents[3] / "schema"
capnp.remove_import_hook()
client_capnp = capnp.load(str(SCHEMA / "capnp" / "client.capnp"), imports=[str(SCHEMA)])


async def files(session):
    tree = session.fileSystem().fileSystem
    root = tree.root().node
    made = await root.create(entryName=b"greeting.txt", content=b"hello from Python\n")
    print("created" if made.created else "was there already:", "inode", made.attributes.inode)

    # Larger content streams: each write waits only for the window, `done` for all of it.
    big = (await root.create(entryName=b"big.bin")).file
    chunk = bytes(range(256)) * 1024
    for index in range(16):
        await big.writeStream(offset=index * len(chunk), data=chunk)
    print("big.bin has", (await big.done()).size, "bytes")

    # Walk, open and the first read are one round trip: nothing is awaited in between.
    walked = tree.walk(path=b"/greeting.txt")
    opened = walked.node.open()
    reading = opened.file.read(offset=0, length=4096)
    print("read:", (await reading).data.decode(), end="")

    for entry in (await root.list()).entries:
        print("entry:", entry.name.decode())


async def keys(session):
    store = session.keyValue().keyValue
    await store.set(key=b"colour", value=b"green", ttlMs=60_000)
    found = await store.get(key=b"colour")
    print("colour is", found.value.decode(), "version", found.version)


async def refusals(session):
    reader = session.restrict(readOnly=True).session
    try:
        await reader.fileSystem().fileSystem.root().node.create(entryName=b"no")
    except capnp.KjException as refused:
        print("refused:", refused.description)


async def main(address):
    host, port = address.rsplit(":", 1)
    stream = await capnp.AsyncIoStream.create_connection(host=host, port=int(port))
    bark = capnp.TwoPartyClient(stream).bootstrap().cast_as(client_capnp.Bark)
    session = (await bark.login(token=b"")).session
    await files(session)
    await keys(session)
    await refusals(session)


if __name__ == "__main__":
    asyncio.run(capnp.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7111")))
