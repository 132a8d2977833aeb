@0xdcc26bde8206dbf2;
# What can be asked of the cluster and what it answers.
#
# Shared by the frames between nodes (peer.capnp), the log on disk (log.capnp) and the objects clients
# hold (client.capnp). The meaning of every operation is written beside the Rust types in
# src/operation.rs; this file fixes its bytes. Keys, values, names, paths and link targets are bytes of
# the user and therefore Data; Text is only for sentences and for names out of the cluster file.
# Node numbers and inode numbers start at 1: zero means "none" where none is possible.

struct RequestId @0xb4f38c99d402b98f {
  # Names one change for the exactly-once tables.
  client @0 :UInt64;
  sequence @1 :UInt64;
  acknowledgedBelow @2 :UInt64;
  # The client has its answer for every sequence below this one.
}

struct BlockId @0xcfb8749ab9e29ba1 {
  # An immutable block: the client that cut it and that client's counter.
  client @0 :UInt64;
  counter @1 :UInt64;
}

struct TransactionId @0xc4f051388ee503f7 {
  # The request carried out, and the coordinator's attempt at it.
  client @0 :UInt64;
  sequence @1 :UInt64;
  attempt @2 :UInt64;
}

struct Entry @0xcffcd03083dc5a1a {
  # A name in a directory.
  directory @0 :UInt64;
  name @1 :Data;
}

struct OptionalData @0x895b7cf1be5eec24 {
  # Bytes that may be absent, which is not the same as empty.
  union {
    absent @0 :Void;
    present @1 :Data;
  }
}

enum FileKind @0xf584f9d04c4005cb {
  regular @0;
  directory @1;
  symlink @2;
  fifo @3;
  socket @4;
  characterDevice @5;
  blockDevice @6;
}

struct Request @0xf94f250bf6b0f58f {
  # One question or change, addressed to a partition's leader or to a node.
  union {
    query :group {
      # To the leader of the partition.
      partition @0 :UInt16;
      query @1 :Query;
    }
    command :group {
      # To the leader of the partition: one log entry.
      partition @2 :UInt16;
      id @3 :RequestId;
      command @4 :Command;
    }
    namespace :group {
      # To the leader of the operation's first partition, which coordinates.
      id @5 :RequestId;
      operation @6 :Namespace;
    }
    node @7 :NodeRequest;
    # To any node, or to the node that has the thing.
  }
}

struct Query @0x920c6259fcbe7f32 {
  # A linearizable read of one partition.
  union {
    keyGet @0 :Data;
    keyGetMany @1 :List(Data);
    keyExists @2 :List(Data);
    keyScan :group {
      # Keys in byte order after `after` that start with `prefix`.
      after @3 :Data;
      prefix @4 :Data;
      limit @5 :UInt32;
    }
    keyCount @6 :Void;
    lookup @7 :Entry;
    attributes @8 :UInt64;
    readDirectory :group {
      # Entries after the one called `after`, or after the cookie `afterCookie` if that is not 0.
      directory @9 :UInt64;
      after @10 :Data;
      limit @11 :UInt32;
      afterCookie @18 :UInt64;
    }
    readLink @12 :UInt64;
    layout :group {
      # Where the bytes `offset .. offset + length` are.
      inode @13 :UInt64;
      offset @14 :UInt64;
      length @15 :UInt64;
    }
    partitionStatus @16 :Void;
    transactionOutcome @17 :TransactionId;
    xattrGet :group {
      inode @19 :UInt64;
      name @20 :Data;
    }
    xattrList @21 :UInt64;
    data @22 :DataQuery;
    usage @23 :UsageQuery;
    quota @24 :QuotaQuery;
    by :group {
      # Another query, by a client that may hold delegations; not one of these two.
      client @25 :UInt64;
      query @26 :Query;
    }
    awaitRecall @27 :UInt64;
    # Answered when a delegation of this client is wanted back.
    lock @28 :LockQuery;
    audit @29 :AuditQuery;
  }
}

struct Expiry @0xe798f6833a112458 {
  # When a key written now goes away.
  union {
    never @0 :Void;
    keep @1 :Void;
    # Keeps the time to live the key has.
    at @2 :UInt64;
    # Milliseconds since the Unix epoch.
    after @3 :UInt64;
    # Milliseconds from the entry's time.
  }
}

struct Condition @0x9899c59fd91cc996 {
  # What must hold of a key for it to be changed.
  union {
    always @0 :Void;
    ifAbsent @1 :Void;
    ifPresent @2 :Void;
    ifVersion @3 :UInt64;
  }
}

struct NewInode @0xd1369877c6c36f25 {
  mode @0 :UInt32;
  # Permission bits, 0o7777.
  owner @1 :UInt32;
  group @2 :UInt32;
  blockSize @3 :UInt32;
  # Of the blocks the file is cut into, a power of two; 0: that of its directory, as with what follows.
  xattrs @4 :List(Xattr);
  # It is born with these.
  allocate @5 :Allocate;
  changesReplicas @6 :Bool;
  # Whether `replicas` counts.
  replicas @7 :UInt32;
  # Copies of each block; 0: as many as the cluster keeps.
}

enum Allocate @0xe96e5b9d7a41c0f2 {
  # How the nodes for a block are chosen.
  unsaid @0;
  ring @1;
  # By the block's place on the ring.
  roundRobin @2;
  # The next ones in turn.
  leastUsed @3;
  # Those that have most room.
}

struct Policy @0xd41b80c3f6a2975e {
  # How blocks are cut and where they go, in full.
  blockSize @0 :UInt32;
  replicas @1 :UInt32;
  # 0: as many as the cluster keeps.
  allocate @2 :Allocate;
}

