//! Any message of the schema as JSON, by Cap'n Proto's own mapping.
//!
//! 64-bit integers are strings, `Data` is base64, enumerants are their names, a union is the field that is
//! set, an absent pointer is an absent field. Capabilities are left out: there is no JSON of them. The `capnp-json` crate does the same, but compiles a schema with
//! the capnp tool and its headers wherever it is built; the direction needed here is these few lines.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use capnp::dynamic_value::{Enum, Reader};
use capnp::introspect::TypeVariant;
use capnp::{dynamic_list, dynamic_struct};
use serde_json::{Map, Number, Value};

/// The fields of a struct.
pub fn object(reader: dynamic_struct::Reader<'_>) -> capnp::Result<Map<String, Value>> {
    let mut object = Map::new();
    let schema = reader.get_schema();
    for field in schema.get_non_union_fields()?.iter().chain(reader.which()?) {
        let reference = matches!(field.get_type().which(), TypeVariant::Capability);
        if !reference && reader.has(field)? {
            let name = field.get_proto().get_name()?.to_str()?;
            object.insert(name.into(), value(reader.get(field)?)?);
        }
    }
    Ok(object)
}

fn value(reader: Reader<'_>) -> capnp::Result<Value> {
    Ok(match reader {
        Reader::Void => Value::Null,
        Reader::Bool(value) => value.into(),
        Reader::Int8(value) => value.into(),
        Reader::Int16(value) => value.into(),
        Reader::Int32(value) => value.into(),
        Reader::Int64(value) => value.to_string().into(),
        Reader::UInt8(value) => value.into(),
        Reader::UInt16(value) => value.into(),
        Reader::UInt32(value) => value.into(),
        Reader::UInt64(value) => value.to_string().into(),
        Reader::Float32(value) => float(value.into()),
        Reader::Float64(value) => float(value),
        Reader::Enum(value) => enumerant(value)?,
        Reader::Text(text) => text.to_str()?.into(),
        Reader::Data(bytes) => STANDARD.encode(bytes).into(),
        Reader::Struct(reader) => Value::Object(object(reader)?),
        Reader::List(list) => Value::Array(elements(list)?),
        Reader::AnyPointer(_) | Reader::Capability(_) => {
            return Err(capnp::Error::unimplemented("a reference has no JSON".into()));
        }
    })
}

fn elements(list: dynamic_list::Reader<'_>) -> capnp::Result<Vec<Value>> {
    list.iter().map(|element| value(element?)).collect()
}

/// JSON has no infinities; they are written as their names.
fn float(value: f64) -> Value {
    match Number::from_f64(value) {
        Some(number) => Value::Number(number),
        None if value.is_nan() => "NaN".into(),
        None if value > 0.0 => "Infinity".into(),
        None => "-Infinity".into(),
    }
}

/// Its name; its number where this program does not know it.
fn enumerant(value: Enum) -> capnp::Result<Value> {
    match value.get_enumerant()? {
        Some(enumerant) => Ok(enumerant.get_proto().get_name()?.to_str()?.into()),
        None => Ok(value.get_value().into()),
    }
}
