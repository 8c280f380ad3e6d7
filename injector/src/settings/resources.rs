//! What a container asks for, as Kubernetes writes it, and whether it fits together.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Unfit;

/// The resources that can be set, by Kubernetes' names.
pub const RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// Amounts by the name of the resource, each of [`RESOURCES`]. What is absent is not asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub requests: BTreeMap<&'static str, Quantity>,
    pub limits: BTreeMap<&'static str, Quantity>,
}

impl Resources {
    /// These, and what `wider` has beside them.
    pub fn or(&self, wider: &Self) -> Self {
        let merged = |own: &BTreeMap<&'static str, Quantity>, wider: &BTreeMap<_, _>| {
            let mut all = wider.clone();
            all.extend(own.clone());
            all
        };
        Self {
            requests: merged(&self.requests, &wider.requests),
            limits: merged(&self.limits, &wider.limits),
        }
    }

    /// Errors where Kubernetes would refuse the container: a limit is below its request.
    pub fn fit(&self) -> Result<(), Misfit> {
        for (name, limit) in &self.limits {
            match self.requests.get(name) {
                Some(request) if limit.nanos < request.nanos => {
                    return Err(Misfit {
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

    /// As a container has them, without what is empty; `None` when all is.
    pub fn render(&self) -> Option<Value> {
        let amounts = |of: &BTreeMap<&'static str, Quantity>| {
            let amounts = of
                .iter()
                .map(|(name, amount)| ((*name).to_owned(), json!(amount.text)));
            Value::Object(amounts.collect::<Map<_, _>>())
        };
        let parts = [("requests", &self.requests), ("limits", &self.limits)];
        let parts = parts.into_iter().filter(|(_, of)| !of.is_empty());
        let parts: Map<_, _> = parts
            .map(|(name, of)| (name.to_owned(), amounts(of)))
            .collect();
        (!parts.is_empty()).then_some(Value::Object(parts))
    }
}

/// A limit is below its request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {resource} limit {limit} is below the {resource} request {request}")]
pub struct Misfit {
    resource: &'static str,
    limit: Quantity,
    request: Quantity,
}

/// As the chart gives them: `{"requests":{"cpu":"10m"},"limits":{}}`. Amounts may be numbers; empty ones and `null` are absent.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Written {
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
    Amount { name: &'static str, source: Unfit },
    #[error(transparent)]
    Misfit(#[from] Misfit),
}

impl FromStr for Resources {
    type Err = ResourcesError;

    fn from_str(text: &str) -> Result<Self, ResourcesError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let written: Option<Written> = serde_json::from_str(text)?;
        let written = written.unwrap_or_default();
        let read = Self {
            requests: amounts(written.requests.unwrap_or_default())?,
            limits: amounts(written.limits.unwrap_or_default())?,
        };
        read.fit()?;
        Ok(read)
    }
}

fn amounts(
    of: BTreeMap<String, Value>,
) -> Result<BTreeMap<&'static str, Quantity>, ResourcesError> {
    let mut read = BTreeMap::new();
    for (name, amount) in of {
        let known = RESOURCES.into_iter().find(|known| *known == name);
        let name = known.ok_or(ResourcesError::Unknown(name))?;
        let text = match amount {
            Value::Null => continue,
            Value::String(text) if text.is_empty() => continue,
            Value::String(text) => text,
            other => other.to_string(),
        };
        let amount = text.parse();
        read.insert(
            name,
            amount.map_err(|source| ResourcesError::Amount { name, source })?,
        );
    }
    Ok(read)
}

/// A positive amount as Kubernetes writes it: digits with at most one point, then a suffix (`n`, `u`, `m`, `k`, `M`, `G`, `T`,
/// `P`, `E`, `Ki` to `Ei`) or an exponent (`e3`), or neither.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantity {
    text: String,
    /// What it comes to, in billionths, rounded up as Kubernetes does.
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
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let nanos = (text.len() <= 20).then(|| nanos(text)).flatten();
        match nanos {
            Some(nanos) if nanos > 0 => Ok(Self {
                text: text.to_owned(),
                nanos,
            }),
            _ => Err(Unfit::new(text, "an amount such as 100m or 64Mi")),
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

/// What a suffix multiplies by, as a fraction.
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
    fn amounts_as_kubernetes_writes_them() {
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
            assert!(bad.parse::<Quantity>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn what_the_chart_gives_is_read_without_what_is_empty() {
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
    fn a_limit_is_not_below_its_request_in_whatever_way_both_are_written() {
        let fit = |request: &str, limit: &str| {
            let one = |amount: &str| BTreeMap::from([("memory", amount.parse().unwrap())]);
            let (requests, limits) = (one(request), one(limit));
            Resources { requests, limits }.fit()
        };
        assert!(fit("64Mi", "64Mi").is_ok());
        assert!(fit("64M", "64Mi").is_ok());
        assert!(fit("1024Ki", "1Mi").is_ok());
        let error = fit("64Mi", "64M").unwrap_err().to_string();
        assert_eq!(
            error,
            "the memory limit 64M is below the memory request 64Mi"
        );
    }
}
