//! Adds and removes entries of `.wws.toml` in its text, so that everything else of it stays as its
//! author wrote it.
//!
//! The parser says where an entry begins and ends. What comes out is parsed again, and is only
//! taken if it says what it said before, but for the entry.
//!
//! `toml_edit` counts a comment above a table to that table, and one at the end of the file to the
//! end: an entry that is removed or added would take the author's comments with it, or move them.

use std::ops::Range;

use toml::{
    Spanned, Table, Value,
    de::{DeTable, DeValue},
};
use wws_project::Runtime;

use crate::{
    entry,
    error::{Error, FailureKind},
};

/// What is written where there was no file.
const EMPTY: &str = "version = 1\n";

/// The text with one more runtime.
pub(crate) fn add(text: &str, url: Option<&str>, runtime: &Runtime) -> Result<String, Error> {
    let text = if text.trim().is_empty() { EMPTY } else { text };
    let document = parse(text)?;
    let repositories = tables(text, &document, "repositories")?;
    let is_open = repositories.last().is_some_and(|last| {
        // A list that is written as one value cannot grow behind it.
        text_of(last, "name") == Some(&runtime.repository)
            && tables(
                text,
                last.get_ref().as_table().unwrap_or(&document),
                "runtimes",
            )
            .is_ok()
    });
    let entry = entry::of_runtime(runtime);
    let mut wanted = read(text)?;
    let list = list(&mut wanted, "repositories")?;
    let mut new = text.trim_end().to_owned();
    new.push('\n');
    if !is_open {
        let repository = entry::of_repository(&runtime.repository, url);
        list.extend(last_of(&repository, "repositories"));
        new.push('\n');
        new.push_str(&repository);
    }
    new.push('\n');
    new.push_str(&entry);
    if let Some(Value::Table(last)) = list.last_mut() {
        let of_entry = read(&format!("[[repositories]]\n{entry}"))?;
        let runtime = of_entry["repositories"][0]["runtimes"][0].clone();
        self::list(last, "runtimes")?.push(runtime);
    }
    checked(new, &wanted)
}

/// The text without a runtime, and without its repository if that has no other.
pub(crate) fn remove(text: &str, runtime: &Runtime) -> Result<String, Error> {
    let document = parse(text)?;
    let mut wanted = read(text)?;
    let mut gone: Vec<Range<usize>> = Vec::new();
    let mut kept = Vec::new();
    let repositories = tables(text, &document, "repositories")?;
    for (repository, value) in repositories
        .iter()
        .zip(list(&mut wanted, "repositories")?.iter())
    {
        let (Some(table), Value::Table(value)) = (repository.get_ref().as_table(), value) else {
            continue;
        };
        let mut value = value.clone();
        if text_of(repository, "name") == Some(&runtime.repository) {
            let runtimes = tables(text, table, "runtimes")?;
            let mut left = Vec::new();
            for (entry, value) in runtimes.iter().zip(list(&mut value, "runtimes")?.iter()) {
                if is(entry, runtime) {
                    gone.push(lines(text, entry));
                } else {
                    left.push(value.clone());
                }
            }
            if left.is_empty() && !runtimes.is_empty() {
                gone.push(lines_of_head(text, repository));
                continue;
            }
            value.insert("runtimes".into(), left.into());
        }
        kept.push(Value::Table(value));
    }
    if kept.is_empty() {
        wanted.remove("repositories");
    } else {
        wanted.insert("repositories".into(), kept.into());
    }
    gone.sort_by_key(|range| range.start);
    let mut new = text.to_owned();
    for range in gone.into_iter().rev() {
        let before = new[..range.start].trim_end();
        let after = new[range.end..].trim_start_matches(['\r', '\n']);
        new = match (before.is_empty(), after.is_empty()) {
            (true, _) => after.to_owned(),
            (false, true) => format!("{before}\n"),
            (false, false) => format!("{before}\n\n{after}"),
        };
    }
    checked(new, &wanted)
}

/// Whether an entry is that of a runtime.
fn is(entry: &Spanned<DeValue<'_>>, runtime: &Runtime) -> bool {
    text_of(entry, "name") == Some(&runtime.name)
        && text_of(entry, "version") == Some(&runtime.version)
}

fn checked(new: String, wanted: &Table) -> Result<String, Error> {
    if read(&new).is_ok_and(|found| found == *wanted) {
        Ok(new)
    } else {
        Err(by_hand())
    }
}

fn by_hand() -> Error {
    Error::new(
        FailureKind::Edit,
        "the lists of .wws.toml are written in a way that is not edited here: write them as tables \
         [[repositories]] and [[repositories.runtimes]]",
    )
}

