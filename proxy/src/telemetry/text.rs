//! The access log as text, for logs that people read: `TIME access direction=inbound
//! client=10.1.0.1:4000 method=GET ...`, the fields of the JSON in their order. Made from its lines
//! by the thread that writes them, so that a request costs the same.

use std::fmt::Write as _;
use std::io::{self, Write};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

/// Takes lines of JSON, in whatever pieces, and passes them on as text.
#[derive(Debug)]
pub struct AsText<W> {
    out: W,
    /// The beginning of a line whose end is not there yet.
    begun: Vec<u8>,
}

impl<W: Write> AsText<W> {
    pub fn new(out: W) -> Self {
        Self {
            out,
            begun: Vec::new(),
        }
    }
}

impl<W: Write> Write for AsText<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let line = text(&self.begun);
                self.begun.clear();
                self.out.write_all(line.as_bytes())?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// What is no JSON goes on as it is.
fn text(line: &[u8]) -> String {
    let Ok(Fields(fields)) = serde_json::from_slice(line) else {
        return String::from_utf8_lossy(line).into_owned();
    };
    let mut text = String::with_capacity(line.len());
    for (name, value) in fields {
        // Strings can be written to.
        let _ = match (name.as_str(), &value) {
            ("time", Value::String(time)) => write!(text, "{time} access"),
            (name, Value::String(value)) if is_plain(value) => write!(text, " {name}={value}"),
            // Quoted and escaped as JSON has it.
            (name, value) => write!(text, " {name}={value}"),
        };
    }
    text.push('\n');
    text
}

fn is_plain(value: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\');
    !value.is_empty() && value.bytes().all(plain)
}

/// An object's fields in their order.
struct Fields(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        from.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_log_keeps_field_order_and_escapes_newlines() {
        let mut out = AsText::new(Vec::new());
        let lines = concat!(
            r#"{"time":"2026-01-01T00:00:00Z","direction":"inbound","path":"/a?b=c","code":200,"error":"a\nb \"c\""}"#,
            "\n",
            r#"{"time":"2026-01-01T00:00:01Z","client":null}"#,
            "\n",
        );
        // In pieces that do not end at line breaks.
        for piece in lines.as_bytes().chunks(7) {
            out.write_all(piece).unwrap();
        }
        assert_eq!(
            String::from_utf8(out.out).unwrap(),
            concat!(
                r#"2026-01-01T00:00:00Z access direction=inbound path="/a?b=c" code=200 error="a\nb \"c\"""#,
                "\n",
                "2026-01-01T00:00:01Z access client=null\n",
            )
        );
    }
}
