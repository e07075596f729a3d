//! Where in the user's files an error arose.

use wws_engine::SourcePos;

/// The place of the first frame of a stack that is in a file. The interpreter writes a frame as
/// `    at FUNCTION (FILE:LINE:COLUMN)` or `    at FILE:LINE:COLUMN`.
pub(super) fn first_place(stack: &str) -> Option<SourcePos> {
    stack.lines().find_map(|line| {
        let frame = line.trim_start().strip_prefix("at ")?;
        let place = match frame.rsplit_once('(') {
            Some((_, place)) => place.strip_suffix(')')?,
            None => frame,
        };
        let (rest, last) = place.rsplit_once(':')?;
        let last: u32 = last.parse().ok()?;
        let with_column = rest
            .rsplit_once(':')
            .and_then(|(file, line)| Some((file, line.parse().ok()?, Some(last))));
        let (file, line, column) = with_column.unwrap_or((rest, last, None));
        // `<input>` is a text that was parsed, not a file.
        let is_file = !file.is_empty() && !file.starts_with('<');
        is_file.then(|| SourcePos {
            file: file.into(),
            line,
            column,
        })
    })
}

/// What the interpreter says of a call of something else than a function.
const NOT_A_FUNCTION: &str = "TypeError: not a function";

/// Adds to such an error what was called, as written in the source, which the interpreter does not
/// say. `pos` is the place of the call, `read` returns the text of a file.
pub(super) fn with_callee(
    text: &str,
    pos: Option<&SourcePos>,
    read: impl FnOnce(&str) -> Option<String>,
) -> String {
    let callee = || {
        let rest = text.strip_prefix(NOT_A_FUNCTION)?;
        if !rest.starts_with('\n') {
            return None;
        }
        let pos = pos?;
        let line = usize::try_from(pos.line).ok()?.checked_sub(1)?;
        let at = usize::try_from(pos.column?).ok()?.checked_sub(1)?;
        let source = read(pos.file.to_str()?)?;
        let line: Vec<char> = source.lines().nth(line)?.chars().collect();
        let is_name = |c: &char| c.is_alphanumeric() || matches!(c, '_' | '$' | '#');
        let before = line.get(..at)?.iter().rev();
        let before = before.take_while(|c| is_name(c) || matches!(c, '.' | '?'));
        let start = at - before.count();
        let name: String = line[at..].iter().take_while(|c| is_name(c)).collect();
        let owner: String = line[start..at].iter().collect();
        (!name.is_empty()).then(|| (format!("{owner}{name}"), rest))
    };
    match callee() {
        Some((callee, rest)) => format!("{NOT_A_FUNCTION}: {callee}{rest}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pos(file: &str, line: u32, column: u32) -> SourcePos {
        SourcePos {
            file: file.into(),
            line,
            column: Some(column),
        }
    }

    #[test]
    fn names_what_was_called() {
        let named = |line: &str, column: u32| {
            let text = format!("TypeError: not a function\n    at f (w.js:2:{column})");
            let source = format!("\n{line}\n");
            let pos = pos("w.js", 2, column);
            with_callee(&text, Some(&pos), |file| (file == "w.js").then_some(source))
        };
        for (line, column, callee) in [
            ("lib.connect(1)", 5, ": lib.connect\n"),
            ("const f = 5; f()", 14, ": f\n"),
            ("x = é.a?.$b_1()", 10, ": é.a?.$b_1\n"),
            ("(1)(2)", 4, "function\n"),
            ("f()", 99, "function\n"),
        ] {
            assert!(named(line, column).contains(callee), "{line}");
        }
        let other = "TypeError: no\n    at f (w.js:2:1)";
        let at = pos("w.js", 2, 1);
        assert_eq!(with_callee(other, Some(&at), |_| Some("a".into())), other);
    }

    #[test]
    fn finds_the_first_frame_in_a_file() {
        for (stack, place) in [
            (
                "    at f (a/b.js:3:5)\n    at <eval> (b.js:1:1)",
                Some(pos("a/b.js", 3, 5)),
            ),
            ("    at a.js:1:9", Some(pos("a.js", 1, 9))),
            (
                "    at <input>:1:2\n    at f (b.js:4:1)",
                Some(pos("b.js", 4, 1)),
            ),
            ("", None),
            ("    at f (native)", None),
        ] {
            assert_eq!(first_place(stack), place, "{stack}");
        }
    }
}
