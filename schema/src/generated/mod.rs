//! What the schema files in `capnp/` generate; never edited, see `scripts/generate`.

#![allow(
    clippy::all,
    clippy::pedantic,
    clippy::unimplemented,
    clippy::undocumented_unsafe_blocks,
    unsafe_code,
    rust_2018_idioms,
    unused_qualifications,
    elided_lifetimes_in_paths
)]

#[rustfmt::skip]
pub mod client_capnp;
#[rustfmt::skip]
pub mod common_capnp;
#[rustfmt::skip]
pub mod log_capnp;
#[rustfmt::skip]
pub mod peer_capnp;
