//! The interfaces clients hold and their methods, with the types the schema gives them.
//!
//! The generated code knows the types of parameters and results, but no list of an interface's methods: that is here,
//! in the order of their numbers, and a test compares it with `client.capnp`.

use bark_schema::generated::client_capnp::{admin, bark, file, file_system, key_value, node, session};
use capnp::introspect::{Introspect, TypeVariant};
use capnp::schema::StructSchema;
use capnp::traits::HasTypeId;
use capnp::{any_pointer, dynamic_value};

/// What a method is called on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Only by programs that hold capabilities.
    Nothing,
    /// The session's own object.
    FileSystem,
    KeyValue,
    Admin,
    /// What `?path=` names.
    Node,
    File,
}

#[derive(Debug)]
pub struct Interface {
    pub name: &'static str,
    pub id: u64,
    pub target: Target,
    /// By number.
    pub methods: &'static [Method],
}

pub struct Method {
    pub name: &'static str,
    pub parameters: fn() -> capnp::introspect::Type,
    pub results: fn() -> capnp::introspect::Type,
    /// The parameters of a call, as what can be filled in.
    pub begin: for<'a> fn(any_pointer::Builder<'a>) -> dynamic_value::Builder<'a>,
    /// Parameters that were filled in, read again.
    #[cfg(test)]
    pub again: for<'a> fn(any_pointer::Builder<'a>) -> capnp::Result<dynamic_value::Reader<'a>>,
    /// The results of a call.
    pub read: for<'a> fn(any_pointer::Reader<'a>) -> capnp::Result<dynamic_value::Reader<'a>>,
}

impl std::fmt::Debug for Method {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name)
    }
}

impl Interface {
    pub fn find(name: &str) -> Option<&'static Interface> {
        INTERFACES.iter().find(|interface| interface.name == name)
    }

    /// The method and its number.
    pub fn method(&'static self, name: &str) -> Option<(u16, &'static Method)> {
        (0..).zip(self.methods).find(|(_, method)| method.name == name)
    }
}

impl Method {
    /// The first parameter that is a capability.
    pub fn capability_asked(&self) -> Option<String> {
        capabilities(schema(self.parameters)).into_iter().next()
    }

    /// Whether capabilities are all it answers: there is no JSON of that.
    pub fn answers_capabilities_only(&self) -> bool {
        let schema = schema(self.results);
        let count = schema
            .and_then(|schema| schema.get_fields().ok())
            .map_or(0, |fields| fields.len());
        count > 0 && capabilities(schema).len() == usize::from(count)
    }
}

fn schema(described: fn() -> capnp::introspect::Type) -> Option<StructSchema> {
    match described().which() {
        TypeVariant::Struct(raw) => Some(raw.into()),
        _ => None,
    }
}

fn capabilities(schema: Option<StructSchema>) -> Vec<String> {
    let fields = schema.and_then(|schema| schema.get_fields().ok());
    let capabilities = fields
        .into_iter()
        .flatten()
        .filter(|field| matches!(field.get_type().which(), TypeVariant::Capability));
    capabilities
        .filter_map(|field| Some(field.get_proto().get_name().ok()?.to_str().ok()?.to_string()))
        .collect()
}

macro_rules! method {
    ($name:literal, $parameters:path, $results:path) => {{
        use $parameters as parameters;
        use $results as results;
        Method {
            name: $name,
            parameters: <parameters::Owned as Introspect>::introspect,
            results: <results::Owned as Introspect>::introspect,
            begin: |any| any.init_as::<parameters::Builder<'_>>().into(),
            #[cfg(test)]
            again: |any| {
                any.into_reader()
                    .get_as::<parameters::Reader<'_>>()
                    .map(Into::into)
            },
            read: |any| any.get_as::<results::Reader<'_>>().map(Into::into),
        }
    }};
}

macro_rules! interface {
    ($name:literal, $module:ident, $target:ident, [$($method:literal $parameters:ident $results:ident),+ $(,)?]) => {
        Interface {
            name: $name,
            id: <$module::Client as HasTypeId>::TYPE_ID,
            target: Target::$target,
            methods: &[$(method!($method, $module::$parameters, $module::$results)),+],
        }
    };
}

