//! Where in the user's files an error arose.

/// Puts the place of the first frame before an error's text: `file:line:column: Error: message`, then the frames.
pub(super) fn with_place(text: &str) -> String {
    match first_place(text) {
        Some(place) => format!("{place}: {text}"),
        None => text.to_owned(),
    }
}

fn first_place(text: &str) -> Option<&str> {
    text.lines().skip(1).find_map(|line| {
        let frame = line.trim_start().strip_prefix("at ")?;
        let place = match frame.rsplit_once('(') {
            Some((_, place)) => place.strip_suffix(')')?,
            None => frame,
        };
        // A place ends with a line.
        let (rest, last) = place.rsplit_once(':')?;
        // `<input>` is a text that was parsed, no file.
        (last.parse::<u32>().is_ok() && !rest.is_empty() && !rest.starts_with('<')).then_some(place)
    })
}

/// What the interpreter's errors of calls say.
const NOT_A_FUNCTION: &str = "TypeError: not a function";

/// Names in such an error what was called, as the source has it: the interpreter does not. `read` gives a file's text.
pub(super) fn with_callee(text: &str, read: impl FnOnce(&str) -> Option<String>) -> String {
    let callee = || {
        let rest = text.strip_prefix(NOT_A_FUNCTION)?;
        if !rest.starts_with('\n') {
            return None;
        }
        let mut place = first_place(text)?.rsplitn(3, ':');
        let column: usize = place.next()?.parse().ok()?;
        let line: usize = place.next()?.parse().ok()?;
        let source = read(place.next()?)?;
        let line: Vec<char> = source.lines().nth(line.checked_sub(1)?)?.chars().collect();
        let at = column.checked_sub(1)?;
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

    #[test]
    fn what_was_called_is_named() {
        let named = |line: &str, column: usize| {
            let text = format!("TypeError: not a function\n    at f (w.js:2:{column})");
            let source = format!("\n{line}\n");
            with_callee(&text, |file| (file == "w.js").then_some(source))
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
        assert_eq!(with_callee(other, |_| Some("a".into())), other);
    }

    #[test]
    fn the_first_frame_is_the_place() {
        for (text, with) in [
            (
                "Error: x\n    at f (a/b.js:3:5)\n    at <eval> (b.js:1:1)",
                "a/b.js:3:5: Error: x",
            ),
            (
                "SyntaxError: x\n    at a.js:1:9",
                "a.js:1:9: SyntaxError: x",
            ),
            (
                "SyntaxError: x\n    at <input>:1:2\n    at f (b.js:4:1)",
                "b.js:4:1: SyntaxError: x",
            ),
            ("thrown", "thrown"),
            ("Error: x\n    at f (native)", "Error: x"),
        ] {
            assert!(with_place(text).starts_with(with), "{text}");
        }
    }
}
