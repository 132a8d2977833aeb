//! Rows, places and the medians where they meet.

use serde_json::{Value, json};

use super::meter::{Sample, Unit};
use super::place::{BARK, LOCAL, PASS_THROUGH};
use crate::origin::median;

#[derive(Default)]
pub struct Table {
    /// In the order they were first measured.
    pub rows: Vec<Row>,
}

pub struct Row {
    pub name: String,
    pub unit: Unit,
    cells: Vec<Cell>,
}

pub struct Cell {
    place: &'static str,
    values: Vec<f64>,
    mount_cpu_us: Vec<f64>,
    nodes_cpu_us: Vec<f64>,
}

impl Row {
    fn cell(&self, place: &str) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.place == place)
    }

    pub fn value(&self, place: &str) -> Option<f64> {
        Some(median(self.cell(place)?.values.clone()))
    }

    /// Half of what lies between the least and the most, as a part of the median.
    pub fn spread(&self, place: &str) -> Option<f64> {
        let values = &self.cell(place)?.values;
        let least = values.iter().copied().min_by(f64::total_cmp)?;
        let most = values.iter().copied().max_by(f64::total_cmp)?;
        Some((most - least) / 2.0 / median(values.clone()))
    }

    /// How many times as fast our place is as another.
    pub fn ratio(&self, other: &str) -> Option<f64> {
        let (ours, theirs) = (self.value(BARK)?, self.value(other)?);
        Some(match self.unit {
            Unit::Seconds => theirs / ours,
            Unit::PerSecond | Unit::MebibytesPerSecond => ours / theirs,
        })
    }
}

impl Table {
    pub fn add(&mut self, place: &'static str, samples: Vec<Sample>) {
        for sample in samples {
            let known = self.rows.iter().position(|row| row.name == sample.row);
            let index = known.unwrap_or_else(|| {
                self.rows.push(Row {
                    name: sample.row.clone(),
                    unit: sample.unit,
                    cells: Vec::new(),
                });
                self.rows.len() - 1
            });
            let cells = &mut self.rows[index].cells;
            let known = cells.iter().position(|cell| cell.place == place);
            let cell = known.unwrap_or_else(|| {
                cells.push(Cell {
                    place,
                    values: Vec::new(),
                    mount_cpu_us: Vec::new(),
                    nodes_cpu_us: Vec::new(),
                });
                cells.len() - 1
            });
            cells[cell].values.push(sample.value);
            cells[cell].mount_cpu_us.push(sample.mount_cpu_us);
            cells[cell].nodes_cpu_us.push(sample.nodes_cpu_us);
        }
    }

    /// As markdown.
    pub fn print(&self, places: &[&str]) {
        let mut columns = vec![String::new()];
        columns.extend(places.iter().map(|place| (*place).to_owned()));
        columns.extend(
            [
                "x local disk",
                "x pass-through",
                "mount, us each",
                "nodes, us each",
            ]
            .map(String::from),
        );
        println!(
            "\n|{}|",
            columns
                .iter()
                .map(|column| format!(" {column} |"))
                .collect::<String>()
                .trim_end_matches('|')
        );
        println!("| --- |{}", " --: |".repeat(columns.len() - 1));
        for row in &self.rows {
            let mut cells = vec![format!("{}, {}", row.name, row.unit.name())];
            cells.extend(places.iter().map(|place| shown(row.value(place))));
            cells.push(ratio(row.ratio(LOCAL)));
            cells.push(ratio(row.ratio(PASS_THROUGH)));
            let ours = row.cell(BARK);
            cells.push(shown(ours.map(|cell| median(cell.mount_cpu_us.clone()))));
            cells.push(shown(ours.map(|cell| median(cell.nodes_cpu_us.clone()))));
            println!("| {} |", cells.join(" | "));
        }
    }

    pub fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let cells = row.cells.iter().map(|cell| {
                json!({
                    "place": cell.place, "values": cell.values, "median": median(cell.values.clone()),
                    "mount_cpu_us": median(cell.mount_cpu_us.clone()),
                    "nodes_cpu_us": median(cell.nodes_cpu_us.clone()),
                })
            });
            json!({
                "row": row.name, "unit": row.unit.name(), "cells": cells.collect::<Vec<_>>(),
                "ratio_to_local_disk": row.ratio(LOCAL), "ratio_to_pass_through": row.ratio(PASS_THROUGH),
            })
        });
        rows.collect()
    }
}

/// Three digits, as many as mean something.
pub fn shown(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(value) if value >= 10_000.0 => format!("{:.0}k", value / 1000.0),
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) if value >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

pub fn ratio(value: Option<f64>) -> String {
    value.map_or("-".into(), |value| format!("{value:.2}"))
}