struct Xattr @0xa9c5d3f0e8b7164d {
  # An extended attribute.
  name @0 :Data;
  value @1 :Data;
}

struct NewContent @0xbfdbe0876ef363ae {
  # What a new inode holds: it becomes a regular file, a symbolic link or a special file.
  union {
    inline @0 :Data;
    symlink @1 :Data;
    special :group {
      # A fifo, a socket or a device; nothing but its kind and number is stored.
      kind @2 :FileKind;
      device @3 :UInt64;
    }
  }
}

struct AttributeChange @0xf99c426b61f10240 {
  # Each value counts only if its flag is set.
  changesMode @0 :Bool;
  changesOwner @1 :Bool;
  changesGroup @2 :Bool;
  changesSize @3 :Bool;
  changesAccessed @4 :Bool;
  changesModified @5 :Bool;
  mode @6 :UInt32;
  owner @7 :UInt32;
  group @8 :UInt32;
  size @9 :UInt64;
  # Truncates or extends with zeros.
  accessed @10 :Int64;
  # Nanoseconds since the Unix epoch, as everywhere for times of inodes.
  modified @11 :Int64;
  accessedNow @12 :Bool;
  modifiedNow @13 :Bool;
  # The entry's time instead of the value.
  blockSize @14 :UInt32;
  # These three of a directory only, for what is made in it from now on. 0 and `unsaid`: stays as it is.
  allocate @15 :Allocate;
  changesReplicas @16 :Bool;
  replicas @17 :UInt32;
  # 0: as many as the cluster keeps.
}

struct Extent @0xd5f2451aa39dc010 {
  # A run of a file's bytes inside one block.
  offset @0 :UInt64;
  # Where in the file.
  blockClient @1 :UInt64;
  blockCounter @2 :UInt64;
  length @3 :UInt32;
  blockOffset @4 :UInt32;
  # Where in the block.
  blockSize @5 :UInt32;
  checksum @6 :UInt32;
  # CRC-32C of the whole block, computed by the client that cut it.
  nodes @7 :List(UInt16);
  # The nodes that acknowledged the block.
}

struct Step @0xa3e8227bfbf9b83b {
  # One check and change inside a transaction, at the partition that holds the object.
  union {
    insertEntry :group {
      entry @0 :Entry;
      inode @1 :UInt64;
      kind @2 :FileKind;
      expected @3 :UInt64;
      # The inode the name must have now; 0: none.
      quota @24 :UInt64;
      # The directory is under the quota of this one; 0: under none.
      policy @29 :Policy;
      # The directory has this policy; null: it does not matter.
    }
    removeEntry :group {
      entry @4 :Entry;
      inode @5 :UInt64;
    }
    createDirectory :group {
      inode @6 :UInt64;
      parent @7 :UInt64;
      attributes @8 :NewInode;
      quota @26 :UInt64;
      born @30 :Int64;
      # When, in nanoseconds since the Unix epoch.
    }
    removeDirectory @9 :UInt64;
    setParent :group {
      inode @10 :UInt64;
      parent @11 :UInt64;
      quota @25 :UInt64;
    }
    addLinks :group {
      inode @12 :UInt64;
      count @13 :Int32;
      added @22 :UInt64;
      removed @23 :UInt64;
      # The directories that got and lost a name of it; 0: none.
      quota @27 :UInt64;
      # Of the one that got a name.
    }
    holdRenameLease @14 :Void;
    keySet :group {
      key @15 :Data;
      value @16 :Data;
    }
    keyDelete @17 :Data;
    exchangeEntry :group {
      entry @18 :Entry;
      inode @19 :UInt64;
      kind @20 :FileKind;
      expected @21 :UInt64;
      quota @28 :UInt64;
    }
  }
}

struct Command @0xf6137f4308a7bad3 {
  # A change of one partition by one log entry.
  union {
    keySet :group {
      key @0 :Data;
      value @1 :Data;
      expiry @2 :Expiry;
      condition @3 :Condition;
      returnPrevious @4 :Bool;
    }
    keyDelete :group {
      keys @5 :List(Data);
      condition @6 :Condition;
    }
    keyIncrement :group {
      key @7 :Data;
      by @8 :Int64;
    }
    keyExpireDue @9 :UInt32;
    # At most so many keys.
    create :group {
      directory @10 :UInt64;
      name @11 :Data;
      attributes @12 :NewInode;
      content @13 :NewContent;
      exclusive @14 :Bool;
    }
    unlink @15 :Entry;
    rename :group {
      from @16 :Entry;
      to @17 :Entry;
      replace @18 :Bool;
      exchange @44 :Bool;
      # Both names stay and change places; `replace` does not count then.
    }
    setAttributes :group {
      inode @19 :UInt64;
      change @20 :AttributeChange;
    }
    writeInline :group {
      inode @21 :UInt64;
      offset @22 :UInt64;
      data @23 :Data;
      truncate @24 :Bool;
    }
    publish :group {
      inode @25 :UInt64;
      extents @26 :List(Extent);
      size @27 :UInt64;
      replaceAll @28 :Bool;
      hasBaseVersion @29 :Bool;
      baseVersion @30 :UInt64;
    }
    prepare :group {
      transaction @31 :TransactionId;
      primary @32 :UInt16;
      steps @33 :List(Step);
    }
    decide :group {
      transaction @34 :TransactionId;
      commit @35 :Bool;
      steps @36 :List(Step);
      participants @37 :List(UInt16);
      reply @38 :Reply;
      acknowledgedBelow @39 :UInt64;
    }
    finish :group {
      transaction @40 :TransactionId;
      commit @41 :Bool;
    }
    forget @42 :TransactionId;
    reserveInodes @43 :UInt32;
    # Sets so many inode numbers aside for a coordinator.
    link :group {
      inode @45 :UInt64;
      to @46 :Entry;
    }
    xattrSet :group {
      inode @47 :UInt64;
      xattr @48 :Xattr;
      condition @49 :Condition;
      changesMode @50 :Bool;
      mode @51 :UInt32;
      # New permission bits, together with an access control list.
    }
    xattrRemove :group {
      inode @52 :UInt64;
      name @53 :Data;
    }
    updateOpens :group {
      # What a client has open here from now on, and a renewal of its lease.
      client @54 :UInt64;
      opened @55 :List(UInt64);
      closed @56 :List(UInt64);
      leaseMs @57 :UInt32;
    }
    reapOrphans @58 :UInt32;
    # Ends leases that ran out and drops at most so many inodes without name that nobody has open.
    data @59 :DataCommand;
    usage @60 :UsageCommand;
    quota @61 :QuotaCommand;
    moveAccessTimes @62 :List(Access);
    # Files that were read; the time of access moves where it has to.
    delegation @63 :DelegationCommand;
    ordered :group {
      # A change that was told to be done before it was sent.
      after @64 :UInt64;
      # The sequence of the change before it by the same client; 0: there is none.
      time @65 :Int64;
      inode @66 :UInt64;
      # Of what it makes; 0: nothing.
      command @67 :Command;
      awaited @70 :Bool;
      # Somebody waits until it is applied: it goes into the log at once.
    }
    lock @68 :LockCommand;
    repair @69 :RepairCommand;
  }
}

