@0xff7d5594d12ad175;
# The objects a client holds, over two-party capnp-rpc on a node's Cap'n Proto port.
#
# The bootstrap capability is Bark. Nothing but `login` can be done with it; every further reference is
# an authority of its own, and the client cannot make one it was not given.
# Calls may be chained on results that have not arrived: walk, open and the first read are one round
# trip. A call that fails throws an exception whose text starts with the errno name and a colon,
# `ENOENT: no such file or directory`; `UNKNOWN: ...` says that a change may or may not have happened.
# Of type `overloaded` are failures that may go away (EAGAIN), of type `failed` those that will not.
# Paths are bytes separated by '/', relative to the node or file system they are given to.

using Common = import "common.capnp";

interface Bark @0xb00769623aff9e58 {
  login @0 (token :Data) -> (session :Session);
  # An empty token where the node asks for none.
}

interface Session @0xd4c6c19ce9c4156e {
  fileSystem @0 () -> (fileSystem :FileSystem);
  keyValue @1 () -> (keyValue :KeyValue);
  admin @2 () -> (admin :Admin);

  restrict @3 (readOnly :Bool, directory :Data, untilMs :UInt64) -> (session :Session);
  # A session that can do less, to hand on: nothing but reading, nothing outside `directory` (empty:
  # no limit; with one, keys and admin are refused), nothing after `untilMs` of the Unix epoch (0: no limit).
}

interface FileSystem @0xbe8eafc0d3db8432 {
  root @0 () -> (node :Node);
  walk @1 (path :Data, followLast :Bool = true) -> (node :Node);
  statistics @2 () -> (totalBytes :UInt64, freeBytes :UInt64, fileBytes :UInt64, inodes :UInt64);
}

interface Node @0xfd134211ddaaec34 {
  # One inode: a file, a directory or a symbolic link. It stays the same inode when it is renamed.

  stat @0 () -> (attributes :Common.Attributes);
  walk @1 (path :Data, followLast :Bool = true) -> (node :Node);
  open @2 (truncate :Bool) -> (file :File);
  list @3 (after :Data, limit :UInt32 = 1024) -> (entries :List(Common.DirectoryEntry), more :Bool);
  # Entries after the one called `after`, in the directory's own order; the last one's name begins the next page.
  makeDirectory @4 (entryName :Data, mode :UInt32 = 0x1ed) -> (node :Node, attributes :Common.Attributes);
  # The default mode is 0o755.
  create @5 (entryName :Data, mode :UInt32 = 0x1a4, exclusive :Bool, content :Data)
      -> (file :File, node :Node, attributes :Common.Attributes, created :Bool);
  # The default mode is 0o644. `content` is written only into a file made now.
  remove @6 (entryName :Data, directory :Bool) -> ();
  # A file or link; or, if `directory` is set, an empty directory.
  rename @7 (entryName :Data, toDirectory :Node, toName :Data, replace :Bool = true) -> ();
  link @8 (entryName :Data, target :Node) -> (attributes :Common.Attributes);
  symlink @9 (entryName :Data, target :Data) -> (node :Node, attributes :Common.Attributes);
  readLink @10 () -> (target :Data);
  setAttributes @11 (change :Common.AttributeChange) -> (attributes :Common.Attributes);
}

interface File @0xc8d722758e8ddd3f {
  # An open regular file.

  read @0 (offset :UInt64, length :UInt32) -> (data :Data, endOfFile :Bool);
  write @1 (offset :UInt64, data :Data) -> (written :UInt32);
  append @2 (data :Data) -> (offset :UInt64);
  # Where the data went.
  truncate @3 (size :UInt64) -> ();
  size @4 () -> (size :UInt64);
  writeStream @5 (offset :UInt64, data :Data) -> stream;
  # Written under flow control; an error shows at the next `done`.
  done @6 () -> (size :UInt64, version :UInt64);
  # Waits for every write and publishes the file.
  sync @7 () -> ();
  # As `done`, and on a quorum of disks.
}

interface KeyValue @0xd31d348d6273a76b {
  get @0 (key :Data) -> (found :Bool, value :Data, version :UInt64, expiresMs :UInt64);
  # `expiresMs` is a time of the wall clock, 0: never.
  set @1 (key :Data, value :Data, ttlMs :UInt64, condition :Common.Condition, returnPrevious :Bool)
      -> (applied :Bool, version :UInt64, previous :Common.OptionalData);
  # `ttlMs` 0: never expires.
  delete @2 (keys :List(Data)) -> (count :UInt64);
  exists @3 (keys :List(Data)) -> (count :UInt64);
  increment @4 (key :Data, by :Int64 = 1) -> (value :Int64);
  getMany @5 (keys :List(Data)) -> (values :List(Common.OptionalData));
  setMany @6 (pairs :List(Pair)) -> ();
  # All or none of them, across partitions too.
  scan @7 (prefix :Data, after :Data, limit :UInt32 = 1024) -> (keys :List(Data), more :Bool);

  struct Pair @0x92ef5a41cd2c0aaf {
    key @0 :Data;
    value @1 :Data;
  }
}

interface Admin @0xd87f2c6f25ed9c47 {
  status @0 () -> (status :Common.ClusterStatus);
  nodes @1 () -> (nodes :List(Common.NodeStatus));
  partitions @2 () -> (partitions :List(Common.PartitionStatus));
  # Of every partition, each as its leader has it where there is one.
  locate @3 (target :Target) -> (partition :UInt16, leader :UInt16, replicas :List(UInt16), inode :UInt64);
  # Which partition holds a path or a key; leader 0: not known; inode 0: a key.
  drain @4 (node :UInt16, undo :Bool) -> ();
  # The node hands everything it leads to others, and leads nothing until this is undone or it starts again.
  replace @5 (node :UInt16) -> (nodes :List(UInt16));
  # The node came back, or will, with another disk, or an older copy of its own: the others take it as a blank one.
  # Answers which of them did.
  scrub @6 (start :Bool) -> (nodes :List(Common.ScrubStatus));
  # How the reading of all copies of blocks goes on each node that answers; `start`: it begins anew.
  orphans @7 (giveUp :Bool) -> (nodes :List(Common.Orphans));
  # Blocks of each node that answers that no record knows; `giveUp`: those that are old enough are dropped.

  struct Target @0xc02fe2de92303efc {
    union {
      path @0 :Data;
      key @1 :Data;
    }
  }
}
