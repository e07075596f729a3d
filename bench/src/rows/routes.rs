//! Finding a route among many, beside among few.

use std::{fs, hint::black_box, path::Path, time::Instant};

use anyhow::{Result, ensure};
use wws_project::{LoadOptions, Project, RouteMatch, load};

use crate::report::{Measured, Report, Target, median};

const FEW: usize = 10;
const MANY: usize = 10_000;

/// Searches of one round.
const SEARCHES: usize = 100_000;

const ROUNDS: usize = 15;

pub(crate) fn measure(report: &mut Report) -> Result<()> {
    let (few, many) = (Routes::new(FEW)?, Routes::new(MANY)?);
    let (mut few_times, mut many_times) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        few_times.push(few.time()?);
        many_times.push(many.time()?);
    }
    report.add(&Measured {
        name: "finding a route among 10,000 : among 10",
        value: median(&mut many_times),
        unit: "ns",
        peer: "10 routes",
        peer_value: median(&mut few_times),
        target: Target::AtMost(1.3),
        how: "100,000 searches for 10 paths (half of them with a parameter) through Project::find, \
            median of 15 rounds in turns",
    });
    Ok(())
}

struct Routes {
    project: Project,
    paths: Vec<String>,
}

impl Routes {
    fn new(count: usize) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        for index in 0..count {
            write(directory.path(), index)?;
        }
        let project = load(directory.path(), &LoadOptions::default())
            .map_err(|problems| anyhow::anyhow!("{problems}"))?;
        ensure!(project.workers().len() == count);
        // The same number of paths from both, so that the CPU's caches are no part of the question.
        let paths = (0..FEW)
            // Spread over all, every other one with a parameter.
            .map(|index| index * count / FEW + (index * count / FEW + index) % 2)
            .map(|index| {
                if index % 2 == 0 {
                    format!("/api/r{index}/list")
                } else {
                    format!("/api/r{index}/7")
                }
            })
            .collect();
        Ok(Self { project, paths })
    }

    fn time(&self) -> Result<f64> {
        let started = Instant::now();
        let mut found = 0usize;
        for index in 0..SEARCHES {
            found += usize::from(matches!(
                self.project
                    .find(black_box(&self.paths[index % self.paths.len()])),
                RouteMatch::Worker { .. }
            ));
        }
        let elapsed = started.elapsed();
        ensure!(found == SEARCHES, "a route was not found");
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
        Ok(elapsed.as_nanos() as f64 / SEARCHES as f64)
    }
}

fn write(directory: &Path, index: usize) -> Result<()> {
    let directory = directory.join(format!("api/r{index}"));
    fs::create_dir_all(&directory)?;
    let name = if index.is_multiple_of(2) {
        "list.wasm"
    } else {
        "[id].wasm"
    };
    fs::write(directory.join(name), "")?;
    Ok(())
}
