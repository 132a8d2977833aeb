"""Harms a cluster by a journal of repairs that never were: taking them back makes right rows wrong.

Usage: doctor.py JOURNAL CLUSTER, then on standard input one line of JSON for each file: what `bark stat --json` says.
Rows are as snapshots have them: little-endian numbers, byte strings behind their size.
"""
import json
import struct
import sys

FORMAT = 8
REGULAR, DIRECTORY, SYMLINK = 0, 1, 2


def entry_key(directory, name):
    return struct.pack("<QQI", directory, 0, len(name)) + name.encode()


def entry(inode, kind):
    return struct.pack("<QB", inode, kind)


def inode_row(directory, size, links, body):
    # mode, attributes, policy, owner, group, links, directory, size, three times, version, body
    return struct.pack("<HBBIIIQQqqqQ", 0, 0, 0, 0, 0, links, directory, size, 0, 0, 0, 0) + body


def file_row(stat, directory, links):
    return inode_row(directory, stat["size"], links, struct.pack("<BI", 0, 0))


def directory_row(stat, parent, children):
    inode = int(stat["inode"])
    return inode_row(inode, 0, stat["links"], struct.pack("<BQQ", 3, parent, children))


def usage_row(inodes):
    # own and below, each bytes, stored and inodes; version, reported, no quota
    return struct.pack("<QQQQQQQQB", 0, 0, inodes, 0, 0, 0, 0, 0, 0)


def main():
    path, cluster = sys.argv[1:3]
    stats = {}
    for line in sys.stdin:
        stat = json.loads(line)
        stats[stat["path"]] = stat
    inode = lambda path: int(stats[path]["inode"])
    hurt, empty = inode("/hurt"), inode("/hurt/empty")
    lines = [{"journal": "bark doctor", "cluster": cluster, "version": 1}]

    def harm(what, home, *edits):
        # What a repair made of them is what they are: so `before` is what they become.
        rows = [{"table": table, "key": key.hex(), "before": wrong and wrong.hex(), "after": right and right.hex()}
                for table, key, right, wrong in edits]
        lines.append({"step": len(lines), "partition": home >> 48, "what": what, "format": FORMAT, "edits": rows})

    number = lambda inode: struct.pack("<Q", inode)
    orphan, linked, kind = (inode("/hurt/" + name) for name in ("orphan", "linked", "kind"))
    harm("a file without a name", hurt,
         ("entries", entry_key(hurt, "orphan"), entry(orphan, REGULAR), None),
         ("inodes", number(orphan), file_row(stats["/hurt/orphan"], hurt, 1), file_row(stats["/hurt/orphan"], hurt, 0)))
    harm("a link count", hurt,
         ("inodes", number(linked), file_row(stats["/hurt/linked"], hurt, 2), file_row(stats["/hurt/linked"], hurt, 5)))
    harm("an entry of nothing", hurt,
         ("entries", entry_key(hurt, "dangling"), None, entry((hurt & ~((1 << 48) - 1)) | 1 << 40, REGULAR)))
    harm("an entry of another kind", hurt,
         ("entries", entry_key(hurt, "kind"), entry(kind, REGULAR), entry(kind, SYMLINK)))
    harm("a directory's count", empty,
         ("inodes", number(empty), directory_row(stats["/hurt/empty"], hurt, 0), directory_row(stats["/hurt/empty"], hurt, 7)))
    harm("what a directory takes", empty, ("usages", number(empty), usage_row(1), usage_row(9)))
    with open(path, "w") as file:
        for line in lines:
            file.write(json.dumps(line) + "\n")


main()
