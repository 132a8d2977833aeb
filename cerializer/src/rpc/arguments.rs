//! A message out of JSON, as the schema has it: the other direction of `schema_json`.
//!
//! 64-bit integers are strings (or numbers, where JSON's are exact), `Data` is base64, enumerants are their names or
//! numbers, of a union at most one field may be given. `null` leaves a field at its default, except where the field
//! has no other value. What is left out has the schema's default.
//!
//! Invariants:
//! - What the schema does not know is an error that names its place: `pairs[3].key`.
//! - The message is at most some ten times as large as its JSON; nothing is reserved that was not written out.
//! - Nesting ends at DEPTH_MAX.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use capnp::dynamic_value::{Builder, Enum, Reader};
use capnp::introspect::TypeVariant;
use capnp::message;
use capnp::schema::{EnumSchema, Field};
use capnp::schema_capnp::field;
use capnp::{dynamic_list, dynamic_struct};
use serde_json::{Map, Value};

use super::Method;
use crate::problem::Problem;

/// The schema nests four deep.
const DEPTH_MAX: usize = 16;

/// The parameters of a call as a message.
pub fn message(
    method: &Method,
    arguments: &Map<String, Value>,
) -> Result<message::Builder<message::HeapAllocator>, Problem> {
    let mut message = message::Builder::new_default();
    let root = message.init_root::<capnp::any_pointer::Builder<'_>>();
    match (method.begin)(root) {
        Builder::Struct(parameters) => fill(parameters, arguments, &Place::default())?,
        _ => return Err(Problem::invalid("parameters are a struct")),
    }
    Ok(message)
}

/// Where in the arguments we are, for errors.
#[derive(Clone, Default)]
struct Place {
    text: String,
    depth: usize,
}

impl Place {
    fn field(&self, name: &str) -> Place {
        let separator = if self.text.is_empty() { "" } else { "." };
        self.deeper(format!("{}{separator}{name}", self.text))
    }

    fn element(&self, index: usize) -> Place {
        self.deeper(format!("{}[{index}]", self.text))
    }

    fn deeper(&self, text: String) -> Place {
        Place {
            text,
            depth: self.depth + 1,
        }
    }

    fn wrong(&self, what: &str) -> Problem {
        let field = if self.text.is_empty() {
            "parameters"
        } else {
            &self.text
        };
        Problem::field(field, what)
    }

    fn library(&self, error: capnp::Error) -> Problem {
        self.wrong(&error.to_string())
    }
}

fn fill(
    mut builder: dynamic_struct::Builder<'_>,
    object: &Map<String, Value>,
    place: &Place,
) -> Result<(), Problem> {
    if place.depth > DEPTH_MAX {
        return Err(place.wrong("is nested too deeply"));
    }
    let schema = builder.get_schema();
    let mut chosen: Option<&str> = None;
    for (name, value) in object {
        let place = place.field(name);
        let found = schema.find_field_by_name(name);
        let Some(field) = found.map_err(|error| place.library(error))? else {
            return Err(place.wrong("no such field"));
        };
        if field.get_proto().get_discriminant_value() != field::NO_DISCRIMINANT
            && let Some(other) = chosen.replace(name)
        {
            return Err(place.wrong(&format!(
                "excludes '{other}': one of a union's fields can be given"
            )));
        }
        set(&mut builder, field, value, &place)?;
    }
    Ok(())
}

fn set(
    builder: &mut dynamic_struct::Builder<'_>,
    field: Field,
    value: &Value,
    place: &Place,
) -> Result<(), Problem> {
    let library = |error| place.library(error);
    let kind = field.get_type().which();
    if value.is_null() && !matches!(kind, TypeVariant::Void) {
        return Ok(());
    }
    match kind {
        TypeVariant::Struct(_) => {
            let Value::Object(object) = value else {
                return Err(place.wrong("must be an object"));
            };
            match builder.reborrow().init(field).map_err(library)? {
                Builder::Struct(inner) => fill(inner, object, place),
                _ => Err(place.wrong("is no struct")),
            }
        }
        TypeVariant::List(_) => {
            let (items, count) = items(value, place)?;
            match builder.reborrow().initn(field, count).map_err(library)? {
                Builder::List(list) => fill_list(list, items, place),
                _ => Err(place.wrong("is no list")),
            }
        }
        kind => leaf(kind, value, place, |value| builder.set(field, value)),
    }
}

fn items<'a>(value: &'a Value, place: &Place) -> Result<(&'a [Value], u32), Problem> {
    let Value::Array(items) = value else {
        return Err(place.wrong("must be an array"));
    };
    let count = u32::try_from(items.len()).map_err(|_| place.wrong("has too many elements"))?;
    Ok((items, count))
}

