//! What operators read and change in a store: all entries, with their times to live.

use std::collections::BTreeSet;

use super::RedisStore;
use super::command::Command;
use super::failure::Failure;
use super::names::Names;
use super::pool::{Repeat, Way};
use super::reply::{Elements, FromReply, ReplyReader};
use super::scripts;
use crate::entry::{EntryFilter, StoredEntry, now};
use crate::error::Error;

/// Keys of a page of entries.
const PAGE_KEYS: usize = 500;

/// Bytes of the entries of a page, besides the last one.
const PAGE_BYTES: usize = 1 << 20;

/// Keys that Redis looks at for one answer about namespaces.
const SCANNED: u64 = 1000;

/// The most namespaces that are listed.
const MAX_NAMESPACES: usize = 100_000;

/// A key, its value, and the milliseconds until it is removed, or a negative number.
type Row = (String, Vec<u8>, i64);

/// A page of entries.
struct EntriesPage {
    is_followed: bool,
    /// The last key that was looked at.
    last: String,
    rows: Vec<Row>,
}

impl FromReply for EntriesPage {
    fn read(reply: &mut ReplyReader<'_>) -> Result<Self, Failure> {
        let (is_followed, last, Elements(rows)) = FromReply::read(reply)?;
        Ok(Self {
            is_followed,
            last,
            rows,
        })
    }
}

impl RedisStore {
    /// The entry of a key.
    pub(crate) async fn entry(
        &self,
        namespace: &str,
        key: &str,
    ) -> Result<Option<StoredEntry>, Error> {
        // The first key that begins with this one is this one, if it exists.
        let command = scripts::entries(&Names::new(namespace), key, None, 1, 1);
        let EntriesPage { rows, .. } = self.run(Way::Last, &command, Repeat::Harmless).await?;
        let mut rows = rows.into_iter().filter(|(name, ..)| name == key);
        Ok(rows.next().map(|row| stored(namespace, row)))
    }

    /// The namespaces that have keys, in order.
    pub(crate) async fn namespaces(&self) -> Result<Vec<String>, Error> {
        let mut found = BTreeSet::new();
        let mut cursor = String::from("0");
        loop {
            let mut command = Command::new("SCAN");
            command.arg(&cursor).arg("MATCH").arg(Names::INDEXES);
            command.arg("COUNT").number(SCANNED);
            let (next, names): (String, Elements<Vec<u8>>) =
                self.run(Way::Last, &command, Repeat::Harmless).await?;
            let names = names
                .0
                .iter()
                .filter_map(|name| std::str::from_utf8(name).ok());
            found.extend(names.filter_map(Names::namespace_of));
            if found.len() > MAX_NAMESPACES {
                return Err(Error::Full {
                    what: "namespaces that are listed",
                    limit: MAX_NAMESPACES,
                });
            }
            if next == "0" {
                return Ok(found.into_iter().collect());
            }
            cursor = next;
        }
    }

    /// Passes on entries in the order of their namespaces and keys, until `found` returns an error.
    pub(crate) async fn each(
        &self,
        filter: EntryFilter<'_>,
        found: &mut (dyn FnMut(StoredEntry) -> Result<(), Error> + Send),
    ) -> Result<(), Error> {
        let namespaces = match filter.namespace {
            Some(namespace) => vec![namespace.to_owned()],
            None => self.namespaces().await?,
        };
        for namespace in namespaces {
            let names = Names::new(&namespace);
            let mut after = None;
            loop {
                let command = scripts::entries(
                    &names,
                    filter.prefix,
                    after.as_deref(),
                    PAGE_KEYS,
                    PAGE_BYTES,
                );
                let page: EntriesPage = self.run(Way::Last, &command, Repeat::Harmless).await?;
                for row in page.rows {
                    found(stored(&namespace, row))?;
                }
                if !page.is_followed {
                    break;
                }
                after = Some(page.last);
            }
        }
        Ok(())
    }

    /// Stores all entries of one namespace, or none if one is rejected.
    pub(crate) async fn put(&self, entries: &[StoredEntry]) -> Result<(), Error> {
        let Some(first) = entries.first() else {
            return Ok(());
        };
        let limits = self.limits.get();
        entries.iter().try_for_each(|entry| entry.check(&limits))?;
        let command = scripts::put(&Names::new(&first.namespace), entries);
        self.run(Way::Last, &command, Repeat::Harmless).await
    }

    /// Removes a key. Returns whether it existed.
    pub(crate) async fn remove(&self, namespace: &str, key: &str) -> Result<bool, Error> {
        let command = scripts::remove(&Names::new(namespace), key);
        self.run(Way::Any, &command, Repeat::Harmless).await
    }
}

fn stored(namespace: &str, (key, value, left): Row) -> StoredEntry {
    StoredEntry {
        namespace: namespace.to_owned(),
        key,
        value,
        expires: u64::try_from(left)
            .ok()
            .map(|left| now().saturating_add(left)),
    }
}
