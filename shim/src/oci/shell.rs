//! Command lines for a shell, in images without a shell: Docker turns the string form of a health
//! check or an entry point into `/bin/sh -c LINE`.

/// Characters that a shell interprets outside of quotes.
const SPECIAL: &str = "|&;<>()$`\\*?[]#~{}\n\r";

/// The names of the shell that clients use.
const NAMES: [&str; 2] = ["/bin/sh", "sh"];

/// Returns the line of `sh -c LINE`.
pub(crate) fn command_line<'a>(arguments: &[&'a str]) -> Option<&'a str> {
    match arguments {
        [shell, "-c", line] if NAMES.contains(shell) => Some(line),
        _ => None,
    }
}

/// Splits a line that only calls one program with fixed arguments. Returns `None` if the line needs
/// a shell.
///
/// `exec` before the program is dropped. So is `|| exit 1` after it, as it only changes the exit
/// code of a failure.
pub(crate) fn split_words(line: &str) -> Option<Vec<String>> {
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
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

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
            let found = split_words(line).unwrap_or_default();
            assert_eq!(found, expected, "{line}");
        }
    }

    #[test]
    fn rejects_lines_that_need_a_shell() {
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
            assert_eq!(split_words(line), None, "{line}");
        }
    }

    #[test]
    fn finds_the_line_of_a_shell_only() {
        assert_eq!(command_line(&["/bin/sh", "-c", "x"]), Some("x"));
        assert_eq!(command_line(&["sh", "-c", "x"]), Some("x"));
        for arguments in [
            &["/bin/sh", "-c"][..],
            &["/bin/sh", "x"],
            &["/x", "-c", "y"],
            &["sh", "-c", "x", "y"],
        ] {
            assert_eq!(command_line(arguments), None, "{arguments:?}");
        }
    }

    /// Returns the words that the shell makes of each line.
    fn words_of_shell(lines: &[String]) -> Vec<Vec<String>> {
        let print = |line: &String| format!("printf '%s\\0' {line}\nprintf '\\1\\0'\n");
        let script: String = lines.iter().map(print).collect();
        let mut shell = std::process::Command::new("/bin/sh");
        let output = shell.args(["-c", &script]).env("LC_ALL", "C").output();
        let output = output.unwrap();
        assert!(output.status.success(), "{script}");
        let mut all = vec![Vec::new()];
        for word in String::from_utf8(output.stdout)
            .unwrap()
            .split_terminator('\0')
        {
            match word {
                "\u{1}" => all.push(Vec::new()),
                _ => all.last_mut().unwrap().push(word.to_owned()),
            }
        }
        all.pop();
        all
    }

    proptest! {
        #[test]
        fn splits_as_the_shell_does(
            lines in prop::collection::vec("[a-c '\"\t\u{b}\u{c}\u{a0}ü=%@^!,.:+/-]{1,20}", 1..60),
        ) {
            let split = |line: String| Some((split_words(&line)?, line));
            let (words, lines): (Vec<_>, Vec<_>) = lines.into_iter().filter_map(split).unzip();
            prop_assert_eq!(words, words_of_shell(&lines));
        }

        #[test]
        fn splits_any_line(line in any::<String>(), likely in "[a-z '\"|$=\\\\]{0,30}") {
            split_words(&line);
            split_words(&likely);
        }

        #[test]
        fn splits_quoted_words(words in prop::collection::vec("[^'=]{1,10}", 1..6)) {
            prop_assume!(words[0] != "exec");
            let quoted: Vec<_> = words.iter().map(|word| format!("'{word}'")).collect();
            let line = quoted.join(" ");
            prop_assume!(!line.contains("||"));
            prop_assert_eq!(split_words(&line), Some(words));
        }
    }
}
