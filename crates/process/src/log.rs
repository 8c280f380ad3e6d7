//! Logging of a program: filter, format, and setup. The injector parses the filter with the same
//! function when it admits a pod as the proxy does when it starts, so that an admitted filter is
//! valid.

use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{Directive, LevelFilter};
use tracing_subscriber::fmt::MakeWriter;

/// The filter that is used if the given one is invalid.
const FALLBACK: &str = "info";

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line.
    #[default]
    Json,
    Text,
}

impl Format {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Text => "text",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log format is json or text")]
pub struct FormatError;

impl FromStr for Format {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        match text {
            "json" => Ok(Self::Json),
            // `plain` is the controller's former name for it.
            "text" | "plain" => Ok(Self::Text),
            _ => Err(FormatError),
        }
    }
}

/// Directives of `tracing`, such as `info,weft_proxy=debug`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(String);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error("the filter is empty")]
    Empty,
    /// `tracing` would interpret it as the name of a module and log nothing else.
    #[error("{0:?} is not a level; the levels are off, error, warn, info, debug and trace")]
    NoLevel(String),
    #[error(
        "{0:?} is not of the form MODULE=LEVEL; the levels are off, error, warn, info, debug and trace"
    )]
    NoDirective(String),
}

impl Filter {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let mut directives = text.split(',').filter(|one| !one.is_empty()).peekable();
        directives.peek().ok_or(FilterError::Empty)?;
        for directive in directives {
            let shown = || directive.chars().take(64).collect();
            if directive.parse::<LevelFilter>().is_ok() {
                continue;
            }
            if !directive.contains(['=', '[']) {
                return Err(FilterError::NoLevel(shown()));
            }
            // `tracing` interprets an absent level as all levels.
            if directive.ends_with('=') || directive.parse::<Directive>().is_err() {
                return Err(FilterError::NoDirective(shown()));
            }
        }
        EnvFilter::try_new(text)
            .map_err(|_| FilterError::NoDirective(text.chars().take(64).collect()))?;
        Ok(Self(text.to_owned()))
    }
}

/// Sets up logging of this process. An invalid filter is reported in the log, which then uses
/// `info`; it does not stop the program.
pub fn start<W>(filter: &str, format: Format, to: W)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (read, unread) = match filter.parse::<Filter>() {
        Ok(filter) => (EnvFilter::new(filter.as_str()), None),
        Err(error) => (EnvFilter::new(FALLBACK), Some(error)),
    };
    let lines = tracing_subscriber::fmt()
        .with_env_filter(read)
        .with_writer(to);
    match format {
        Format::Text => lines.with_ansi(false).init(),
        Format::Json => {
            lines.json().init();
            // The default hook would print text among lines of JSON.
            std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
        }
    }
    if let Some(error) = unread {
        tracing::warn!("invalid log filter {filter:?}: {error}; using {FALLBACK}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_validated_as_tracing_directives() {
        for good in [
            "info",
            "INFO",
            "off",
            "warn,weft_proxy=debug",
            "info,weft_proxy::http=trace,hyper=off",
            "info,",
            "weft_proxy[request]=debug",
        ] {
            assert_eq!(good.parse::<Filter>().unwrap().as_str(), good);
        }
        for (bad, named) in [
            ("", "empty"),
            (",", "empty"),
            ("warning", "\"warning\" is not a level"),
            ("info,verbose", "\"verbose\" is not a level"),
            ("weft_proxy=verbose", "\"weft_proxy=verbose\" is not"),
            ("info,weft_proxy=", ""),
        ] {
            let error = bad.parse::<Filter>().map(|filter| filter.0).unwrap_err();
            assert!(error.to_string().contains(named), "{bad}: {error}");
        }
    }

    #[test]
    fn plain_is_an_alias_of_text() {
        assert_eq!("json".parse(), Ok(Format::Json));
        assert_eq!("text".parse(), Ok(Format::Text));
        assert_eq!("plain".parse(), Ok(Format::Text));
        assert_eq!("xml".parse::<Format>(), Err(FormatError));
    }
}