fn parse(text: &str) -> Result<DeTable<'_>, Error> {
    DeTable::parse(text)
        .map(Spanned::into_inner)
        .map_err(|error| Error::new(FailureKind::Edit, ".wws.toml").caused_by(error))
}

fn read(text: &str) -> Result<Table, Error> {
    text.parse()
        .map_err(|error| Error::new(FailureKind::Edit, ".wws.toml").caused_by(error))
}

/// The tables of a list that is written as `[[key]]`.
fn tables<'t, 'd>(
    text: &str,
    table: &'t DeTable<'d>,
    key: &str,
) -> Result<Vec<&'t Spanned<DeValue<'d>>>, Error> {
    let Some(list) = table.get(key) else {
        return Ok(Vec::new());
    };
    let list = list.get_ref().as_array().ok_or_else(by_hand)?;
    let is_headed = |value: &&Spanned<DeValue<'_>>| {
        value.get_ref().is_table() && text[value.span().start..].starts_with("[[")
    };
    if !list.iter().all(|value| is_headed(&value)) {
        return Err(by_hand());
    }
    Ok(list.iter().collect())
}

fn text_of<'t>(table: &'t Spanned<DeValue<'_>>, key: &str) -> Option<&'t str> {
    table.get_ref().as_table()?.get(key)?.get_ref().as_str()
}

/// The lines of a table with all that is below it.
fn lines(text: &str, table: &Spanned<DeValue<'_>>) -> Range<usize> {
    whole_lines(text, table.span().start..end(table))
}

/// The lines of a table without the lists of tables below it.
fn lines_of_head(text: &str, table: &Spanned<DeValue<'_>>) -> Range<usize> {
    let values = table
        .get_ref()
        .as_table()
        .into_iter()
        .flat_map(|t| t.iter());
    let own = values.filter(|(_, value)| !text[value.span().start..].starts_with("[["));
    let end = own
        .map(|(_, value)| end(value))
        .fold(table.span().end, usize::max);
    whole_lines(text, table.span().start..end)
}

/// Where the last thing of a value ends.
fn end(value: &Spanned<DeValue<'_>>) -> usize {
    let own = value.span().end;
    match value.get_ref() {
        DeValue::Table(table) => table
            .iter()
            .map(|(_, value)| end(value))
            .fold(own, usize::max),
        DeValue::Array(array) => array.iter().map(end).fold(own, usize::max),
        _ => own,
    }
}

fn whole_lines(text: &str, range: Range<usize>) -> Range<usize> {
    let start = text[..range.start].rfind('\n').map_or(0, |at| at + 1);
    let end = text[range.end..]
        .find('\n')
        .map_or(text.len(), |at| range.end + at + 1);
    start..end
}

fn list<'t>(table: &'t mut Table, key: &str) -> Result<&'t mut Vec<Value>, Error> {
    table
        .entry(key)
        .or_insert_with(|| Value::Array(Vec::new()))
        .as_array_mut()
        .ok_or_else(by_hand)
}

