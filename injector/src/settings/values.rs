//! Settings that are parsed: address ranges, log filters, numbers and ports.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::{InvalidValue, Mtls};

/// Address ranges, as `10.96.0.0/12,fd00::/48`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(String);

impl Ranges {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Ranges {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let is_range = |text: &str| {
            text.split_once('/').is_some_and(|(first, bits)| {
                let most = first
                    .parse()
                    .map(|first: IpAddr| if first.is_ipv4() { 32 } else { 128 });
                let bits: Result<u8, _> = bits.parse();
                matches!((most, bits), (Ok(most), Ok(bits)) if bits <= most)
            })
        };
        if text.is_empty() || text.split(',').all(is_range) {
            return Ok(Self(text.to_owned()));
        }
        Err(InvalidValue::new(
            text,
            "a list of address ranges such as 10.96.0.0/12,fd00::/48",
        ))
    }
}

/// A log filter such as `info,weft_proxy=debug` that the proxy can parse, of 1 to 200 letters,
/// digits and `_ - , = : .`, so that it cannot contain a reference to another environment variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(weft_process::log::Filter);

impl LogFilter {
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl FromStr for LogFilter {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        const EXPECTED: &str = "a log filter such as info,weft_proxy=debug";
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"_-,=:.".contains(&b);
        if text.len() > 200 || !text.bytes().all(legal) {
            return Err(InvalidValue::new(text, EXPECTED));
        }
        let filter = text.parse();
        filter
            .map(Self)
            .map_err(|error| InvalidValue::new(text, format!("{EXPECTED}: {error}")))
    }
}

/// The number of a proxy's worker threads, 1 to 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workers(u8);

impl Workers {
    pub fn get(self) -> u8 {
        self.0
    }
}

impl FromStr for Workers {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match text.parse() {
            Ok(count @ 1..=64) => Ok(Self(count)),
            _ => Err(InvalidValue::new(text, "a number of workers from 1 to 64")),
        }
    }
}

/// The time for clients outside the mesh to learn that a pod terminates, 0 to 120 seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutsideGrace(u8);

impl OutsideGrace {
    pub fn get(self) -> u8 {
        self.0
    }
}

impl FromStr for OutsideGrace {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match text.parse() {
            Ok(seconds @ 0..=120) => Ok(Self(seconds)),
            _ => Err(InvalidValue::new(text, "a number of seconds from 0 to 120")),
        }
    }
}

/// A list of at most 64 TCP ports from 1 to 65535, as `80,9000`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports(BTreeSet<u16>);

impl Ports {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contains(&self, port: u16) -> bool {
        self.0.contains(&port)
    }

    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().copied()
    }
}

impl FromIterator<u16> for Ports {
    fn from_iter<I: IntoIterator<Item = u16>>(ports: I) -> Self {
        Self(ports.into_iter().collect())
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, port) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{port}")?;
        }
        Ok(())
    }
}

/// Whether single ports of a pod accept plain text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortModes(pub BTreeMap<u16, Mtls>);

impl FromStr for PortModes {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        const EXPECTED: &str =
            "a list of at most 64 ports with their modes, such as 8080=strict,9090=permissive";
        let invalid = || InvalidValue::new(text, EXPECTED);
        let mut modes = BTreeMap::new();
        for part in text.split(',').map(str::trim).filter(|of| !of.is_empty()) {
            let (port, mode) = part.split_once('=').ok_or_else(invalid)?;
            let port = port.trim().parse::<u16>().ok().filter(|port| *port > 0);
            let mode = mode.trim().parse().map_err(|_| invalid())?;
            let before = modes.insert(port.ok_or_else(invalid)?, mode);
            if before.is_some() || modes.len() > 64 {
                return Err(invalid());
            }
        }
        Ok(Self(modes))
    }
}

impl FromStr for Ports {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let invalid = || InvalidValue::new(text, "a list of at most 64 ports such as 80,9000");
        let mut ports = BTreeSet::new();
        for part in text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            match part.parse::<u16>() {
                Ok(port) if port > 0 => ports.insert(port),
                _ => return Err(invalid()),
            };
        }
        if ports.len() > 64 {
            return Err(invalid());
        }
        Ok(Self(ports))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_of_ports_are_parsed() {
        let modes = "9090=permissive, 8080=strict".parse::<PortModes>().unwrap();
        let expected = [(8080, Mtls::Strict), (9090, Mtls::Permissive)];
        assert_eq!(modes.0, expected.into());
        let long: Vec<String> = (1..=65).map(|port| format!("{port}=strict")).collect();
        for text in [
            "80",
            "80=",
            "=strict",
            "0=strict",
            "70000=strict",
            "80=Strict",
            "http=strict",
        ] {
            assert!(text.parse::<PortModes>().is_err(), "{text}");
        }
        assert!("80=strict,80=permissive".parse::<PortModes>().is_err());
        assert!(long.join(",").parse::<PortModes>().is_err());
    }

    #[test]
    fn ranges_are_parsed() {
        for text in ["", "10.96.0.0/12", "10.96.0.0/12,fd00::/48"] {
            assert_eq!(
                text.parse::<Ranges>().map(|ranges| ranges.0),
                Ok(text.to_owned())
            );
        }
        for text in ["10.96.0.0", "10.96.0.0/33", "a/8", "10.96.0.0/12,"] {
            assert!(text.parse::<Ranges>().is_err(), "{text}");
        }
    }

    #[test]
    fn ports_are_parsed() {
        assert_eq!(
            "9000, 80,80".parse::<Ports>().unwrap().to_string(),
            "80,9000"
        );
        assert!("".parse::<Ports>().unwrap().is_empty());
        for bad in ["0", "65536", "http", "1-5", "80;drop", "80 90"] {
            assert!(bad.parse::<Ports>().is_err(), "{bad:?} was accepted");
        }
        let many: Vec<String> = (1..=65).map(|port: u16| port.to_string()).collect();
        assert!(many.join(",").parse::<Ports>().is_err());
    }

    #[test]
    fn log_filter_has_no_references() {
        assert!(
            "info,weft_proxy::inbound=debug"
                .parse::<LogFilter>()
                .is_ok()
        );
        for bad in ["", "$(TOKEN)", "info\nX=1", &"x".repeat(201)] {
            assert!(bad.parse::<LogFilter>().is_err(), "{bad:?} was accepted");
        }
        let error = "warning".parse::<LogFilter>().unwrap_err().to_string();
        assert!(error.contains("not a level"), "{error}");
    }

    #[test]
    fn message_has_at_most_64_characters_of_the_text() {
        let error = "é".repeat(5000).parse::<Workers>().unwrap_err().to_string();
        assert!(error.chars().count() < 120, "{error}");
    }
}
