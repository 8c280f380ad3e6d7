//! Claims as headers.

use http::{HeaderMap, HeaderValue};
use serde_json::Value;
use weft_ir::{ClaimHeader, Claims, claim_text};

/// Bytes of a header that a claim becomes.
const MAX_VALUE: usize = 4 << 10;

/// Sets the headers. A claim that is absent, too long, or that cannot be a header becomes none.
pub(super) fn set_headers(claims: &Claims, wanted: &[ClaimHeader], headers: &mut HeaderMap) {
    for ClaimHeader { claim, header } in wanted {
        if let Some(value) = claims.get(claim).and_then(header_value) {
            headers.insert(header, value);
        }
    }
}

/// Elements of a list that have a comma would be read as several.
fn header_value(claim: &Value) -> Option<HeaderValue> {
    let text = match claim {
        Value::Array(elements) => {
            let texts: Option<Vec<_>> = elements.iter().map(claim_text).collect();
            let texts = texts.filter(|all| all.iter().all(|text| !text.contains(',')))?;
            texts.join(",")
        }
        claim => claim_text(claim)?.into_owned(),
    };
    // Errors on control bytes.
    let value = HeaderValue::from_bytes(text.as_bytes()).ok();
    value.filter(|value| value.len() <= MAX_VALUE)
}