pub static INTERFACES: [Interface; 7] = [
    interface!("Bark", bark, Nothing, ["login" login_params login_results]),
    interface!("Session", session, Nothing, [
        "fileSystem" file_system_params file_system_results,
        "keyValue" key_value_params key_value_results,
        "admin" admin_params admin_results,
        "restrict" restrict_params restrict_results,
    ]),
    interface!("FileSystem", file_system, FileSystem, [
        "root" root_params root_results,
        "walk" walk_params walk_results,
        "statistics" statistics_params statistics_results,
    ]),
    interface!("Node", node, Node, [
        "stat" stat_params stat_results,
        "walk" walk_params walk_results,
        "open" open_params open_results,
        "list" list_params list_results,
        "makeDirectory" make_directory_params make_directory_results,
        "create" create_params create_results,
        "remove" remove_params remove_results,
        "rename" rename_params rename_results,
        "link" link_params link_results,
        "symlink" symlink_params symlink_results,
        "readLink" read_link_params read_link_results,
        "setAttributes" set_attributes_params set_attributes_results,
    ]),
    Interface {
        name: "File",
        id: <file::Client as HasTypeId>::TYPE_ID,
        target: Target::File,
        methods: &[
            method!("read", file::read_params, file::read_results),
            method!("write", file::write_params, file::write_results),
            method!("append", file::append_params, file::append_results),
            method!("truncate", file::truncate_params, file::truncate_results),
            method!("size", file::size_params, file::size_results),
            method!(
                "writeStream",
                file::write_stream_params,
                // A stream answers an empty struct, as `sync` does.
                file::sync_results
            ),
            method!("done", file::done_params, file::done_results),
            method!("sync", file::sync_params, file::sync_results),
        ],
    },
    interface!("KeyValue", key_value, KeyValue, [
        "get" get_params get_results,
        "set" set_params set_results,
        "delete" delete_params delete_results,
        "exists" exists_params exists_results,
        "increment" increment_params increment_results,
        "getMany" get_many_params get_many_results,
        "setMany" set_many_params set_many_results,
        "scan" scan_params scan_results,
    ]),
    interface!("Admin", admin, Admin, [
        "status" status_params status_results,
        "nodes" nodes_params nodes_results,
        "partitions" partitions_params partitions_results,
        "locate" locate_params locate_results,
        "drain" drain_params drain_results,
        "replace" replace_params replace_results,
        "scrub" scrub_params scrub_results,
        "orphans" orphans_params orphans_results,
    ]),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Interfaces with their ids and the names of their methods by number, as the schema file has them.
    fn in_the_schema() -> Vec<(String, u64, Vec<String>)> {
        let mut interfaces: Vec<(String, u64, Vec<String>)> = Vec::new();
        for line in include_str!("../../../schema/capnp/client.capnp").lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["interface", name, id, ..] => {
                    let id = u64::from_str_radix(id.trim_start_matches("@0x"), 16).unwrap();
                    interfaces.push((name.to_string(), id, Vec::new()));
                }
                [name, number, next, ..] if number.starts_with('@') && next.starts_with('(') => {
                    let (.., methods) = interfaces.last_mut().unwrap();
                    assert_eq!(number[1..].parse::<usize>().unwrap(), methods.len(), "{name}");
                    methods.push(name.to_string());
                }
                _ => {}
            }
        }
        interfaces
    }

    #[test]
    fn the_table_is_what_the_schema_says() {
        // Goal: a new method is not forgotten, none has a wrong number. Method: read the schema file itself.
        let table: Vec<(String, u64, Vec<String>)> = INTERFACES
            .iter()
            .map(|interface| {
                let methods = interface.methods.iter().map(|method| method.name.to_string());
                (interface.name.to_string(), interface.id, methods.collect())
            })
            .collect();
        assert_eq!(table, in_the_schema());
    }

    #[test]
    fn methods_that_trade_in_capabilities_are_known() {
        // Goal: they are refused before anything happens. Method: every one of them.
        let mut asking = Vec::new();
        let mut answering = Vec::new();
        for interface in &INTERFACES {
            for method in interface.methods {
                if method.capability_asked().is_some() {
                    asking.push(format!("{}.{method:?}", interface.name));
                }
                if method.answers_capabilities_only() {
                    answering.push(format!("{}.{method:?}", interface.name));
                }
            }
        }
        assert_eq!(asking, ["Node.rename", "Node.link"]);
        let expected = [
            "Bark.login",
            "Session.fileSystem",
            "Session.keyValue",
            "Session.admin",
            "Session.restrict",
            "FileSystem.root",
            "FileSystem.walk",
            "Node.walk",
            "Node.open",
        ];
        assert_eq!(answering, expected);
    }
}
