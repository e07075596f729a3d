//! Content codings, and which of them a client prefers.

use http::{HeaderMap, HeaderValue, header};

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Coding {
    Gzip,
    Brotli,
    Zstd,
}

impl Coding {
    pub(crate) const ALL: [Self; 3] = [Self::Gzip, Self::Brotli, Self::Zstd];

    /// Its name in headers.
    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }

    /// The suffix of a file in this coding.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Gzip => ".gz",
            Self::Brotli => ".br",
            Self::Zstd => ".zst",
        }
    }

    pub(crate) fn header_value(self) -> HeaderValue {
        HeaderValue::from_static(self.name())
    }
}

/// The coding among `offered` that a client prefers; the last of several with the same weight.
/// `None` if it accepts none, or prefers the plain content.
pub(crate) fn preferred(headers: &HeaderMap, offered: &[Coding]) -> Option<Coding> {
    let lines = headers.get_all(header::ACCEPT_ENCODING).iter();
    let items: Vec<(&str, u32)> = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(weighted)
        .collect();
    let weight = |name: &str| {
        let of = |name: &str| {
            items
                .iter()
                .find(|(item, _)| item.eq_ignore_ascii_case(name))
        };
        of(name).map(|(_, weight)| *weight)
    };
    let identity = weight("identity").unwrap_or(0);
    let accepted = offered.iter().filter_map(|coding| {
        let weight = weight(coding.name()).or_else(|| weight("*")).unwrap_or(0);
        (weight > 0 && weight >= identity).then_some((weight, *coding))
    });
    // The last one with the largest weight.
    accepted
        .max_by_key(|(weight, _)| *weight)
        .map(|(_, coding)| coding)
}

/// A coding and its weight in thousandths: `gzip`, `gzip;q=0.5`. An invalid weight counts as 0.
fn weighted(item: &str) -> (&str, u32) {
    let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
    let weight = parameters.split(';').find_map(|parameter| {
        let (key, value) = parameter.split_once('=')?;
        key.trim().eq_ignore_ascii_case("q").then(|| value.trim())
    });
    let weight = match weight {
        None => 1000,
        Some(text) => text
            .parse::<f32>()
            .ok()
            .filter(|weight| (0.0..=1.0).contains(weight))
            .map_or(0, |weight| (weight * 1000.0) as u32),
    };
    (name.trim(), weight)
}

/// Adds `Vary: accept-encoding`: other clients get another response.
pub(crate) fn vary(headers: &mut HeaderMap) {
    let name = HeaderValue::from_static("accept-encoding");
    let all = headers.get_all(header::VARY).iter();
    let is_set = all.filter_map(|line| line.to_str().ok()).any(|line| {
        line.split(',')
            .map(str::trim)
            .any(|item| item == "*" || item.eq_ignore_ascii_case("accept-encoding"))
    });
    if !is_set {
        headers.append(header::VARY, name);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn headers(accepted: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, accepted.parse().unwrap());
        headers
    }

    #[test]
    fn chooses_the_coding_that_the_client_prefers() {
        for (accepted, coding) in [
            ("gzip, deflate, br", Some(Coding::Brotli)),
            ("gzip", Some(Coding::Gzip)),
            ("GZIP;q=0.5", Some(Coding::Gzip)),
            ("br;q=0.5, gzip", Some(Coding::Gzip)),
            ("br;q=0, *", Some(Coding::Gzip)),
            ("*;q=0.1", Some(Coding::Brotli)),
            ("br;q=0, gzip;q=0.0", None),
            ("identity, br;q=0.5", None),
            ("br;q=2", None),
            ("br;q=x", None),
            ("deflate", None),
            ("", None),
        ] {
            assert_eq!(
                preferred(&headers(accepted), &[Coding::Gzip, Coding::Brotli]),
                coding,
                "{accepted}"
            );
        }
        assert_eq!(preferred(&HeaderMap::new(), &Coding::ALL), None);
    }
}