fn fill_list(mut list: dynamic_list::Builder<'_>, items: &[Value], place: &Place) -> Result<(), Problem> {
    let kind = list.element_type().which();
    for ((number, index), item) in (0_u32..).zip(0..).zip(items) {
        let place = place.element(index);
        let library = |error| place.library(error);
        match kind {
            TypeVariant::Struct(_) => {
                let Value::Object(object) = item else {
                    return Err(place.wrong("must be an object"));
                };
                match list.reborrow().get(number).map_err(library)? {
                    Builder::Struct(inner) => fill(inner, object, &place)?,
                    _ => return Err(place.wrong("is no struct")),
                }
            }
            TypeVariant::List(_) => {
                let (items, count) = self::items(item, &place)?;
                match list.reborrow().init(number, count).map_err(library)? {
                    Builder::List(inner) if place.depth <= DEPTH_MAX => fill_list(inner, items, &place)?,
                    _ => return Err(place.wrong("is nested too deeply")),
                }
            }
            kind => leaf(kind, item, &place, |value| list.set(number, value))?,
        }
    }
    Ok(())
}

/// A value that is not made of others.
fn leaf(
    kind: TypeVariant,
    value: &Value,
    place: &Place,
    set: impl FnOnce(Reader<'_>) -> capnp::Result<()>,
) -> Result<(), Problem> {
    let done = |result: capnp::Result<()>| result.map_err(|error| place.library(error));
    match kind {
        TypeVariant::Void => match value {
            Value::Null => done(set(Reader::Void)),
            _ => Err(place.wrong("must be null")),
        },
        TypeVariant::Bool => match value {
            Value::Bool(value) => done(set(Reader::Bool(*value))),
            _ => Err(place.wrong("must be true or false")),
        },
        TypeVariant::Int8 => done(set(Reader::Int8(integer(value, place)?))),
        TypeVariant::Int16 => done(set(Reader::Int16(integer(value, place)?))),
        TypeVariant::Int32 => done(set(Reader::Int32(integer(value, place)?))),
        TypeVariant::Int64 => done(set(Reader::Int64(integer(value, place)?))),
        TypeVariant::UInt8 => done(set(Reader::UInt8(integer(value, place)?))),
        TypeVariant::UInt16 => done(set(Reader::UInt16(integer(value, place)?))),
        TypeVariant::UInt32 => done(set(Reader::UInt32(integer(value, place)?))),
        TypeVariant::UInt64 => done(set(Reader::UInt64(integer(value, place)?))),
        TypeVariant::Float32 => done(set(Reader::Float32(float(value, place)? as f32))),
        TypeVariant::Float64 => done(set(Reader::Float64(float(value, place)?))),
        TypeVariant::Enum(raw) => done(set(Reader::Enum(enumerant(raw.into(), value, place)?))),
        TypeVariant::Text => match value {
            Value::String(text) => done(set(Reader::Text(text.as_str().into()))),
            _ => Err(place.wrong("must be a string")),
        },
        TypeVariant::Data => {
            let decoded = match value {
                Value::String(text) => STANDARD.decode(text).ok(),
                _ => None,
            };
            match decoded {
                Some(bytes) => done(set(Reader::Data(&bytes))),
                None => Err(place.wrong("must be a string of base64, which is what bytes are in JSON")),
            }
        }
        TypeVariant::AnyPointer | TypeVariant::Capability => Err(place.wrong("a reference has no JSON")),
        TypeVariant::Struct(_) | TypeVariant::List(_) => Err(place.wrong("is made of others")),
    }
}

/// A whole number that fits, as a number or in a string.
fn integer<T: TryFrom<i128>>(value: &Value, place: &Place) -> Result<T, Problem> {
    let number = match value {
        Value::Number(number) => number
            .as_i64()
            .map(i128::from)
            .or_else(|| number.as_u64().map(i128::from)),
        Value::String(text) => text.parse::<i128>().ok(),
        _ => None,
    };
    number.and_then(|number| T::try_from(number).ok()).ok_or_else(|| {
        let bits = 8 * size_of::<T>();
        place.wrong(&format!(
            "must be a whole number of {bits} bits, or a string of one"
        ))
    })
}

/// JSON has no infinities; they are written as their names.
fn float(value: &Value, place: &Place) -> Result<f64, Problem> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    };
    number.ok_or_else(|| place.wrong("must be a number"))
}