enum LockKind @0xc32fc97af9223427 {
  # Locks of different kinds do not see each other.
  flock @0;
  # Of a whole file, by an open file.
  range @1;
  # Of bytes, by a process: what fcntl sets.
}

struct LockOwner @0xed0106a32dff4ba1 {
  # Who holds or wants locks: in the client, whatever number the client tells its owners apart by.
  client @0 :UInt64;
  number @1 :UInt64;
  kind @2 :LockKind;
}

struct FileLock @0xd8cd563bc442a9cf {
  # An advisory lock of the bytes `first` to `last`, both included.
  inode @0 :UInt64;
  owner @1 :LockOwner;
  first @2 :UInt64;
  last @3 :UInt64;
  exclusive @4 :Bool;
  process @5 :UInt32;
  # For those who ask who is in their way.
}

struct LockCommand @0x8e4a6f0e94f7a40d {
  # A change of advisory locks, by one log entry.
  union {
    take :group {
      lock @0 :FileLock;
      wait @1 :UInt64;
      # If it is held by others: the number to wait under; 0: do not wait.
      leaseMs @2 :UInt32;
    }
    release :group {
      inode @3 :UInt64;
      owner @4 :LockOwner;
      first @5 :UInt64;
      last @6 :UInt64;
    }
    cancel :group {
      # Waits no longer; answers `granted` if it is too late.
      inode @7 :UInt64;
      client @8 :UInt64;
      wait @9 :UInt64;
    }
    renew :group {
      client @10 :UInt64;
      leaseMs @11 :UInt32;
    }
    rejoin @12 :UInt64;
    # The client knows that its lease ran out, and what it asked for until now may be refused.
    endLeases @13 :UInt32;
  }
}

struct LockQuery @0xf9738da854828396 {
  union {
    conflict @0 :FileLock;
    # Who is in its way?
    waited :group {
      # What became of a wait; answered when it has ended, or after a while.
      inode @1 :UInt64;
      client @2 :UInt64;
      wait @3 :UInt64;
    }
  }
}

struct DelegationCommand @0xbcc2032d9948fd3c {
  # Directories that one client has for itself.
  client @0 :UInt64;
  directories @1 :List(UInt64);
  union {
    take @2 :UInt32;
    # With a lease of so many milliseconds.
    giveBack @3 :Void;
  }
}

struct LockAnswer @0xec76c52cc7bd472f {
  union {
    granted @0 :Attributes;
    # Of the file, at the moment it was granted or later.
    waiting @1 :Void;
    held @2 :FileLock;
    # By another.
    free @3 :Void;
  }
}

struct Access @0xd3a8c5e17f4b2096 {
  inode @0 :UInt64;
  at @1 :Int64;
  # When it was read, in nanoseconds since the Unix epoch.
}

struct PartitionPair @0xc9e0d5bb06a8157e {
  # A key with its partition and its new value.
  partition @0 :UInt16;
  key @1 :Data;
  value @2 :Data;
}

struct PartitionKey @0xd54e48a5f62f699f {
  partition @0 :UInt16;
  key @1 :Data;
}

struct Namespace @0xf57bcfd94ee2a046 {
  # A change that may touch several partitions.
  union {
    makeDirectory :group {
      entry @0 :Entry;
      attributes @1 :NewInode;
    }
    removeDirectory @2 :Entry;
    unlink @3 :Entry;
    rename :group {
      from @4 :Entry;
      to @5 :Entry;
      replace @6 :Bool;
      exchange @13 :Bool;
    }
    link :group {
      inode @7 :UInt64;
      to @8 :Entry;
    }
    keySetMany :group {
      partition @9 :UInt16;
      pairs @10 :List(PartitionPair);
    }
    keyDeleteMany :group {
      partition @11 :UInt16;
      keys @12 :List(PartitionKey);
    }
  }
}

