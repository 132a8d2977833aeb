//! `bark xattr get|set|list|remove`: extended attributes, links followed.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use bark_client::Client;
use bark_schema::operation::Xattr as Attribute;
use bytes::Bytes;
use clap::{Args, Subcommand};
use serde_json::json;

use super::cluster_path;
use crate::output::Output;
use crate::problem::Problem;

/// Access control lists, in `system.`, are not plain bytes and are set through a mount.
const NAMESPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];

#[derive(Debug, Subcommand)]
pub enum Xattr {
    /// Show the value of an attribute.
    Get(Named),
    /// Set an attribute.
    Set(Set),
    /// Show the names of all attributes.
    List(List),
    /// Remove an attribute.
    Remove(Named),
}

#[derive(Debug, Args)]
pub struct Named {
    path: OsString,
    /// With its namespace, like user.comment.
    name: OsString,
}

#[derive(Debug, Args)]
pub struct Set {
    path: OsString,
    /// With its namespace, like user.comment.
    name: OsString,
    value: OsString,
}

#[derive(Debug, Args)]
pub struct List {
    path: OsString,
}

impl Xattr {
    /// The verb's name in error messages.
    pub fn name(&self) -> &'static str {
        match self {
            Xattr::Get(_) => "xattr get",
            Xattr::Set(_) => "xattr set",
            Xattr::List(_) => "xattr list",
            Xattr::Remove(_) => "xattr remove",
        }
    }

    pub async fn run(self, client: &Client, output: &mut Output) -> Result<(), Problem> {
        let files = client.files();
        match self {
            Xattr::Get(Named { path, name }) => {
                let value = files.xattr(&cluster_path(&path)?, bytes(&name)).await?;
                output.bytes(&value)?;
                output.bytes(b"\n")?;
                let (name, value) = (name.to_string_lossy(), String::from_utf8_lossy(&value));
                output.value(json!({ name: value }))
            }
            Xattr::Set(Set { path, name, value }) => {
                let path = cluster_path(&path)?;
                if !NAMESPACES
                    .iter()
                    .any(|namespace| name.as_bytes().starts_with(namespace))
                {
                    let sentence = "Operation not supported: names begin with user., trusted. or security.";
                    return Err(Problem::failed(name.to_string_lossy(), sentence));
                }
                let attribute = Attribute {
                    name: bytes(&name),
                    value: bytes(&value),
                };
                files.set_xattr(&path, attribute).await?;
                output.value(json!({ "path": path.to_string(), "name": name.to_string_lossy() }))
            }
            Xattr::List(List { path }) => {
                output.begin_array();
                for name in files.xattr_names(&cluster_path(&path)?).await? {
                    output.element(json!(String::from_utf8_lossy(&name)))?;
                    output.bytes(&name)?;
                    output.bytes(b"\n")?;
                }
                Ok(())
            }
            Xattr::Remove(Named { path, name }) => {
                let path = cluster_path(&path)?;
                files.remove_xattr(&path, bytes(&name)).await?;
                output.value(json!({ "path": path.to_string(), "name": name.to_string_lossy() }))
            }
        }
    }
}

fn bytes(text: &OsStr) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
