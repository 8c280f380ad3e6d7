//! The resources of a container, with the syntax of Kubernetes' quantities.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::InvalidValue;

/// The resources that can be set, by Kubernetes' names.
pub const RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// Quantities by the name of the resource, each of [`RESOURCES`]. Absent resources are not set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub requests: BTreeMap<&'static str, Quantity>,
    pub limits: BTreeMap<&'static str, Quantity>,
}

impl Resources {
    /// Returns these resources, and those of `defaults` that are absent.
    pub fn or(&self, defaults: &Self) -> Self {
        let merged = |own: &BTreeMap<&'static str, Quantity>, defaults: &BTreeMap<_, _>| {
            let mut all = defaults.clone();
            all.extend(own.clone());
            all
        };
        Self {
            requests: merged(&self.requests, &defaults.requests),
            limits: merged(&self.limits, &defaults.limits),
        }
    }

    /// Checks that no limit is below its request, which Kubernetes would reject.
    pub fn check_limits(&self) -> Result<(), LimitBelowRequest> {
        for (name, limit) in &self.limits {
            match self.requests.get(name) {
                Some(request) if limit.nanos < request.nanos => {
                    return Err(LimitBelowRequest {
                        resource: name,
                        limit: limit.clone(),
                        request: request.clone(),
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns the field `resources` of a container without empty maps; `None` if all are empty.
    pub fn render(&self) -> Option<Value> {
        let quantities = |of: &BTreeMap<&'static str, Quantity>| {
            let quantities = of
                .iter()
                .map(|(name, quantity)| ((*name).to_owned(), json!(quantity.text)));
            Value::Object(quantities.collect::<Map<_, _>>())
        };
        let parts = [("requests", &self.requests), ("limits", &self.limits)];
        let parts = parts.into_iter().filter(|(_, of)| !of.is_empty());
        let parts: Map<_, _> = parts
            .map(|(name, of)| (name.to_owned(), quantities(of)))
            .collect();
        (!parts.is_empty()).then_some(Value::Object(parts))
    }
}

/// A limit is below its request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {resource} limit {limit} is below the {resource} request {request}")]
pub struct LimitBelowRequest {
    resource: &'static str,
    limit: Quantity,
    request: Quantity,
}

/// The chart's form: `{"requests":{"cpu":"10m"},"limits":{}}`. Quantities may be numbers; empty
/// ones and `null` are absent.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ResourcesJson {
    requests: Option<BTreeMap<String, Value>>,
    limits: Option<BTreeMap<String, Value>>,
}

#[derive(Debug, thiserror::Error)]
pub enum ResourcesError {
    #[error("not of the form {{\"requests\":{{\"cpu\":\"10m\"}},\"limits\":{{}}}}: {0}")]
    Form(#[from] serde_json::Error),
    #[error("{0:?} cannot be set; cpu, memory and ephemeral-storage can")]
    Unknown(String),
    #[error("{name}: {source}")]
    InvalidQuantity {
        name: &'static str,
        source: InvalidValue,
    },
    #[error(transparent)]
    LimitBelowRequest(#[from] LimitBelowRequest),
}

impl FromStr for Resources {
    type Err = ResourcesError;

    fn from_str(text: &str) -> Result<Self, ResourcesError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let json: Option<ResourcesJson> = serde_json::from_str(text)?;
        let json = json.unwrap_or_default();
        let read = Self {
            requests: quantities(json.requests.unwrap_or_default())?,
            limits: quantities(json.limits.unwrap_or_default())?,
        };
        read.check_limits()?;
        Ok(read)
    }
}

fn quantities(
    of: BTreeMap<String, Value>,
) -> Result<BTreeMap<&'static str, Quantity>, ResourcesError> {
    let mut read = BTreeMap::new();
    for (name, quantity) in of {
        let known = RESOURCES.into_iter().find(|known| *known == name);
        let name = known.ok_or(ResourcesError::Unknown(name))?;
        let text = match quantity {
            Value::Null => continue,
            Value::String(text) if text.is_empty() => continue,
            Value::String(text) => text,
            other => other.to_string(),
        };
        let quantity = text.parse();
        read.insert(
            name,
            quantity.map_err(|source| ResourcesError::InvalidQuantity { name, source })?,
        );
    }
    Ok(read)
}

/// A positive quantity of Kubernetes: digits with at most one decimal point, then optionally a
/// suffix (`n`, `u`, `m`, `k`, `M`, `G`, `T`, `P`, `E`, `Ki` to `Ei`) or an exponent (`e3`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantity {
    text: String,
    /// The value in billionths, rounded up as Kubernetes does.
    nanos: u128,
}

impl Quantity {
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Quantity {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let nanos = (text.len() <= 20).then(|| nanos(text)).flatten();
        match nanos {
            Some(nanos) if nanos > 0 => Ok(Self {
                text: text.to_owned(),
                nanos,
            }),
            _ => Err(InvalidValue::new(text, "a quantity such as 100m or 64Mi")),
        }
    }
}

fn nanos(text: &str) -> Option<u128> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = match number.split_once('.') {
        Some((_, "")) => return None,
        Some(parts) => parts,
        None => (number, ""),
    };
    if whole.is_empty() || fraction.contains('.') {
        return None;
    }
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let below = 10_u128.checked_pow(fraction.len().try_into().ok()?)?;
    let (factor, of) = factor(suffix)?;
    let value = digits.checked_mul(factor)?.checked_mul(1_000_000_000)?;
    Some(value.div_ceil(below.checked_mul(of)?))
}

/// Returns the factor of a suffix as a fraction.
fn factor(suffix: &str) -> Option<(u128, u128)> {
    const DECIMAL: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
    const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    const SMALL: [&str; 3] = ["m", "u", "n"];
    let power = |base: u128, index: usize| base.checked_pow(index.try_into().ok()?);
    let place = |of: &[&str]| of.iter().position(|known| *known == suffix);
    if let Some(index) = place(&DECIMAL) {
        return Some((power(1000, index)?, 1));
    }
    if let Some(index) = place(&BINARY) {
        return Some((power(1024, index + 1)?, 1));
    }
    if let Some(index) = place(&SMALL) {
        return Some((1, power(1000, index + 1)?));
    }
    let exponent: i8 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let size = power(10, exponent.unsigned_abs().into())?;
    match exponent {
        0..=18 => Some((size, 1)),
        -9..0 => Some((1, size)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_parsed() {
        for (good, nanos) in [
            ("1", 1_000_000_000),
            ("100m", 100_000_000),
            ("0.5", 500_000_000),
            ("64Mi", 64 * 1024 * 1024 * 1_000_000_000),
            ("1.5Gi", 1536 * 1024 * 1024 * 1_000_000_000),
            ("2G", 2_000_000_000_000_000_000),
            ("1e3", 1_000_000_000_000),
            ("5e-1", 500_000_000),
            ("100u", 100_000),
            ("1n", 1),
            ("1Ei", (1 << 60) * 1_000_000_000),
        ] {
            let quantity: Quantity = good.parse().unwrap();
            assert_eq!((quantity.as_str(), quantity.nanos), (good, nanos));
        }
        for bad in [
            "",
            "0",
            "0m",
            "-1",
            "nan",
            "inf",
            "1 Gi",
            "64mi",
            ".5",
            "1.",
            "1.2.3",
            "Mi",
            "$(X)",
            "1e",
            "1e99",
            "1e-99",
            "1mm",
            "99999999999999999999E",
        ] {
            assert!(bad.parse::<Quantity>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn empty_values_of_the_chart_are_absent() {
        let read = |text: &str| text.parse::<Resources>();
        let resources = read(
            r#"{"requests":{"cpu":0.5,"memory":""},"limits":{"cpu":null,"ephemeral-storage":"1Gi"}}"#,
        );
        assert_eq!(
            resources.unwrap().render(),
            Some(json!({ "requests": { "cpu": "0.5" }, "limits": { "ephemeral-storage": "1Gi" } }))
        );
        for nothing in ["", "null", "{}", r#"{"requests":null}"#] {
            assert_eq!(read(nothing).unwrap().render(), None);
        }
        for (bad, named) in [
            (r#"{"requests":{"gpu":1}}"#, "gpu"),
            (r#"{"requests":{"cpu":"much"}}"#, "much"),
            (r#"{"claims":[]}"#, "claims"),
            (
                r#"{"requests":{"cpu":"1"},"limits":{"cpu":"999m"}}"#,
                "below",
            ),
        ] {
            let error = read(bad).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn limit_below_its_request_is_rejected_in_any_notation() {
        let check_limits = |request: &str, limit: &str| {
            let one = |quantity: &str| BTreeMap::from([("memory", quantity.parse().unwrap())]);
            let (requests, limits) = (one(request), one(limit));
            Resources { requests, limits }.check_limits()
        };
        assert!(check_limits("64Mi", "64Mi").is_ok());
        assert!(check_limits("64M", "64Mi").is_ok());
        assert!(check_limits("1024Ki", "1Mi").is_ok());
        let error = check_limits("64Mi", "64M").unwrap_err().to_string();
        assert_eq!(
            error,
            "the memory limit 64M is below the memory request 64Mi"
        );
    }
}
