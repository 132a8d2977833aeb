//! The first table: what each operation costs with few files and with many, and how many times as much that is.

use serde_json::Value;

/// Name, field of a row, and whether it is told for each file.
const OPERATIONS: [(&str, &str, bool); 7] = [
    ("create, ns", "create_ns", false),
    ("lookup, ns", "lookup_ns", false),
    ("stat, ns", "stat_ns", false),
    ("readdir, ns an entry", "readdir_ns", false),
    ("unlink, ns", "unlink_ns", false),
    ("memory, bytes a file", "bytes_per_inode", false),
    ("restart from a snapshot, ns a file", "load_ms", true),
];

/// As markdown, with what the last column would be if cost grew with the logarithm of the number of files, or with the number.
pub fn print(rows: &[Value]) {
    let number = |row: &Value, name: &str| row[name].as_f64().unwrap_or(f64::NAN);
    let of = |layout: &str| -> Vec<&Value> {
        let fits = |row: &&Value| {
            row["case"] == "tree" && row["layout"] == *layout && number(row, "content_bytes") == 0.0
        };
        rows.iter().filter(fits).collect()
    };
    let (Some(first), Some(last)) = (of("one").first().copied(), of("one").last().copied()) else {
        return;
    };
    let (few, many) = (number(first, "files"), number(last, "files"));
    let titles: String = of("one")
        .iter()
        .map(|row| format!(" {} files |", number(row, "files")))
        .collect();
    println!("| | |{titles} {many} / {few} |");
    println!("| --- | --- |{} --: |", " --: |".repeat(of("one").len()));
    for (layout, place) in [("one", "one directory"), ("many", "many directories")] {
        for (name, field, for_each_file) in OPERATIONS {
            let value = |row: &Value| match for_each_file {
                true => number(row, field) * 1e6 / number(row, "files"),
                false => number(row, field),
            };
            let values: Vec<f64> = of(layout).into_iter().map(value).collect();
            let cells: String = values.iter().map(|value| format!(" {value:.0} |")).collect();
            let ratio = values.last().copied().unwrap_or(f64::NAN) / values[0];
            println!("| {name} | {place} |{cells} {ratio:.2} |");
        }
    }
    println!(
        "\n{many} / {few}: flat is 1, logarithmic {:.1}, linear {:.0}; a restart reads the snapshot of {many} files in {:.0} ms\n",
        many.ln() / few.ln(),
        many / few,
        number(last, "load_ms")
    );
}
