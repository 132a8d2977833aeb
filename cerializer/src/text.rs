//! Names between bytes, URLs and JSON.
//!
//! Names and keys are bytes. In a URL they are percent-encoded. In JSON they are themselves where they are
//! UTF-8; otherwise they are percent-encoded and a field beside them, `nameEncoding` for `name`, says
//! `"percent"`. The same pair is understood in requests.
//!
//! Invariant: what was encoded decodes to the same bytes.

use std::fmt::Write;

use serde_json::{Map, Value};

use crate::problem::Problem;

/// Percent-decodes. Errors: EINVAL for a `%` without two hexadecimal digits behind it.
pub fn decode(text: &str) -> Result<Vec<u8>, Problem> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
        match (digit(), digit()) {
            (Some(high), Some(low)) => decoded.push((high << 4 | low) as u8),
            _ => {
                return Err(Problem::invalid(format!(
                    "'{text}' has a '%' without two hexadecimal digits"
                )));
            }
        }
    }
    Ok(decoded)
}

/// Percent-encodes everything but unreserved characters and, where it is to separate, the slash.
pub fn encode(bytes: &[u8], keep_slash: bool) -> String {
    let mut encoded = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte))
            }
            b'/' if keep_slash => encoded.push('/'),
            _ => {
                // Writing to a string does not fail.
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

/// Puts bytes into a JSON object as text.
pub fn insert(object: &mut Map<String, Value>, field: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            object.insert(field.into(), text.into());
        }
        Err(_) => {
            object.insert(field.into(), encode(bytes, field != "key").into());
            object.insert(format!("{field}Encoding"), "percent".into());
        }
    }
}

/// Takes bytes out of a JSON object, where they are text as [`insert`] writes it.
pub fn take(object: &mut Map<String, Value>, field: &str) -> Result<Option<Vec<u8>>, Problem> {
    let Some(value) = object.remove(field) else {
        return Ok(None);
    };
    let Value::String(text) = value else {
        return Err(Problem::field(field, "must be a string"));
    };
    match object.remove(&format!("{field}Encoding")) {
        None => Ok(Some(text.into_bytes())),
        Some(Value::String(encoding)) if encoding == "percent" => decode(&text).map(Some),
        Some(_) => Err(Problem::field(
            format!("{field}Encoding"),
            "can only be \"percent\"",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_survive_urls_and_json() {
        // Goal: no name is out of reach. Method: all bytes, through both encodings and back.
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&all, false)).unwrap(), all);
        assert_eq!(decode(&encode(&all, true)).unwrap(), all);
        for bytes in [all.as_slice(), b"plain", "ü%41".as_bytes()] {
            let mut object = Map::new();
            insert(&mut object, "name", bytes);
            assert_eq!(take(&mut object, "name").unwrap().unwrap(), bytes);
            assert!(object.is_empty());
        }
    }

    #[test]
    fn broken_escapes_are_refused() {
        // Goal: nothing is guessed. Method: every way to break off.
        for text in ["%", "%4", "a%zz", "%+1", "%4%41"] {
            assert!(decode(text).is_err(), "{text}");
        }
    }
}
