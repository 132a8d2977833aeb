//! Answers as JSON, by Cap'n Proto's own mapping straight from the schema.
//!
//! 64-bit integers are strings, `Data` is base64, enumerants are their names. What the schema describes is
//! written by it; the fields that only HTTP has are added beside.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bark_schema::codec;
use bark_schema::generated::common_capnp as wire;
use bark_schema::operation::{Attributes, ClusterStatus, KeyValue};
use capnp::dynamic_value;
use capnp::message::Builder;
use serde_json::{Map, Value};

use crate::problem::Problem;
use crate::schema_json;

/// Fields of an answer.
pub type Object = Map<String, Value>;

pub fn attributes(attributes: &Attributes) -> Result<Object, Problem> {
    let mut message = Builder::new_default();
    codec::write_attributes(attributes, message.init_root());
    object(message.get_root_as_reader::<wire::attributes::Reader<'_>>())
}

/// `value` as base64, `version`, and `expires`: `{"never": null}` or `{"at": "milliseconds"}`.
pub fn key_value(found: &KeyValue) -> Result<Object, Problem> {
    let mut message = Builder::new_default();
    let mut builder: wire::key_value::Builder<'_> = message.init_root();
    builder.set_value(&found.value);
    builder.set_version(found.version);
    let mut expires = builder.init_expires();
    match found.expires {
        None => expires.set_never(()),
        Some(at) => expires.set_at(at),
    }
    object(message.get_root_as_reader::<wire::key_value::Reader<'_>>())
}

pub fn cluster_status(status: &ClusterStatus) -> Result<Object, Problem> {
    let mut message = Builder::new_default();
    codec::write_cluster_status(status, message.init_root());
    object(message.get_root_as_reader::<wire::cluster_status::Reader<'_>>())
}

pub fn respond(status: StatusCode, object: Object) -> Response {
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    (status, content_type, Value::Object(object).to_string()).into_response()
}

fn object<'a>(root: capnp::Result<impl Into<dynamic_value::Reader<'a>>>) -> Result<Object, Problem> {
    let internal = |error: capnp::Error| {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Problem::new(status, "EIO", format!("cannot be written as JSON: {error}"))
    };
    match root.map_err(internal)?.into() {
        dynamic_value::Reader::Struct(root) => schema_json::object(root).map_err(internal),
        _ => Err(internal(capnp::Error::failed("not a struct".into()))),
    }
}

#[cfg(test)]
mod tests {
    use bark_schema::ids::InodeId;
    use bark_schema::operation::FileKind;
    use bark_schema::policy::{Allocate, Policy};
    use serde_json::json;

    use super::*;

    #[test]
    fn attributes_follow_the_schema() {
        // Goal: the mapping of every field is what Cap'n Proto's is. Method: values JSON numbers cannot hold.
        let attributes = Attributes {
            inode: InodeId(u64::MAX),
            kind: FileKind::Symlink,
            mode: 0o644,
            owner: 1,
            group: 2,
            size: 1 << 60,
            link_count: 3,
            accessed: -1,
            modified: i64::MAX,
            changed: 0,
            version: 9,
            device: 0,
            blocks: 8,
            policy: Policy {
                block_size: 65_536,
                replicas: 2,
                allocate: Allocate::LeastUsed,
            },
            xattr_count: 1,
        };
        let expected = json!({
            "inode": "18446744073709551615", "kind": "symlink", "mode": 420, "owner": 1, "group": 2,
            "size": "1152921504606846976", "linkCount": 3, "accessed": "-1",
            "modified": "9223372036854775807", "changed": "0", "version": "9",
            "device": "0", "blocks": "8", "blockSize": 65536, "xattrCount": 1,
            "replicas": 2, "allocate": "leastUsed",
        });
        assert_eq!(Value::Object(super::attributes(&attributes).unwrap()), expected);
    }

    #[test]
    fn values_of_keys_are_base64() {
        // Goal: bytes that are not text survive. Method: such a value, with and without an expiry.
        let mut found = KeyValue {
            value: vec![0xff, 0, 1].into(),
            version: 7,
            expires: None,
        };
        let expected = json!({"value": "/wAB", "version": "7", "expires": {"never": null}});
        assert_eq!(Value::Object(key_value(&found).unwrap()), expected);
        found.expires = Some(1 << 40);
        let expected = json!({"value": "/wAB", "version": "7", "expires": {"at": "1099511627776"}});
        assert_eq!(Value::Object(key_value(&found).unwrap()), expected);
    }
}