fn enumerant(schema: EnumSchema, value: &Value, place: &Place) -> Result<Enum, Problem> {
    let enumerants = schema.get_enumerants().map_err(|error| place.library(error))?;
    let mut names = Vec::new();
    for enumerant in enumerants {
        let proto = enumerant.get_proto();
        let name = proto.get_name().ok().and_then(|name| name.to_str().ok());
        let name = name.unwrap_or_default();
        let ordinal = enumerant.get_ordinal();
        if value.as_str() == Some(name) || value.as_u64() == Some(u64::from(ordinal)) {
            return Ok(Enum::new(ordinal, schema));
        }
        names.push(name);
    }
    Err(place.wrong(&format!("must be one of {}", names.join(", "))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rpc::Interface;
    use crate::schema_json;

    fn method(interface: &str, method: &str) -> &'static Method {
        let interface = Interface::find(interface).expect("an interface");
        interface.method(method).expect("a method").1
    }

    /// The message read back as JSON.
    fn round_trip(interface: &str, name: &str, arguments: Value) -> Value {
        let method = method(interface, name);
        let message = message(method, arguments.as_object().unwrap()).expect("a message");
        let root = message.get_root_as_reader::<capnp::any_pointer::Reader<'_>>();
        // Parameters are read by the same types as they are written.
        let mut copy = message::Builder::new_default();
        copy.set_root(root.unwrap()).unwrap();
        let root = copy.get_root::<capnp::any_pointer::Builder<'_>>().unwrap();
        match (method.parameters)().which() {
            TypeVariant::Struct(_) => {}
            other => panic!("{other:?}"),
        }
        match (method.again)(root).unwrap() {
            Reader::Struct(reader) => Value::Object(schema_json::object(reader).unwrap()),
            _ => panic!("no struct"),
        }
    }

    fn refused(interface: &str, name: &str, arguments: &Value) -> String {
        match message(method(interface, name), arguments.as_object().unwrap()) {
            Ok(_) => panic!("accepted: {arguments}"),
            Err(problem) => problem.detail().to_string(),
        }
    }

    #[test]
    fn arguments_become_what_the_schema_says() {
        // Goal: every kind of field. Method: JSON to a message and back to JSON, with what is left out filled in.
        let set = json!({"key": "aw==", "value": "/wAB", "ttlMs": "18446744073709551615",
            "condition": {"ifVersion": "9007199254740993"}, "returnPrevious": true});
        assert_eq!(round_trip("KeyValue", "set", set.clone()), set);
        let pairs = json!({"pairs": [{"key": "YQ==", "value": "Yg=="}, {"key": "Yw==", "value": ""}]});
        assert_eq!(round_trip("KeyValue", "setMany", pairs.clone()), pairs);
        let keys = json!({"keys": ["YQ==", "Yg=="]});
        assert_eq!(round_trip("KeyValue", "delete", keys.clone()), keys);
        assert_eq!(
            round_trip("KeyValue", "increment", json!({"key": "bg==", "by": -5})),
            json!({"key": "bg==", "by": "-5"})
        );
        assert_eq!(
            round_trip("KeyValue", "increment", json!({"by": null})),
            json!({"by": "1"}),
            "null is the default"
        );
        assert_eq!(
            round_trip("KeyValue", "set", json!({"condition": {"ifAbsent": null}}))["condition"],
            json!({"ifAbsent": null})
        );
        let target = json!({"target": {"path": "L2E="}});
        assert_eq!(round_trip("Admin", "locate", target.clone()), target);
        assert_eq!(
            round_trip("Node", "makeDirectory", json!({"entryName": "YQ=="})),
            json!({"entryName": "YQ==", "mode": 0o755})
        );
    }

    #[test]
    fn what_does_not_fit_is_refused_by_place() {
        // Goal: nothing is guessed or cut. Method: a table of wrong arguments and what the answer must name.
        for (interface, name, arguments, expected) in [
            ("KeyValue", "get", json!({"kye": "YQ=="}), "kye"),
            ("KeyValue", "get", json!({"key": "not base64!"}), "key"),
            ("KeyValue", "get", json!({"key": 5}), "base64"),
            ("KeyValue", "get", json!({"key": ["YQ=="]}), "key"),
            (
                "KeyValue",
                "set",
                json!({"ttlMs": "18446744073709551616"}),
                "64 bits",
            ),
            ("KeyValue", "set", json!({"ttlMs": -1}), "ttlMs"),
            ("KeyValue", "set", json!({"ttlMs": 1.5}), "ttlMs"),
            ("KeyValue", "set", json!({"ttlMs": 1e30}), "ttlMs"),
            ("KeyValue", "set", json!({"ttlMs": true}), "ttlMs"),
            (
                "KeyValue",
                "set",
                json!({"returnPrevious": "true"}),
                "returnPrevious",
            ),
            ("KeyValue", "set", json!({"condition": "always"}), "condition"),
            (
                "KeyValue",
                "set",
                json!({"condition": {"always": 1}}),
                "condition.always",
            ),
            (
                "KeyValue",
                "set",
                json!({"condition": {"ifAbsent": null, "ifPresent": null}}),
                "excludes",
            ),
            (
                "KeyValue",
                "setMany",
                json!({"pairs": [{}, {"key": 1}]}),
                "pairs[1].key",
            ),
            ("KeyValue", "setMany", json!({"pairs": {}}), "array"),
            ("KeyValue", "setMany", json!({"pairs": [[]]}), "pairs[0]"),
            (
                "KeyValue",
                "increment",
                json!({"by": "9223372036854775808"}),
                "by",
            ),
            ("KeyValue", "scan", json!({"limit": 4294967296_u64}), "32 bits"),
            ("Node", "rename", json!({"toDirectory": "L2E="}), "toDirectory"),
        ] {
            let detail = refused(interface, name, &arguments);
            assert!(detail.contains(expected), "{arguments}: {detail}");
        }
    }
}
