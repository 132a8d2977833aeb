@0xa5e7c3b57561096e;
# Frames without the RPC layer: between nodes, and between the client library and a node.
#
# A connection opens with the eight bytes BARKPEER or BARKCLNT; each message is one frame in Cap'n
# Proto's standard stream framing. Ids are chosen by the asker; replies come in any order.

using Common = import "common.capnp";

struct PeerMessage @0xe1e1e64be4dcc99e {
  union {
    hello @0 :PeerHello;
    raft @1 :List(RaftMessage);
    heartbeats @2 :List(Heartbeat);
    request @3 :Call;
    reply @4 :Answer;
    snapshotChunk @5 :SnapshotChunk;
    snapshotProgress @6 :SnapshotProgress;
    standing @7 :Standing;
  }
}

struct Standing @0xb3d0c6a41f27e895 {
  # What a node tells the others of itself every second.
  draining @0 :Bool;
  # It leads nothing, because its operator wants it so, ...
  diskSlow @1 :Bool;
  # ... or because its disk takes too long.
  logPosition @2 :UInt64;
  # Everything before this place of its log is durable.
  refusal @3 :Common.DiskRefusal;
  # Why it refuses the node this is told to.
}

struct ClientMessage @0x9ac563c997be39eb {
  union {
    login :group {
      version @0 :UInt32;
      token @1 :Data;
    }
    request @2 :Call;
  }
}

struct ServerMessage @0xcb81e4aa5b652d0e {
  union {
    welcome @0 :Welcome;
    loginFailed @1 :Common.Failure;
    reply @2 :Answer;
  }
}

struct Call @0xc9ffa506f6564479 {
  id @0 :UInt64;
  deadlineMs @1 :UInt32;
  request @2 :Common.Request;
}

struct Answer @0x81568dbb70d1547b {
  id @0 :UInt64;
  union {
    reply @1 :Common.Reply;
    failure @2 :Common.Failure;
  }
}

struct Welcome @0xff549d4a0a3f54a5 {
  # The cluster file as this node has it.
  version @0 :UInt32;
  cluster @1 :Text;
  node @2 :UInt16;
  partitionCount @3 :UInt16;
  replicas @4 :UInt16;
  vnodes @5 :UInt32;
  nodes @6 :List(WelcomeNode);
  valueSizeMax @7 :UInt32;
  # Largest value of a key, in bytes; 0: not said.
}

struct WelcomeNode @0xd49b494a49a83ba6 {
  number @0 :UInt16;
  id @1 :Text;
  capnp @2 :Text;
  zone @3 :Text;
}

struct PeerHello @0xba0b85dc9b405a84 {
  # First frame on a connection between nodes, both ways.
  version @0 :UInt32;
  cluster @1 :Text;
  mapDigest @2 :UInt64;
  node @3 :UInt16;
  incarnation @4 :UInt64;
  bulk @5 :Bool;
  logPosition @6 :UInt64;
  # Everything before this place of its log is durable.
  rejoining @7 :Bool;
  # It knows that it may have forgotten.
}

enum RaftKind @0xc5a0a9530daf927e {
  propose @0;
  append @1;
  appendResponse @2;
  requestVote @3;
  requestVoteResponse @4;
  snapshot @5;
  timeoutNow @6;
  readIndex @7;
  readIndexResponse @8;
  requestPreVote @9;
  requestPreVoteResponse @10;
  transferLeader @11;
  unreachable @12;
  # Not the library's: a replica that may have forgotten asks, and is told term, logTerm and index. context: its nonce.
  rejoinQuestion @13;
  rejoinAnswer @14;
}

struct LogEntry @0xc9085bbd5eca6adb {
  term @0 :UInt64;
  index @1 :UInt64;
  kind @2 :UInt8;
  data @3 :Data;
  context @4 :Data;
}

struct SnapshotMetadata @0xb47599f4818c4d26 {
  index @0 :UInt64;
  term @1 :UInt64;
  voters @2 :List(UInt16);
  learners @3 :List(UInt16);
}

struct RaftMessage @0xd0e3f8cf5b4222eb {
  # A Raft message of one partition; field names are the library's own.
  partition @0 :UInt16;
  kind @1 :RaftKind;
  from @2 :UInt16;
  to @3 :UInt16;
  term @4 :UInt64;
  logTerm @5 :UInt64;
  index @6 :UInt64;
  entries @7 :List(LogEntry);
  commit @8 :UInt64;
  commitTerm @9 :UInt64;
  snapshot @10 :SnapshotMetadata;
  # Null: none.
  requestSnapshot @11 :UInt64;
  reject @12 :Bool;
  rejectHint @13 :UInt64;
  context @14 :Data;
  priority @15 :Int64;
}

struct Heartbeat @0xec6a2783b52562e4 {
  # A heartbeat of one group, or the answer to one.
  partition @0 :UInt16;
  from @1 :UInt16;
  to @2 :UInt16;
  response @3 :Bool;
  term @4 :UInt64;
  commit @5 :UInt64;
  context @6 :Data;
  hashIndex @7 :UInt64;
  # 0: no hash.
  stateHash @8 :UInt64;
}

struct SnapshotChunk @0xdf6a3fbf2ce6fbb4 {
  # Part of a snapshot on its way to a follower.
  partition @0 :UInt16;
  from @1 :UInt16;
  term @2 :UInt64;
  metadata @3 :SnapshotMetadata;
  offset @4 :UInt64;
  data @5 :Data;
  last @6 :Bool;
}

struct SnapshotProgress @0xc9280ff5ee9703bd {
  partition @0 :UInt16;
  index @1 :UInt64;
  nextOffset @2 :UInt64;
  # The follower has everything before this.
  accepted @3 :Bool;
  # False: the follower wants the stream to stop.
}
