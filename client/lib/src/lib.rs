//! The client of a BarkFS cluster: sessions, routing, keys and files.
//!
//! [`Client`] is where programs start: [`Client::keys`] and [`Client::files`] are the two faces of a cluster.
//! Below them `session` decides what is sent where and when it is repeated, `connection` carries it,
//! `router` knows the ring.
//!
//! ```no_run
//! use bark_client::{Client, ClientConfig, Source};
//!
//! # async fn example() -> Result<(), bark_client::Error> {
//! let nodes = Source::Nodes(vec!["127.0.0.1:7111".into()]);
//! let client = Client::connect(ClientConfig::new(nodes)).await?;
//! client.keys().put(b"greeting", "hello").await?;
//! client.files().write(&"/hello.txt".parse()?, "hello".into()).await?;
//! # Ok(())
//! # }
//! ```

mod client;
mod connection;
pub mod doctor;
pub mod error;
pub mod files;
pub mod keys;
pub mod path;
mod placing;
mod router;
pub mod session;
mod trace;
mod upkeep;

pub use client::{Client, ClientConfig, OrderedChange, OrderedEnd, Source};
pub use error::Error;
pub use path::ClusterPath;
pub use trace::TracedCall;
