//! `bark truncate`: sets sizes, with the units of coreutils.

use std::ffi::OsString;

use bark_client::Client;
use clap::Args;
use serde_json::json;

use super::cluster_paths;
use crate::output::Output;
use crate::problem::Problem;

const MODE: u32 = 0o644;

#[derive(Debug, Args)]
pub struct Truncate {
    /// The new size: bytes, or with K, M, G or T for powers of 1024, or KB, MB, GB or TB for powers of 1000.
    #[arg(short = 's', long, value_parser = parse_size)]
    size: u64,
    /// Leave alone what is not there.
    #[arg(short = 'c', long)]
    no_create: bool,
    #[arg(required = true)]
    paths: Vec<OsString>,
}

impl Truncate {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<(), Problem> {
        let files = client.files();
        output.begin_array();
        for path in cluster_paths(&self.paths)? {
            match files.truncate(&path, self.size).await {
                Err(error) if error.is_not_found() && self.no_create => continue,
                Err(error) if error.is_not_found() => {
                    files.create(&path, MODE).await?;
                    files.truncate(&path, self.size).await?;
                }
                result => result?,
            }
            output.element(json!({ "path": path.to_string(), "size": self.size }))?;
        }
        Ok(())
    }
}

pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let digits_end = text
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    let (base, letter) = match unit
        .strip_suffix("iB")
        .or_else(|| unit.strip_suffix('B').filter(|unit| unit.is_empty()))
    {
        Some(letter) => (1024_u64, letter),
        None => match unit.strip_suffix('B') {
            Some(letter) => (1000, letter),
            None => (1024, unit),
        },
    };
    let power = match letter {
        "" => 0,
        "K" | "k" => 1,
        "M" => 2,
        "G" => 3,
        "T" => 4,
        _ => return Err(format!("{unit} is no unit; write K, M, G or T")),
    };
    let count: u64 = digits.parse().map_err(|_| format!("{text} is not a size"))?;
    count
        .checked_mul(base.pow(power))
        .ok_or_else(|| format!("{text} is more than a file can have"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_units_of_coreutils() {
        // Goal: 1M is a mebibyte and 1MB a million. Method: table.
        for (text, expected) in [
            ("0", 0),
            ("10", 10),
            ("2K", 2048),
            ("1KiB", 1024),
            ("1MB", 1_000_000),
            ("16T", 16 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(expected), "{text}");
        }
        for text in ["", "K", "-1", "1X", "1.5M", "99999999T", "1 K"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