fn last_of(text: &str, key: &str) -> Option<Value> {
    read(text).ok()?.get(key)?.as_array()?.last().cloned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::*;

    fn runtime(repository: &str, version: &str) -> Runtime {
        let index = format!(
            "version = 1\n[[runtimes]]\nname = \"python\"\nversion = \"{version}\"\n\
             tags = [\"latest\"]\nextensions = [\"py\"]\n\
             args = [\"--\", \"a\\\"b\"]\nenvs = {{ \"A B\" = \"c\\n\" }}\n\
             binary = {{ url = \"x\", filename = \"p.wasm\", checksum = {{ type = \"sha256\", \
             value = \"{:064}\" }} }}\n\
             wrapper = {{ filename = \"w\" }}\n",
            7
        );
        wws_project::repository_index(repository, Path::new("index"), index)
            .unwrap()
            .remove(0)
    }

    /// What a user might have written.
    const OWN: &str = "# Ours.\nversion = 1\n\n[server] # how\nport = 81\n\n# The old place.\n\
        [[repositories]]\nname = \"old\"\n\n\
        [[repositories.runtimes]] # keep\nname = \"ruby\"\nversion = \"3\"\n\
        binary = { filename = \"r\" }\n\n\
        [limits]\nmemory = \"1MiB\" # little";

    #[test]
    fn adding_and_removing_keeps_the_rest() {
        for text in [OWN, "", "version = 1\n"] {
            let one = add(text, Some("a\"b"), &runtime("new", "1")).unwrap();
            assert!(one.starts_with(text.trim_end()), "{one}");
            let two = add(&one, None, &runtime("new", "2")).unwrap();
            assert_eq!(two.matches("name = \"new\"").count(), 1, "{two}");
            let three = add(&two, None, &runtime("old", "1")).unwrap();
            assert!(three.contains("envs = { \"A B\" = \"c\\n\" }"), "{three}");
            let mut left = three;
            for gone in [("new", "1"), ("old", "1"), ("new", "2")] {
                left = remove(&left, &runtime(gone.0, gone.1)).unwrap();
            }
            let was = if text.is_empty() { EMPTY } else { text };
            assert_eq!(left.trim_end(), was.trim_end());
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config {
            failure_persistence: None,
            ..proptest::test_runner::Config::with_cases(if cfg!(miri) { 4 } else { 500 })
        })]
        #[test]
        fn edits_change_nothing_else(
            parts in proptest::collection::vec(0usize..PARTS.len(), 0..8),
            repository in 0usize..3,
            version in 0usize..3,
        ) {
            let text: String = parts.into_iter().map(|part| PARTS[part]).collect();
            let runtime = runtime(["new", "old", "a\"b"][repository], ["1", "2", "3"][version]);
            if let Ok(added) = add(&text, Some("u"), &runtime) {
                assert!(added.starts_with(text.trim_end()), "{added}");
                let was = if text.trim().is_empty() { EMPTY } else { &text };
                let was: Table = was.parse().unwrap();
                let now: Table = added.parse().unwrap();
                let others = |table: &Table| {
                    let others = table.iter().filter(|(key, _)| *key != "repositories");
                    others.map(|(key, value)| (key.clone(), value.clone())).collect::<Table>()
                };
                assert_eq!(others(&was), others(&now));
                // An entry that is torn apart is left to its author.
                if let Ok(left) = remove(&added, &runtime) {
                    assert!(!left.contains("p.wasm"), "{left}");
                    assert_eq!(others(&was), others(&left.parse().unwrap()));
                }
                for comment in text.split('#').skip(1).filter_map(|rest| rest.lines().next()) {
                    assert!(added.contains(comment), "{comment} {added}");
                }
            }
            if let Ok(left) = remove(&text, &runtime) {
                let _: Table = left.parse().unwrap();
            }
        }
    }

    /// What a file is made of, in any order.
    const PARTS: [&str; 12] = [
        "version = 1\n",
        "# first\n",
        "\n",
        "[server] # second\nport = 81\n",
        "[limits]\nmemory = \"1MiB\" # third",
        "[[repositories]]\nname = \"old\"\n",
        "[[repositories]]\nname = \"new\" # fourth\nurl = \"u\"\n",
        "[[repositories.runtimes]] # fifth\nname = \"ruby\"\nversion = \"3\"\n\
         binary = { filename = \"r\" }\n",
        "[[repositories.runtimes]]\nname = \"python\"\nversion = \"1\"\n\
         [repositories.runtimes.binary]\nfilename = \"x\"\n",
        "repositories = []\n",
        "  # sixth\r\n",
        "broken",
    ];

    #[test]
    fn removes_only_the_tables_of_a_runtime() {
        let all = add(OWN, None, &runtime("old", "1")).unwrap();
        let text = all.replace("[limits]", "[[repositories]]\nname = \"z\"\n\n[limits]");
        let ruby = Runtime {
            name: "ruby".into(),
            ..runtime("old", "3")
        };
        let left = remove(&text, &ruby).unwrap();
        assert!(!left.contains("ruby") && !left.contains("# keep"), "{left}");
        for part in [
            "# Ours.",
            "[server] # how",
            "# The old place.",
            "\"z\"",
            "# little",
        ] {
            assert!(left.contains(part), "{part}: {left}");
        }
    }

    #[test]
    fn does_not_edit_inline_lists() {
        let inline = "repositories = [{ name = \"new\", runtimes = [] }]\n";
        assert!(add(inline, None, &runtime("new", "1")).is_err());
        let inner = "[[repositories]]\nname = \"new\"\n\
            runtimes = [{ name = \"python\", version = \"1\" }]\n";
        // Another table of the same repository is as good.
        let added = add(inner, None, &runtime("new", "2")).unwrap();
        assert_eq!(added.matches("[[repositories]]").count(), 2);
        let error = remove(inner, &runtime("new", "1")).unwrap_err().to_string();
        assert!(error.contains("[[repositories.runtimes]]"), "{error}");
    }

    #[test]
    fn does_not_remove_a_split_entry() {
        let torn = "[[repositories]]\nname = \"new\"\n[[repositories.runtimes]]\n\
            name = \"python\"\nversion = \"1\"\n\
            [server]\nport = 1\n[repositories.runtimes.binary]\nfilename = \"x\"\n";
        assert!(remove(torn, &runtime("new", "1")).is_err());
    }
}
