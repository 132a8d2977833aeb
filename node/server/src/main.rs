//! `bark-node`: one member of a BarkFS cluster.

fn main() {}
