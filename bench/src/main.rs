//! The figures of `SPECIFICATION.md`: the same load on us and on a peer, side by side in one run.
//!
//! `wws-bench` runs all rows, `wws-bench NAME...` those whose name contains a word. The results are
//! printed, and written to `bench/results.json`. A figure that misses its target is said so, and is
//! no failure of the run.

#![forbid(unsafe_code)]

mod load;
mod peer;
mod process;
mod report;
mod rows;

use anyhow::Result;
use report::Report;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [command, port] = &arguments[..]
        && command == peer::COMMAND
    {
        return peer::serve(port.parse()?);
    }
    let mut report = Report::default();
    let mut failed = Vec::new();
    for (name, row) in rows::ALL {
        if !arguments.is_empty() && !arguments.iter().any(|word| name.contains(word.as_str())) {
            continue;
        }
        eprintln!("== {name}");
        if let Err(error) = row(&mut report) {
            eprintln!("not measured: {error:#}");
            failed.push(name);
        }
    }
    report.print();
    report.write(&wws_test::workspace::root().join("bench/results.json"))?;
    anyhow::ensure!(failed.is_empty(), "not measured: {}", failed.join(", "));
    Ok(())
}
