//! SPIFFE IDs of workloads.

use weft_ir::Identity;

/// Exactly the texts of the reference are identities, and are displayed as they were written.
pub fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let parsed = text.parse::<Identity>();
    assert_eq!(parsed.is_ok(), is_identity(&text), "{text:?}");
    if let Ok(identity) = parsed {
        assert_eq!(identity.to_string(), text);
        let parts: Vec<&str> = text.split('/').collect();
        assert_eq!(identity.trust_domain().as_str(), parts[2]);
        assert_eq!(
            [identity.namespace(), identity.account()],
            [parts[4], parts[6]]
        );
    }
}

/// Reference implementation of the form `spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
fn is_identity(text: &str) -> bool {
    let parts: Vec<&str> = text.split('/').collect();
    let ["spiffe:", "", domain, "ns", namespace, "sa", account] = parts[..] else {
        return false;
    };
    let of = |text: &str, more: &str, most: usize| {
        let known =
            |c: char| "abcdefghijklmnopqrstuvwxyz0123456789-".contains(c) || more.contains(c);
        !text.is_empty() && text.len() <= most && text.chars().all(known)
    };
    let dotted = !format!(".{account}.").contains("..");
    of(domain, "._", 255) && of(namespace, "", 63) && of(account, ".", 253) && dotted
}
