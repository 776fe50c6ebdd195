//! Results on standard output.

use serde::Serialize;

use crate::exit::{Exit, Failure, OrExit};

/// How to print results.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs: one JSON object or array on one line.
    Json,
}

impl Output {
    /// Prints `value` for programs, or what `table` makes of it for people.
    pub(crate) fn print<T: Serialize>(
        self,
        value: &T,
        table: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        match self {
            Self::Table => print(&table(value)),
            Self::Json => print(&serde_json::to_string(value).or_exit(Exit::NotFine)?),
        }
    }
}

/// Prints a line, or lines, and gets it out at once: the reader may be waiting for it.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", text.trim_end()).and_then(|()| stdout.flush()).or_exit(Exit::Unavailable)
}

/// Lays out rows in columns under a header.
pub(crate) fn columns<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = header.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: [&str; N]| {
        let cells: Vec<_> =
            cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    let mut table = line(header);
    for row in rows {
        table.push_str(&line(row.each_ref().map(String::as_str)));
    }
    table
}