struct NodeRequest @0xf578ba7322f2241e {
  # What any node, or a named one, answers by itself.
  union {
    walk :group {
      start @0 :UInt64;
      path @1 :Data;
      followLast @2 :Bool;
      firstBytes @3 :UInt32;
    }
    blockPut :group {
      block @4 :BlockId;
      data @5 :Data;
      checksum @6 :UInt32;
      replicas @7 :List(UInt16);
      localOnly @8 :Bool;
    }
    blockGet :group {
      block @9 :BlockId;
      offset @10 :UInt32;
      length @11 :UInt32;
    }
    blockDelete @12 :List(BlockId);
    clusterStatus @13 :Void;
    blockList :group {
      # Blocks this node has, in order.
      hasAfter @14 :Bool;
      after @15 :BlockId;
      limit @16 :UInt32;
    }
    blockCompact @17 :Void;
    # Wins back the space of dropped blocks, a segment at most.
    directoryUsage @18 :UInt64;
    # What a directory and everything below it take.
    setQuota :group {
      directory @19 :UInt64;
      bytes @20 :UInt64;
      inodes @21 :UInt64;
      # 2^64 - 1: no limit.
    }
    getQuota @22 :UInt64;
    # Of the directory, or the one above it that has one.
    blockVerify :group {
      # Reads all of a block this node has.
      block @23 :BlockId;
      checksum @24 :UInt32;
      hasChecksum @36 :Bool;
      # Else the one it was stored with.
    }
    blocksMissing @25 :List(BlockId);
    # Which of these this node has no good copy of.
    blockFetch :group {
      # Copies a block to this node from one of the others, unless it has a good copy.
      block @26 :BlockId;
      size @27 :UInt32;
      checksum @28 :UInt32;
      from @29 :List(UInt16);
    }
    drain @30 :Bool;
    # Whether this node shall lead nothing, until it is told otherwise or starts again.
    admit @31 :UInt16;
    # The node's next disk, or the one it came with, is its new one.
    blockAudit :group {
      # Blocks this node has, in order, with their sizes and checksums.
      hasAfter @32 :Bool;
      after @33 :BlockId;
      limit @34 :UInt32;
    }
    traced @35 :Request;
    # Another request, to be told where its time went. Goes where that one goes; not one of these itself.
    scrub @37 :Bool;
    # How the node's reading of all its copies goes; true: begins anew.
    orphans @38 :Bool;
    # Blocks of the node that no record knows; true: gives up those that are old enough.
  }
}

struct Attributes @0xb1465ec118691b6b {
  inode @0 :UInt64;
  kind @1 :FileKind;
  mode @2 :UInt32;
  owner @3 :UInt32;
  group @4 :UInt32;
  size @5 :UInt64;
  linkCount @6 :UInt32;
  accessed @7 :Int64;
  modified @8 :Int64;
  changed @9 :Int64;
  version @10 :UInt64;
  # Counts every change of the content.
  device @11 :UInt64;
  # Number of a device node, as stat has it.
  blocks @12 :UInt64;
  # Units of 512 bytes that are stored.
  blockSize @13 :UInt32;
  # Of the blocks the file is cut into; of a directory, the files made in it.
  xattrCount @14 :UInt32;
  replicas @15 :UInt32;
  # Copies of each block; 0: as many as the cluster keeps.
  allocate @16 :Allocate;
}

struct KeyValue @0xea7d119e74e44715 {
  value @0 :Data;
  version @1 :UInt64;
  expires :union {
    never @2 :Void;
    at @3 :UInt64;
    # Milliseconds since the Unix epoch.
  }
}

struct DirectoryEntry @0xf7b64f44b174830c {
  name @0 :Data;
  inode @1 :UInt64;
  kind @2 :FileKind;
  attributes @3 :Attributes;
  # Null unless the inode's home is the directory's partition.
  cookie @4 :UInt64;
  # The entry's place in the order of listings, the same as long as it has this name.
}

struct Content @0xf6e1374569de8642 {
  # Content of part of a file.
  union {
    inline @0 :Data;
    extents @1 :List(Extent);
    # By offset; what neither an extent nor a patch covers is zeros.
  }
  patches @2 :List(Patch);
  # Beside extents: bytes that are not in a block yet, by offset; they overlap no extent.
  knownUntil @3 :UInt64;
  # Beside extents: nothing is said about bytes from here on.
}

struct Patch @0xcb371c2ce637d9a7 {
  # Bytes of a file that came in a log entry and are not in a block yet.
  offset @0 :UInt64;
  data @1 :Data;
}

struct PackedBlock @0xe35a4fdde20865cc {
  # A block that was stored and what its copies are like.
  block @0 :BlockId;
  size @1 :UInt32;
  checksum @2 :UInt32;
  nodes @3 :List(UInt16);
}

struct PackedPiece @0xbabce47df4be4d0e {
  # A run of a file that a packed block holds too, and where it was when it was packed.
  inode @0 :UInt64;
  offset @1 :UInt64;
  length @2 :UInt32;
  blockOffset @3 :UInt32;
  # In the packed block.
  from :union {
    patch @4 :UInt64;
    # The patches written by the log entry with this index.
    block :group {
      block @5 :BlockId;
      blockOffset @6 :UInt32;
    }
  }
}

enum Allocation @0xa60f06915fb23165 {
  reserve @0;
  punchHole @1;
  zeroRange @2;
}

enum SeekTarget @0x9d58c17f8926ffc8 {
  data @0;
  hole @1;
}

