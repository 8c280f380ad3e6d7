//! Lenient deserialization: a value of the wrong shape is kept as the reason why it could not be
//! read.

use serde::de::{Deserialize, DeserializeOwned, Deserializer};

/// A value, or why it could not be read.
#[derive(Clone, Debug, PartialEq)]
pub enum Lenient<T> {
    Valid(T),
    Unreadable(String),
}

impl<T> Lenient<T> {
    pub fn as_ref(&self) -> Result<&T, &str> {
        match self {
            Self::Valid(value) => Ok(value),
            Self::Unreadable(reason) => Err(reason),
        }
    }
}

impl<T> From<T> for Lenient<T> {
    fn from(value: T) -> Self {
        Self::Valid(value)
    }
}

impl<T: Default> Default for Lenient<T> {
    fn default() -> Self {
        Self::Valid(T::default())
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(from)?;
        Ok(serde_json::from_value(value)
            .map_or_else(|error| Self::Unreadable(error.to_string()), Self::Valid))
    }
}

/// Treats `null` as absent.
pub(super) fn or_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Reads a list that can be `null`. If a custom resource has something other than a list there, the
/// result is one unreadable entry.
pub(super) fn list<'de, D, T>(from: D) -> Result<Vec<Lenient<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let entries = match serde_json::Value::deserialize(from)? {
        serde_json::Value::Null => Vec::new(),
        serde_json::Value::Array(entries) => entries
            .into_iter()
            .map(|entry| match serde_json::from_value(entry) {
                Ok(value) => Lenient::Valid(value),
                Err(error) => Lenient::Unreadable(error.to_string()),
            })
            .collect(),
        other => vec![Lenient::Unreadable(format!(
            "a list is expected, not {other}"
        ))],
    };
    Ok(entries)
}
