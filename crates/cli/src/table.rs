//! Rows as lines of aligned columns.

/// A wider cell moves the cells after it: `format!` pads to 65,535 characters at most, and names of
/// files may be longer.
const MAX_WIDTH: usize = 200;

/// A line for each row; the last column may be of any width.
pub(crate) fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let rows: Vec<[String; N]> = rows
        .iter()
        .map(|row| row.each_ref().map(|cell| printable(cell)))
        .collect();
    let widths: [usize; N] = std::array::from_fn(|column| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
            .min(MAX_WIDTH)
    });
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths);
        let line: String = cells
            .map(|(cell, width)| format!("{cell:width$}  "))
            .collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Names of files are anybody's: none may look like a line of its own, or be read by a terminal.
fn printable(cell: &str) -> String {
    let mut text = String::with_capacity(cell.len());
    for character in cell.chars() {
        if character.is_control() {
            text.extend(character.escape_default());
        } else {
            text.push(character);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::aligned;

    #[test]
    fn prints_long_cells_in_full() {
        let long = "x".repeat(100_000);
        let rows = [[long.clone(), "a".into()], ["y".into(), long.clone()]];
        let text = aligned(&rows);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], format!("{long}  a"));
        assert_eq!(lines[1], format!("{:200}  {long}", "y"));
        let forged = aligned(&[["a\n2026 INFO \u{1b}[2J".into(), String::new()]]);
        assert_eq!(forged, "a\\n2026 INFO \\u{1b}[2J\n");
    }
}