struct DataCommand @0xcc8a64e03cf3f000 {
  # A change of the bytes of files, or of the ledger of blocks, by one log entry.
  union {
    write :group {
      inode @0 :UInt64;
      offset @1 :UInt64;
      append @2 :Bool;
      # At the end of the file, wherever that is; the offset does not count then.
      data @3 :Data;
    }
    allocate :group {
      inode @4 :UInt64;
      offset @5 :UInt64;
      length @6 :UInt64;
      how @7 :Allocation;
      keepSize @8 :Bool;
    }
    copyRange :group {
      from @9 :UInt64;
      fromOffset @10 :UInt64;
      to @11 :UInt64;
      toOffset @12 :UInt64;
      length @13 :UInt64;
    }
    repack :group {
      block @14 :PackedBlock;
      pieces @15 :List(PackedPiece);
    }
    condemnBlocks :group {
      node @16 :UInt16;
      blocks @17 :List(BlockId);
    }
    forgetBlocks @18 :List(BlockId);
    update :group {
      # What a client has of a file, bytes first and attributes then, all at once.
      inode @19 :UInt64;
      bytes @20 :NewBytes;
      change @21 :AttributeChange;
      # Without a size.
      dropsPrivileges @22 :Bool;
      hasWritten @23 :Bool;
      written @24 :Int64;
      # When the bytes were written.
      hasChanged @25 :Bool;
      changed @26 :Int64;
      # When the last of it was done.
    }
    recordCopies @27 :List(CopyChange);
    abandonBlocks :group {
      # Blocks the sender cut and will never publish, and where copies of them may be.
      blocks @28 :List(BlockId);
      nodes @29 :List(UInt16);
    }
  }
}

struct CopyChange @0xb02513a81b67e2df {
  # A node has a good copy of a block, or none any more.
  block @0 :BlockId;
  node @1 :UInt16;
  has @2 :Bool;
}

struct ScrubStatus @0xe999df31c0d615ff {
  # How far a node is with reading all its copies of blocks.
  node @0 :UInt16;
  cycle @1 :UInt64;
  # Counts the cycles since the node started; 0: none yet.
  running @2 :Bool;
  checkedBlocks @3 :UInt64;
  checkedBytes @4 :UInt64;
  totalBytes @5 :UInt64;
  # What the blocks of the node take.
  badCount @6 :UInt64;
  bad @7 :List(BadCopy);
  # The first of them.
}

enum CopyHealth @0x93d2f812a00a10ac {
  waiting @0;
  # Bad; to be made anew.
  healed @1;
  unneeded @2;
  # Bad, and no file has the block.
}

struct BadCopy @0xa76709ca5e95cfe8 {
  block @0 :BlockId;
  segment @1 :UInt32;
  # The file is this number in eight hexadecimal digits, with .blocks behind.
  offset @2 :UInt64;
  inode @3 :UInt64;
  # A file that has the block; 0: none, or not known.
  health @4 :CopyHealth;
}

struct Orphans @0xea20dac1a71b8804 {
  # Blocks a node has and no record knows: written and not published, or not yet.
  count @0 :UInt64;
  bytes @1 :UInt64;
  givenUp @2 :UInt64;
  # Of these, put in the ledger now.
  node @4 :UInt16;
  orphans @3 :List(Orphan);
  # The first of them.
}

struct Orphan @0xc7cd026a5b0a7330 {
  block @0 :BlockId;
  size @1 :UInt32;
  ageMs @2 :UInt64;
  # Since the node noticed.
  isOld @3 :Bool;
  # Nobody can be at it any more: it may be given up.
}

struct Ledger @0xcea8a72293613498 {
  rows @0 :List(LedgerRow);
  more @1 :Bool;
}

struct LedgerRow @0xedd891d8a0c37485 {
  block @0 :BlockId;
  size @1 :UInt32;
  since @2 :Int64;
  condemned @3 :Bool;
  # Nobody ever published it.
  nodes @4 :List(UInt16);
}

struct BlockFiles @0x9fb20383813731cf {
  found @0 :List(BlockFile);
  more @1 :Bool;
  # Then the next place to look from follows.
  inode @2 :UInt64;
  offset @3 :UInt64;
}

struct BlockFile @0xe8ceaa07ca863fb2 {
  block @0 :BlockId;
  inode @1 :UInt64;
}

struct NewBytes @0xd8f7a9d1c3b5e602 {
  # Bytes of an update.
  union {
    nothing @0 :Void;
    bytes :group {
      # One piece.
      offset @1 :UInt64;
      data @2 :Data;
    }
    blocks :group {
      extents @3 :List(Extent);
      size @4 :UInt64;
    }
    pieces @5 :List(NewPiece);
  }
}

struct NewPiece @0xc6a0f1d4b97e3825 {
  offset @0 :UInt64;
  data @1 :Data;
}

struct DataQuery @0xbe07f3c1ee4cdb59 {
  # A question about the bytes of files, or about blocks.
  union {
    seek :group {
      inode @0 :UInt64;
      offset @1 :UInt64;
      target @2 :SeekTarget;
    }
    unknownBlocks @3 :List(BlockId);
    ledger :group {
      # Blocks nobody needs that are not dropped yet.
      hasAfter @4 :Bool;
      after @5 :BlockId;
      limit @6 :UInt32;
    }
    blockFiles :group {
      # Which files have these blocks, looking from a place in the maps of files on.
      blocks @7 :List(BlockId);
      inode @8 :UInt64;
      offset @9 :UInt64;
    }
  }
}

enum TracePhase @0xb3f05ac81d27e649 {
  # What a request was about in a span of its time.
  request @0;
  # All of it on this node.
  worker @1;
  # Until its partition, disk or coordinator took it.
  batch @2;
  # Gathered with others into one log entry.
  sync @3;
  # Until the leader's own log had it on disk.
  follower @4;
  # Until another node had it on disk and said so.
  commit @5;
  # Until a quorum had it and it was applied.
  confirm @6;
  # Until a quorum said that the leader still leads.
  blockStore @7;
}

