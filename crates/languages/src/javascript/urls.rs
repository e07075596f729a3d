//! URLs for the kit: <https://url.spec.whatwg.org>, by the `url` crate.

use url::{Position, Url, quirks};

/// The parts of a URL in the kit's order, separated by NUL characters; `None` for an invalid URL.
pub(super) fn parse(text: &str, base: Option<&str>) -> Option<String> {
    let url = match base {
        Some(base) => {
            let base = Url::parse(base).ok()?;
            let authority = authority(&base, text);
            base.join(authority.as_deref().unwrap_or(text)).ok()?
        }
        None => Url::parse(text).ok()?,
    };
    Some(parts(&url))
}

/// A reference with more than two slashes, with two: for the standard it begins with an authority,
/// for the crate with an empty one.
fn authority(base: &Url, text: &str) -> Option<String> {
    if !matches!(base.scheme(), "http" | "https" | "ws" | "wss" | "ftp") {
        return None;
    }
    let text = text.trim_start_matches(|character| character <= ' ');
    let rest = text.trim_start_matches(['/', '\\']);
    (text.len() - rest.len() > 2).then(|| format!("//{rest}"))
}

/// Sets a part of a URL; an invalid value does not change it.
pub(super) fn set(href: &str, part: &str, value: &str) -> Option<String> {
    let mut url = Url::parse(href).ok()?;
    match part {
        "protocol" => drop(quirks::set_protocol(&mut url, value)),
        "username" => drop(quirks::set_username(&mut url, value)),
        "password" => drop(quirks::set_password(&mut url, value)),
        "host" => drop(quirks::set_host(&mut url, value)),
        "hostname" => drop(quirks::set_hostname(&mut url, value)),
        "port" => drop(quirks::set_port(&mut url, value)),
        "pathname" => quirks::set_pathname(&mut url, value),
        "search" => quirks::set_search(&mut url, value),
        "hash" => quirks::set_hash(&mut url, value),
        _ => return None,
    }
    Some(parts(&url))
}

fn parts(url: &Url) -> String {
    [
        quirks::href(url),
        &quirks::origin(url),
        quirks::protocol(url),
        quirks::username(url),
        quirks::password(url),
        quirks::host(url),
        quirks::hostname(url),
        quirks::port(url),
        &url[Position::BeforePath..Position::AfterPath],
        quirks::search(url),
        quirks::hash(url),
    ]
    .join("\0")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_url_is_taken_apart_and_changed() {
        let parts = parse("../x?a=1#h", Some("https://u:p@a.example:8080/b/c")).unwrap();
        assert_eq!(
            parts.split('\0').collect::<Vec<_>>(),
            [
                "https://u:p@a.example:8080/x?a=1#h",
                "https://a.example:8080",
                "https:",
                "u",
                "p",
                "a.example:8080",
                "a.example",
                "8080",
                "/x",
                "?a=1",
                "#h"
            ]
        );
        assert!(parse("nothing", None).is_none());
        for (text, href) in [
            ("///b.example/p", Some("https://b.example/p\0")),
            (" \\/\\/b.example", Some("https://b.example/\0")),
            ("///", None),
            ("/p//q", Some("https://a/p//q\0")),
        ] {
            let parts = parse(text, Some("https://a/"));
            match href {
                Some(href) => assert!(parts.unwrap().starts_with(href), "{text}"),
                None => assert!(parts.is_none(), "{text}"),
            }
        }
        assert!(
            set("http://a/", "search", "b c")
                .unwrap()
                .starts_with("http://a/?b%20c")
        );
    }
}
