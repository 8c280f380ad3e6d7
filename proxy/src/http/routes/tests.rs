use super::*;

fn host_of(version: http::Version, uri: &str, named: Option<&str>) -> Result<String, ()> {
    let mut request = http::Request::builder().uri(uri).version(version);
    if let Some(named) = named {
        request = request.header("host", named);
    }
    let (head, ()) = request.body(()).unwrap().into_parts();
    let host = host(&head).map_err(|_| ())?;
    Ok(host.unwrap_or_default().into_owned())
}

#[test]
fn host_is_parsed_strictly() {
    let http1 = http::Version::HTTP_11;
    for (uri, named, host) in [
        ("/", Some("Example.COM:8080"), Some("example.com")),
        ("/", Some("example.com."), Some("example.com")),
        ("http://example.com/", None, Some("example.com")),
        ("/", Some("[::1]:80"), Some("[::1]")),
        ("/", None, None),
        ("/", Some(""), None),
        ("/", Some(":80"), None),
        ("/", Some("user@example.com"), None),
        ("/", Some("example.com/path"), None),
        ("/", Some("example.com, other.com"), None),
        ("http://user@example.com/", None, None),
    ] {
        let found = host_of(http1, uri, named);
        assert_eq!(found.ok().as_deref(), host, "{uri} {named:?}");
    }
    assert_eq!(
        host_of(http::Version::HTTP_10, "/", None),
        Ok(String::new())
    );
}
