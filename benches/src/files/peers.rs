//! Our mount beside other distributed file systems: for each row the best of them, our ratio to it, and what we aim at.

use super::place::{BARK, PEERS};
use super::table::{Row, Table, ratio, shown};

/// How many times as fast as the best of the peers each row shall be. The first that begins a row's name and, if it
/// names more, is found in it, counts.
const TARGETS: [(&str, &str, f64); 18] = [
    ("", "from a second mount", 1.5),
    ("create", "1 process", 2.0),
    ("create", "4 processes", 3.0),
    ("stat", "", 1.5),
    ("open + read", "", 1.5),
    ("rename", "", 1.5),
    ("unlink", "", 1.5),
    ("readdir", "", 1.0),
    ("sequential", "", 1.5),
    ("random read", "", 1.5),
    ("random write", "", 2.0),
    ("SQLite", "", 3.0),
    ("dbench", "", 2.0),
    ("untar", "", 2.0),
    ("git clone", "", 2.0),
    ("ls -lR", "", 1.0),
    ("grep -r", "", 1.0),
    ("", "", 1.0),
];

fn target(row: &str) -> f64 {
    let fits = |(begin, part, _): &&(&str, &str, f64)| row.starts_with(begin) && row.contains(part);
    TARGETS.iter().find(fits).map_or(1.0, |target| target.2)
}

/// The peer we come out worst against.
fn best(row: &Row) -> Option<(&'static str, f64)> {
    let ratios = PEERS.iter().filter_map(|peer| Some((*peer, row.ratio(peer)?)));
    ratios.min_by(|one, other| one.1.total_cmp(&other.1))
}

/// As markdown.
pub fn print(table: &Table, places: &[&str]) {
    let peers = || PEERS.iter().filter(|peer| places.contains(peer));
    let titles: String = peers().map(|peer| format!(" {peer} |")).collect();
    println!("\n| beside the peers | {BARK} |{titles} best | ratio | target | |");
    println!(
        "| --- | --: |{} --- | --: | --: | --- |",
        " --: |".repeat(peers().count())
    );
    let (mut met, mut compared) = (0, 0);
    for row in &table.rows {
        let cell = |place: &str| {
            let spread = row
                .spread(place)
                .map_or(String::new(), |part| format!(" ±{:.0} %", part * 100.0));
            format!("{}{spread} |", shown(row.value(place)))
        };
        let cells: String = peers().map(|peer| format!(" {}", cell(peer))).collect();
        let (name, reached) = best(row).map_or(("-", None), |(name, ratio)| (name, Some(ratio)));
        let target = target(&row.name);
        let verdict = match reached {
            Some(reached) if reached >= target => "met",
            Some(_) => "missed",
            None => "",
        };
        compared += usize::from(reached.is_some());
        met += usize::from(verdict == "met");
        println!(
            "| {}, {} | {}{cells} {name} | {} | {target} | {verdict} |",
            row.name,
            row.unit.name(),
            cell(BARK),
            ratio(reached)
        );
    }
    println!(
        "\n{met} of {compared} targets are met; a ratio above 1 is for us, ± is half of what lies between least and most."
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::meter::{Sample, Unit};

    fn sample(row: &str, unit: Unit, value: f64) -> Sample {
        Sample {
            row: row.into(),
            unit,
            value,
            mount_cpu_us: 0.0,
            nodes_cpu_us: 0.0,
        }
    }

    /// Goal: speeds and times are both compared with the best of the peers, whichever that is.
    #[test]
    fn the_best_peer_is_the_fastest_one() {
        let mut table = Table::default();
        for (place, speed, time) in [(BARK, 100.0, 2.0), (PEERS[0], 50.0, 4.0), (PEERS[1], 80.0, 8.0)] {
            let samples = vec![
                sample("stat", Unit::PerSecond, speed),
                sample("untar", Unit::Seconds, time),
            ];
            table.add(place, samples);
        }
        assert_eq!(best(&table.rows[0]), Some((PEERS[1], 1.25)));
        assert_eq!(best(&table.rows[1]), Some((PEERS[0], 2.0)));
    }

    /// Goal: a row that is named more narrowly has the narrower target.
    #[test]
    fn the_first_target_that_fits_counts() {
        assert_eq!(target("create + write 4 KiB + close, 4 processes"), 3.0);
        assert_eq!(target("create + write 4 KiB + close, from a second mount"), 1.5);
        assert_eq!(target("readdir, entries, 1 process"), 1.0);
        assert_eq!(target("random write 4 KiB + fsync each"), 2.0);
        assert_eq!(target("rm -rf, 2000 files"), 1.0);
    }
}
