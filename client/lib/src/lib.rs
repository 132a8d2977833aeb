//! The client of a BarkFS cluster: sessions, routing, keys and files.

pub mod session;
