//! `/_panel/`: one page, which asks the interface for what it shows.

use std::sync::LazyLock;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use sha2::{Digest, Sha256};

use crate::status::private_response::private_response;

/// The page. Its style and its script are parts of it.
const PAGE: &str = include_str!("panel.html");

/// What the page may do: run its own script, use its own style, ask this server.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = |tag| STANDARD.encode(Sha256::digest(element(tag)));
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash("script"),
        hash("style")
    );
    // It has only characters that a header may have; without a policy the page can do nothing.
    HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

/// The content of the only element of this kind.
fn element(tag: &str) -> &'static str {
    let (start, end) = (format!("<{tag}>"), format!("</{tag}>"));
    let from = PAGE.find(&start).map_or(0, |at| at + start.len());
    let to = PAGE.find(&end).unwrap_or(from);
    &PAGE[from..to]
}

/// The page.
pub(crate) fn page() -> Response<Bytes> {
    let body = Bytes::from_static(PAGE.as_bytes());
    let mut response = private_response(StatusCode::OK, "text/html; charset=utf-8", body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY.clone());
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_policy_allows_the_page_s_own_script_and_style_only() {
        let response = page();
        let policy = response.headers()[header::CONTENT_SECURITY_POLICY]
            .to_str()
            .unwrap();
        assert_eq!(policy.matches("'sha256-").count(), 2);
        assert!(!policy.contains("unsafe"), "{policy}");
        assert!(element("script").contains("use strict") && element("style").contains("body"));
        for tag in ["<script", "<style"] {
            assert_eq!(PAGE.matches(tag).count(), 1, "{tag}");
        }
        // Attributes with script or style would be blocked, and other addresses, too.
        for outside in [
            " onclick=",
            " onload=",
            " style=",
            "http://",
            "https://",
            "innerHTML",
        ] {
            assert!(!PAGE.contains(outside), "{outside}");
        }
    }
}
