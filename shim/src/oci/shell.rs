//! Command lines that are written for a shell, in images that have none: Docker makes `/bin/sh -c LINE` of the string form of a
//! health check or an entry point.

/// What means something to a shell outside of quotes.
const SPECIAL: &str = "|&;<>()$`\\*?[]#~{}\n\r";

/// The names of the shell, as clients write it.
const NAMES: [&str; 2] = ["/bin/sh", "sh"];

/// The line of `sh -c LINE`.
pub(crate) fn line<'a>(arguments: &[&'a str]) -> Option<&'a str> {
    match arguments {
        [shell, "-c", line] if NAMES.contains(shell) => Some(line),
        _ => None,
    }
}

/// The words of a line that does nothing but call one program with fixed arguments: none if it takes a shell to understand it.
///
/// `exec` before the program changes nothing, and neither does `|| exit 1` after it, for those who ask only whether it succeeded.
pub(crate) fn words(line: &str) -> Option<Vec<String>> {
    let line = match line.rsplit_once("||") {
        Some((line, or)) if or.split_whitespace().eq(["exit", "1"]) => line,
        _ => line,
    };
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for letter in line.chars() {
        match quote {
            Some(end) if letter == end => quote = None,
            Some('"') if "$`\\".contains(letter) => return None,
            Some(_) => word.get_or_insert_default().push(letter),
            None if letter == '"' || letter == '\'' => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            None if letter == ' ' || letter == '\t' => words.extend(word.take()),
            None if SPECIAL.contains(letter) => return None,
            None => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    if words.first().is_some_and(|word| word == "exec") {
        words.remove(0);
    }
    let program = words.first()?;
    // `NAME=value program` sets a variable.
    (quote.is_none() && !program.contains('=')).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_a_line_that_calls_one_program() {
        for (line, expected) in [
            ("wws health", &["wws", "health"][..]),
            (
                "  wws   health\t--request /a ",
                &["wws", "health", "--request", "/a"],
            ),
            ("wws health || exit 1", &["wws", "health"]),
            ("exec wws health||exit 1", &["wws", "health"]),
            (
                "wws health --request '/a?b=$c d'",
                &["wws", "health", "--request", "/a?b=$c d"],
            ),
            ("wws \"a b\"c ''", &["wws", "a bc", ""]),
            ("/", &["/"]),
        ] {
            let found = words(line).unwrap_or_default();
            assert_eq!(found, expected, "{line}");
        }
    }

    #[test]
    fn leaves_what_takes_a_shell() {
        for line in [
            "",
            "exec",
            "wws health | grep x",
            "wws health || true",
            "wws health && wws check",
            "wws health $PORT",
            "wws health \"$PORT\"",
            "wws health `x`",
            "PORT=1 wws health",
            "wws health > /dev/null",
            "wws 'health",
            "wws *",
            "wws health # it",
        ] {
            assert_eq!(words(line), None, "{line}");
        }
    }

    #[test]
    fn only_a_shell_has_a_line() {
        assert_eq!(line(&["/bin/sh", "-c", "x"]), Some("x"));
        assert_eq!(line(&["sh", "-c", "x"]), Some("x"));
        for arguments in [
            &["/bin/sh", "-c"][..],
            &["/bin/sh", "x"],
            &["/x", "-c", "y"],
            &["sh", "-c", "x", "y"],
        ] {
            assert_eq!(line(arguments), None, "{arguments:?}");
        }
    }
}
