//! The figures, as they come and at the end as a table.

use std::io::Write as _;

use crate::Done;

/// Rows of figure, measured, target, ratio and verdict.
#[derive(Default)]
pub struct Table(Vec<[String; 5]>);

impl Table {
    /// A figure with a target. `ratio` is 1 where the target is just met, more where it is
    /// surpassed.
    pub fn row(&mut self, figure: &str, measured: String, target: &str, ratio: f64) {
        let verdict = if ratio >= 1.0 {
            "ok"
        } else if ratio >= 1.0 / 1.5 {
            "within 1.5x"
        } else {
            "missed"
        };
        self.push([figure, &measured, target, &format!("{ratio:.2}"), verdict]);
    }

    /// A figure that only explains others.
    pub fn note(&mut self, figure: &str, measured: String) {
        self.push([figure, &measured, "", "", ""]);
    }

    fn push(&mut self, cells: [&str; 5]) {
        eprintln!("  {}: {} {}", cells[0], cells[1], cells[4]);
        self.0.push(cells.map(str::to_owned));
    }

    /// Writes it to standard output.
    pub fn print(&self) -> Done<()> {
        let head = ["figure", "measured", "target", "ratio", "verdict"].map(str::to_owned);
        let rows = || std::iter::once(&head).chain(&self.0);
        let widths: Vec<usize> = (0..head.len())
            .map(|at| rows().map(|row| row[at].chars().count()).max().unwrap_or(0))
            .collect();
        let mut out = std::io::stdout().lock();
        writeln!(out)?;
        for (number, row) in rows().enumerate() {
            let cells = row.iter().zip(&widths);
            let cells: Vec<_> = cells
                .map(|(cell, width)| format!("{cell:width$}"))
                .collect();
            writeln!(out, "| {} |", cells.join(" | "))?;
            if number == 0 {
                let lines: Vec<_> = widths.iter().map(|width| "-".repeat(*width)).collect();
                writeln!(out, "|-{}-|", lines.join("-|-"))?;
            }
        }
        Ok(())
    }
}
