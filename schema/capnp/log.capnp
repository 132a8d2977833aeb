@0xab3b392d96efeeba;
# What one entry of a partition's log holds. These bytes lie on disks for ever: see README.md.

using Common = import "common.capnp";

struct Proposal @0xf703969cf83a3584 {
  time @0 :Int64;
  # Wall clock of the leader in nanoseconds since the Unix epoch, never before the entry it follows.
  id @1 :Common.RequestId;
  # Null for what nodes propose by themselves.
  command @2 :Common.Command;
}