struct Span @0xe8d1746fb05c932a {
  phase @0 :TracePhase;
  node @1 :UInt16;
  partition @2 :UInt16;
  # 65535: none.
  depth @3 :UInt16;
  # Those behind a span with a greater depth are parts of it.
  fromUs @4 :UInt64;
  untilUs @5 :UInt64;
  # Since the node that answers took up the request.
  what @6 :Text;
  # Of a request.
}

struct Traced @0x9d42c6fb138ae075 {
  reply @0 :Reply;
  spans @1 :List(Span);
}

enum AuditPart @0xb7a2d6c41f93e580 {
  # Which rows of a partition a page is about.
  files @0;
  # Inodes in order, each with its entries, names, extents and attributes.
  blocks @1;
  # What is recorded of blocks.
  usages @2;
  # What directories told of their sizes, and what was told to them.
  counters @3;
  # Everything that is a sum of rows. One page.
  clients @4;
  # Sessions, opens, leases and inodes without a name. One page.
  locks @5;
  # Transactions under way and what they hold. One page.
}

struct AuditQuery @0xcd4e0a97b2618f35 {
  # Looks at rows of a partition and compares those that must agree. Answers `audit`.
  union {
    page :group {
      part @0 :AuditPart;
      fromHigh @1 :UInt64;
      fromLow @2 :UInt64;
      # Where it begins: 0 and 0, then what the page before said.
      limit @3 :UInt32;
      # Of rows, about.
    }
    entries :group {
      # The entries of a directory that lead to an inode.
      directory @4 :UInt64;
      inode @5 :UInt64;
    }
    names @6 :UInt64;
    # The names an inode counts; no rows if there is no such inode.
    plan @7 :RepairStep;
    # Which rows a repair would change. Refused with CONFLICT if there is nothing to repair.
  }
}

struct AuditPage @0x9e6b15c8d07f42a3 {
  # What the rows of one partition say, all at the same log entry.
  applied @0 :UInt64;
  nowMs @1 :UInt64;
  # By the leader's clock.
  rows @2 :UInt64;
  # That were looked at.
  hasNext @3 :Bool;
  nextHigh @4 :UInt64;
  nextLow @5 :UInt64;
  tooMany @6 :Bool;
  # Too many rows for one page; nothing was looked at.
  faults @7 :List(AuditFault);
  entries @8 :List(AuditName);
  # Names, as directories have them.
  names @9 :List(AuditName);
  # Names, as inodes have them.
  blocks @10 :List(AuditBlock);
  told @11 :List(UsageReport);
  # What directories and files here say they take, to others.
  taken @12 :List(UsageReport);
  # What others said to directories here.
  transactions @13 :List(AuditTransaction);
  repair @14 :RepairCommand;
  # What was planned.
}

enum RepairTable @0x92d4b7e1f06a35c8 {
  # A table of a partition that a repair may change.
  inodes @0;
  entries @1;
  names @2;
  extents @3;
  attributes @4;
  blocks @5;
  ledger @6;
  sessions @7;
  usages @8;
  contributions @9;
  allowances @10;
  opens @11;
  opensByClient @12;
  leases @13;
  orphans @14;
  dueOrphans @15;
  transactionLocks @16;
  delegations @17;
  delegationsByClient @18;
  lockFiles @19;
  lockLeases @20;
  counters @21;
}

struct RowEdit @0xbc3f90a1587ed264 {
  # One row as it was and as it is to be.
  table @0 :RepairTable;
  key @1 :Data;
  before @2 :Data;
  after @3 :Data;
  hasBefore @4 :Bool;
  hasAfter @5 :Bool;
  # Whether there is a row.
}

struct RepairCommand @0xa6518ec4d70f93b2 {
  # Changes rows if all of them are still what they were.
  format @0 :UInt16;
  # Of the rows' bytes: the version of snapshots.
  edits @1 :List(RowEdit);
  recount @2 :Bool;
  # Makes sums anew that are not part of the replicated state.
}

struct RepairStep @0xd1e70b4f6c8239a5 {
  # What is to be put right.
  inode @0 :UInt64;
  directory @1 :UInt64;
  cookie @2 :UInt64;
  # Of an entry.
  kind @3 :FileKind;
  union {
    fault @4 :AuditFault;
    # What has no name and is kept gets one in `directory`.
    dropEntry @5 :Void;
    entryKind @6 :Void;
    numberEntry @7 :Void;
    # An entry named after the inode's number.
    names @8 :UInt32;
    # The inode counts so many names in the directory.
    tell @9 :Void;
    contribution @10 :Bool;
    # What `inode` told the directory is nothing until it tells again; false: it is forgotten.
  }
}

struct AuditName @0xf0c35b7a8412d96e {
  inode @0 :UInt64;
  directory @1 :UInt64;
  kind @2 :FileKind;
  count @3 :UInt32;
  # How many names of the inode the directory has.
  cookie @4 :UInt64;
  # Of an entry.
}

struct AuditBlock @0xaa91e4d37c506bf8 {
  block @0 :BlockId;
  size @1 :UInt32;
  checksum @2 :UInt32;
  nodes @3 :List(UInt16);
}

struct AuditTransaction @0x8c2f7be05d19a464 {
  transaction @0 :TransactionId;
  primary @1 :UInt16;
  since @2 :Int64;
  # Nanoseconds since the Unix epoch.
}

