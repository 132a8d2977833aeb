//! Takes the time of one row: on the clock, and on the processors of the place's processes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::place::Place;
use crate::processor;

/// What the value of a row counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    PerSecond,
    MebibytesPerSecond,
    Seconds,
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Unit::PerSecond => "/s",
            Unit::MebibytesPerSecond => "MiB/s",
            Unit::Seconds => "s",
        }
    }
}

/// What a measured action did.
pub struct Work {
    /// Operations, or bytes where the unit is MiB/s.
    pub count: u64,
    /// The part of the time that counts, if not all of it.
    pub elapsed: Option<Duration>,
}

impl From<u64> for Work {
    fn from(count: u64) -> Work {
        Work { count, elapsed: None }
    }
}

/// One row, measured once.
pub struct Sample {
    pub row: String,
    pub unit: Unit,
    pub value: f64,
    /// Per operation, or per MiB.
    pub mount_cpu_us: f64,
    pub nodes_cpu_us: f64,
}

pub struct Meter<'a> {
    place: &'a Place,
    directory: PathBuf,
    pub samples: Vec<Sample>,
}

impl Meter<'_> {
    pub fn new(place: &Place) -> Meter<'_> {
        Meter {
            place,
            directory: place.directory.join("work"),
            samples: Vec::new(),
        }
    }

    /// The same directory as another client sees it, where the place has two.
    pub fn second_directory(&self) -> Option<PathBuf> {
        Some(self.place.second_directory.as_ref()?.join("work"))
    }

    /// Where the workload works.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn measure<W: Into<Work>>(
        &mut self,
        row: impl Into<String>,
        unit: Unit,
        action: impl FnOnce() -> anyhow::Result<W>,
    ) -> anyhow::Result<()> {
        let used = |processes: &[u32]| processor::used_nanoseconds(processes.iter().copied()) as f64;
        let (mount_before, nodes_before) = (
            used(&self.place.mount_processes),
            used(&self.place.node_processes),
        );
        let start = Instant::now();
        let work = action()?.into();
        let seconds = work.elapsed.unwrap_or_else(|| start.elapsed()).as_secs_f64();
        let count = match unit {
            Unit::MebibytesPerSecond => work.count as f64 / f64::from(1 << 20),
            Unit::PerSecond | Unit::Seconds => work.count as f64,
        };
        let each = |before: f64, processes: &[u32]| (used(processes) - before) / 1000.0 / count.max(1.0);
        self.samples.push(Sample {
            row: row.into(),
            unit,
            value: match unit {
                Unit::Seconds => seconds,
                Unit::PerSecond | Unit::MebibytesPerSecond => count / seconds,
            },
            mount_cpu_us: each(mount_before, &self.place.mount_processes),
            nodes_cpu_us: each(nodes_before, &self.place.node_processes),
        });
        Ok(())
    }
}
