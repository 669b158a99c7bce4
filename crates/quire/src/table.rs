//! Tables for people.

/// Columns as wide as their widest cell, two blanks between them.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with a line of headings.
    pub fn new<const N: usize>(headings: [&str; N]) -> Table {
        Table { rows: vec![headings.iter().map(ToString::to_string).collect()] }
    }

    /// Adds a line.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// The lines, each ending in a newline.
    pub fn render(&self) -> String {
        let widths = self.widths();
        let mut text = String::new();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            let line = cells.collect::<Vec<_>>().join("  ");
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// The same as a table in Markdown, numbers aligned to the right.
    pub fn render_markdown(&self) -> String {
        let widths = self.widths();
        let mut lines: Vec<String> = self.rows.iter().map(|row| markdown_line(row, &widths)).collect();
        let rule = widths.iter().enumerate().map(|(column, width)| match column {
            0 => format!("|{}", "-".repeat(width + 2)),
            _ => format!("|{}:", "-".repeat(width + 1)),
        });
        lines.insert(1.min(lines.len()), format!("{}|", rule.collect::<String>()));
        lines.join("\n") + "\n"
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        (0..columns).map(width).collect()
    }
}

/// A value as people read it; a dash for what is not known.
pub fn cell<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn markdown_line(row: &[String], widths: &[usize]) -> String {
    let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| match column {
        0 => format!("| {cell:width$} "),
        _ => format!("| {cell:>width$} "),
    });
    format!("{}|", cells.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_has_a_rule_below_the_headings() {
        let mut table = Table::new(["", "tps"]);
        table.row(["quire".into(), "12.5".into()]);
        assert_eq!(table.render_markdown(), "|       |  tps |\n|-------|-----:|\n| quire | 12.5 |\n");
    }

    #[test]
    fn columns_line_up_and_lines_end_without_blanks() {
        let mut table = Table::new(["node", "term"]);
        table.row(["1".into(), "22".into()]);
        table.row(["three".into(), String::new()]);
        assert_eq!(table.render(), "node   term\n1      22\nthree\n");
    }
}