enum AuditCheck @0xe51d08a6cf37b92c {
  # What two things did not agree about.
  entryCount @0;
  directoryLinks @1;
  entriesOfNothing @2;
  entriesOfGone @3;
  nameCount @4;
  countedName @5;
  orphanStays @6;
  inodeNumber @7;
  xattrCount @8;
  xattrsOfNothing @9;
  contentLength @10;
  extentOverlap @11;
  extentBeyondEnd @12;
  extentOfNothing @13;
  extentCount @14;
  extentBytes @15;
  extentBlock @16;
  blockReferences @17;
  blockInLedger @18;
  blockSize @19;
  allocatedBytes @20;
  blockBytes @21;
  garbageBytes @22;
  patchBytes @23;
  fileBytes @24;
  orphanCount @25;
  usageOwn @26;
  usageBelow @27;
  quotaUsed @28;
  openIndex @29;
  openCount @30;
  orphanDue @31;
  sessionReplies @32;
  lockHolder @33;
  delegation @34;
  fileLock @35;
}

struct AuditFault @0xd8f64c2e7b0a3915 {
  # Two things of a partition that do not agree.
  check @0 :AuditCheck;
  inode @1 :UInt64;
  # Or the client or directory it is about.
  offset @2 :UInt64;
  block @3 :BlockId;
  # Null: it is about none.
  kept @4 :UInt64;
  found @5 :UInt64;
}

struct Usage @0xa3f8d9e51fca5ec7 {
  # What files, links and directories take.
  bytes @0 :UInt64;
  # The sum of their sizes.
  stored @1 :UInt64;
  # Of these, what is stored: holes are not.
  inodes @2 :UInt64;
}

struct UsageReport @0xd2da87b5771fe4e8 {
  # What a part of a directory takes, told to the directory's partition.
  directory @0 :UInt64;
  contributor @1 :UInt64;
  # A directory in it; or an inode with counter 0: the files in it that another partition is home to.
  bytes @2 :UInt64;
  stored @3 :UInt64;
  inodes @4 :UInt64;
  version @5 :UInt64;
  quota @6 :UInt64;
  # Where it is asked for: the directory that has the quota this counts in; 0: none.
}

struct UsageCommand @0xa46fbb96cade15e4 {
  # What leaders tell of the sizes of directories.
  union {
    report @0 :List(UsageReport);
    # To the partition of the directories.
    reported @1 :List(UsageReport);
    # To the partition the reports came from: they arrived.
  }
}

struct UsageQuery @0xb7cf68dae2e67afd {
  # A question about the sizes of directories.
  union {
    total @0 :UInt64;
    # Of a directory, as far as it was told.
    unreported :group {
      after @1 :UInt64;
      limit @2 :UInt32;
    }
    elsewhere :group {
      # Of directories at home in other partitions.
      after @3 :UInt64;
      limit @4 :UInt32;
    }
  }
}

enum QuotaPhase @0xd300d88a21fa1cf4 {
  begun @0;
  active @1;
  gone @2;
}

struct Allowance @0xd62431b2226eec97 {
  # The part of a quota that one partition may use.
  bytes @0 :UInt64;
  inodes @1 :UInt64;
  epoch @2 :UInt64;
}

struct Quota @0x8104e5a28c54a113 {
  # What is known of a quota. A limit of 2^64 - 1 is none.
  quota @0 :UInt64;
  # The directory that has it; 0: there is none.
  bytes @1 :UInt64;
  inodes @2 :UInt64;
  phase @3 :QuotaPhase;
  usedBytes @4 :UInt64;
  usedInodes @5 :UInt64;
  allowed @6 :Allowance;
  # Null unless it is in force in the partition that answers.
}

struct QuotaCommand @0x97f50a05ff87b7ed {
  # A step of keeping quotas; `quota` is the directory that has it.
  union {
    set :group {
      quota @0 :UInt64;
      bytes @1 :UInt64;
      inodes @2 :UInt64;
      phase @3 :QuotaPhase;
    }
    tag :group {
      directory @4 :UInt64;
      from @5 :UInt64;
      to @6 :UInt64;
      # The quotas it was and is to be under; 0: none.
      after @7 :UInt64;
      parent @20 :UInt64;
      # Only while this is its parent; 0: whatever its parent is.
    }
    enforce :group {
      quota @8 :UInt64;
      on @9 :Bool;
    }
    grant :group {
      quota @10 :UInt64;
      partition @11 :UInt16;
      held @12 :Allowance;
      wanted @13 :Allowance;
    }
    accept :group {
      quota @14 :UInt64;
      granted @15 :Allowance;
    }
    giveBack @16 :UInt64;
    settle :group {
      quota @17 :UInt64;
      partition @18 :UInt16;
      held @19 :Allowance;
    }
  }
}

struct QuotaQuery @0xd159e7d49e77e97e {
  union {
    of @0 :UInt64;
    limits @1 :UInt64;
    used @2 :UInt64;
  }
}

enum TransactionOutcome @0xcfc15dbc4ae09765 {
  committed @0;
  aborted @1;
  undecided @2;
}

struct PartitionStatus @0xfd726ae58fcfe674 {
  partition @0 :UInt16;
  leader @1 :UInt16;
  # 0: not known.
  term @2 :UInt64;
  applied @3 :UInt64;
  stateHash @4 :UInt64;
  # Of the whole state at `applied`; equal on every replica.
  keys @5 :UInt64;
  inodes @6 :UInt64;
  fileBytes @7 :UInt64;
  logEntries @8 :UInt64;
  snapshotIndex @9 :UInt64;
  allocatedBytes @10 :UInt64;
  # Of `fileBytes`, and of links and attributes, what is stored.
  orphans @11 :UInt64;
  # Inodes without a name that are still open somewhere, or were a moment ago. Not among `inodes`.
  blockBytes @12 :UInt64;
  # Of the blocks in use, one copy of each.
  garbageBytes @13 :UInt64;
  # Of blocks nobody needs any more that are not dropped yet, one copy of each.
  patchBytes @14 :UInt64;
  # Of writes that came through the log and are not in blocks yet.
}

