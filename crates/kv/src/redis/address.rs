//! The URL of a Redis.

use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use url::Url;

use crate::error::Error;

const PORT: u16 = 6379;

/// Where a Redis is, and who asks it.
pub(super) struct RedisAddress {
    pub(super) place: RedisPlace,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    /// The number of the database.
    pub(super) database: u32,
}

/// Where a Redis is.
pub(super) enum RedisPlace {
    Tcp {
        host: String,
        port: u16,
        is_tls: bool,
    },
    Unix(PathBuf),
}

/// A URL is not valid. The URL may have a password, which no error shows.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct BadUrl(&'static str);

impl From<BadUrl> for Error {
    fn from(error: BadUrl) -> Self {
        Self::backend(error)
    }
}

impl RedisAddress {
    pub(super) fn parse(text: &str) -> Result<Self, BadUrl> {
        let url = Url::parse(text).map_err(|_| BadUrl("it is no URL"))?;
        match url.scheme() {
            "redis" => Self::of_tcp(&url, false),
            "rediss" => Self::of_tcp(&url, true),
            "redis+unix" => Self::of_unix(&url),
            _ => Err(BadUrl(
                "it begins with none of redis://, rediss://, redis+unix://",
            )),
        }
    }

    fn of_tcp(url: &Url, is_tls: bool) -> Result<Self, BadUrl> {
        if url.fragment().is_some() {
            return Err(BadUrl(
                "it has a fragment; a `#` in a password is written %23",
            ));
        }
        // An address of IPv6 is in brackets.
        let host = url.host_str().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(BadUrl("it has no host"));
        }
        let database = match url.path().trim_matches('/') {
            "" => 0,
            path => database(path)?,
        };
        Ok(Self {
            place: RedisPlace::Tcp {
                host: decoded(host)?,
                port: url.port().unwrap_or(PORT),
                is_tls,
            },
            user: match url.username() {
                "" => None,
                user => Some(decoded(user)?),
            },
            password: url.password().map(decoded).transpose()?,
            database,
        })
    }

    fn of_unix(url: &Url) -> Result<Self, BadUrl> {
        let path = decoded(url.path())?;
        if path.is_empty() || path == "/" || url.has_host() {
            return Err(BadUrl("it has no path: redis+unix:///PATH"));
        }
        let mut address = Self {
            place: RedisPlace::Unix(path.into()),
            user: None,
            password: None,
            database: 0,
        };
        for (name, value) in url.query_pairs() {
            match &*name {
                "db" => address.database = database(&value)?,
                "user" => address.user = Some(value.into_owned()),
                "pass" => address.password = Some(value.into_owned()),
                _ => {}
            }
        }
        Ok(address)
    }

    /// Whether TLS is used.
    pub(super) fn is_tls(&self) -> bool {
        matches!(self.place, RedisPlace::Tcp { is_tls: true, .. })
    }
}

fn decoded(text: &str) -> Result<String, BadUrl> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded
        .map(Into::into)
        .map_err(|_| BadUrl("an escape in it is not UTF-8"))
}

fn database(text: &str) -> Result<u32, BadUrl> {
    text.parse()
        .map_err(|_| BadUrl("its database is no number"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn reads_urls() {
        let address = RedisAddress::parse("rediss://me:p%40ss%2Fword@[::1]:7000/3").unwrap();
        let RedisPlace::Tcp { host, port, is_tls } = &address.place else {
            panic!("no TCP")
        };
        assert_eq!((&**host, *port, *is_tls), ("::1", 7000, true));
        assert_eq!(address.user.as_deref(), Some("me"));
        assert_eq!(address.password.as_deref(), Some("p@ss/word"));
        assert_eq!(address.database, 3);
        let address = RedisAddress::parse("redis://:secret@redis").unwrap();
        let RedisPlace::Tcp { host, port, is_tls } = &address.place else {
            panic!("no TCP")
        };
        assert_eq!((&**host, *port, *is_tls), ("redis", 6379, false));
        assert_eq!((address.user, address.database), (None, 0));
        let address = RedisAddress::parse("redis+unix:///run/a%20b?db=2&user=u&pass=p").unwrap();
        assert!(matches!(&address.place, RedisPlace::Unix(path) if path.as_os_str() == "/run/a b"));
        assert_eq!((address.database, address.user.as_deref()), (2, Some("u")));
    }

    #[test]
    fn rejects_urls() {
        for url in [
            "",
            "redis",
            "http://host",
            "redis://",
            "redis:///1",
            "redis://host:port",
            "redis://host/name",
            "redis://host/-1",
            "rediss://host#insecure",
            "redis://:p#ss@host",
            "redis+unix://",
            "redis+unix:///",
            "redis+unix:///path?db=x",
        ] {
            assert!(RedisAddress::parse(url).is_err(), "{url}");
        }
    }
}