struct NodeStatus @0xad5963c12f26905f {
  number @0 :UInt16;
  id @1 :Text;
  capnp @2 :Text;
  resp @3 :Text;
  http @4 :Text;
  zone @5 :Text;
  reachable @6 :Bool;
  # The answering node has a working connection to it.
  draining @7 :Bool;
  # It shall lead nothing.
  diskSlow @8 :Bool;
  # It leads nothing, because its disk takes too long.
  refusal @9 :DiskRefusal;
  # Why the answering node refuses it.
}

enum DiskRefusal @0x9d51f0f3b6c2a7e4 {
  none @0;
  otherDisk @1;
  # Its disk is not the one that is known.
  olderCopy @2;
  # Its disk lacks what the node had told to be durable.
}

struct ClusterStatus @0xa64eabb55c1bdc77 {
  # What one node knows of the cluster.
  cluster @0 :Text;
  node @1 :UInt16;
  nodes @2 :List(NodeStatus);
  partitions @3 :List(PartitionStatus);
  # Those with a replica on the answering node.
  durability @4 :Text;
  replicas @5 :UInt32;
  partitionCount @6 :UInt32;
  diskTotalBytes @7 :UInt64;
  diskFreeBytes @8 :UInt64;
  blockBytes @9 :UInt64;
  # Of the blocks the answering node stores.
}

struct Reply @0xc5518b2f91c2927e {
  # What a successful request answers.
  union {
    done @0 :Void;
    value @1 :KeyValue;
    noValue @30 :Void;
    # No such key.
    values @2 :List(OptionalData);
    count @3 :UInt64;
    number @4 :Int64;
    set :group {
      applied @5 :Bool;
      version @6 :UInt64;
      previous @7 :OptionalData;
    }
    keys :group {
      keys @8 :List(Data);
      more @9 :Bool;
    }
    entry :group {
      inode @10 :UInt64;
      kind @11 :FileKind;
      attributes @12 :Attributes;
      # Null unless the inode's home is the partition that answers.
    }
    attributes @13 :Attributes;
    created :group {
      attributes @14 :Attributes;
      created @15 :Bool;
    }
    directory :group {
      entries @16 :List(DirectoryEntry);
      more @17 :Bool;
      parent @18 :UInt64;
    }
    link @19 :Data;
    layout :group {
      attributes @20 :Attributes;
      content @21 :Content;
    }
    walked :group {
      attributes @22 :Attributes;
      parent @23 :UInt64;
      content @24 :Content;
    }
    stored @25 :List(UInt16);
    # The nodes that have the block.
    block @26 :Data;
    partition @27 :PartitionStatus;
    outcome @28 :TransactionOutcome;
    cluster @29 :ClusterStatus;
    xattr @31 :Data;
    xattrs @32 :List(Data);
    opens :group {
      missing @33 :List(UInt64);
      renewed @34 :Bool;
    }
    copied :group {
      length @35 :UInt64;
      attributes @36 :Attributes;
    }
    blocks @37 :List(BlockId);
    usage @38 :Usage;
    usageReports :group {
      reports @39 :List(UsageReport);
      next @40 :List(UsageReport);
      transactions @41 :List(TransactionId);
      more @42 :Bool;
    }
    allowance @43 :Allowance;
    quota @44 :Quota;
    delegated @45 :List(UInt64);
    # Directories that are wanted back.
    lock @46 :LockAnswer;
    audit @47 :AuditPage;
    traced @48 :Traced;
    scrub @49 :ScrubStatus;
    orphans @50 :Orphans;
    ledger @51 :Ledger;
    blockFiles @52 :BlockFiles;
  }
}

struct Failure @0xd7fe5dd7b34ba5a0 {
  # Why a request did not succeed.
  union {
    notLeader @0 :UInt16;
    # The leader to ask, 0 if not known.
    busy @1 :Text;
    locked :group {
      transaction @2 :TransactionId;
      primary @3 :UInt16;
    }
    crossPartition @4 :Void;
    tooLargeForInline @5 :Void;
    unknown @6 :Text;
    # It may or may not have been applied.
    refused :group {
      refusal @7 :Refusal;
      sentence @8 :Text;
    }
    overAllowance :group {
      # The partition may use no more of the quota of this directory until it is granted.
      quota @9 :UInt64;
      bytes @10 :UInt64;
      inodes @11 :UInt64;
    }
    delegated :group {
      # Another client has the directory for itself.
      directory @12 :UInt64;
      client @13 :UInt64;
    }
  }
}

enum Refusal @0xcd6f3618d097fcc9 {
  notFound @0;
  exists @1;
  notDirectory @2;
  isDirectory @3;
  notEmpty @4;
  nameTooLong @5;
  invalidArgument @6;
  tooManySymlinks @7;
  fileTooLarge @8;
  noSpace @9;
  tooManyLinks @10;
  conflict @11;
  corrupt @12;
  notInteger @13;
  overflow @14;
  sessionExpired @15;
  permissionDenied @16;
  unsupported @17;
  internal @18;
  noData @19;
  range @20;
  notPermitted @21;
  crossDevice @22;
  tooBig @23;
  quotaExceeded @24;
  beyondEnd @25;
  noLocks @26;
  deadlock @27;
  fenced @28;
}
