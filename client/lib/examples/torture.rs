//! Random operations on files of a running cluster, each compared with a vector: what `fsx` does, without a kernel.
//!
//! `cargo run --release -p bark-client --example torture -- 127.0.0.1:7111 [seed] [operations]`
//!
//! Two handles work on the same files, as two mounts would: whoever reads asks first whether the file changed.

use bark_client::files::FileHandle;
use bark_client::{Client, ClientConfig, Source};
use bark_schema::data::{Allocation, SeekTarget};
use bytes::Bytes;

const SIZE_MAX: u64 = 6 << 20;

struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn bytes(&mut self, size: u64) -> Bytes {
        let start = self.next();
        (0..size)
            .map(|at| (start.wrapping_add(at * 7) >> 3) as u8 | 1)
            .collect()
    }
}

struct File {
    writer: FileHandle,
    reader: FileHandle,
    content: Vec<u8>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let node = arguments.first().cloned().unwrap_or("127.0.0.1:7111".into());
    let seed: u64 = arguments.get(1).map_or(Ok(1), |text| text.parse())?;
    let operations: u64 = arguments.get(2).map_or(Ok(1_000), |text| text.parse())?;
    let client = Client::connect(ClientConfig::new(Source::Nodes(vec![node]))).await?;
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut files = Vec::new();
    for name in ["a", "b"] {
        let directory = format!("/torture-{seed}-{name}").parse()?;
        client.files().make_directories(&directory, 0o755).await?;
        let path = format!("/torture-{seed}-{name}/file").parse()?;
        client.files().write(&path, Bytes::new()).await?;
        let attributes = client.files().stat(&path).await?;
        let (inode, policy) = (attributes.inode, attributes.policy);
        files.push(File {
            writer: client.files().handle(inode, policy),
            reader: client.files().handle(inode, policy),
            content: Vec::new(),
        });
    }
    for operation in 0..operations {
        let what = step(&mut files, &mut dice).await;
        let what = what.map_err(|error| format!("operation {operation}: {error}"))?;
        if let Some(difference) = what {
            return Err(format!("operation {operation}: {difference}").into());
        }
    }
    for file in &files {
        file.writer.sync().await?;
        file.reader.revalidate().await?;
        let found = file.reader.read_at(0, file.content.len() + 1).await?;
        if found != file.content {
            return Err("at the end a file has other bytes than were written".into());
        }
    }
    println!("{operations} operations, every byte is what it should be");
    Ok(())
}

/// One operation. Answers what differs from the vector, if anything does.
async fn step(files: &mut [File], dice: &mut Dice) -> Result<Option<String>, bark_client::Error> {
    let index = dice.below(files.len() as u64) as usize;
    let size = files[index].content.len() as u64;
    let offset = dice.below((size + 100_000).min(SIZE_MAX));
    let length = match dice.below(4) {
        0 => 1 + dice.below(1_000_000),
        1 => 1 + dice.below(100),
        _ => 1 + dice.below(20_000),
    };
    let file = &mut files[index];
    match dice.below(14) {
        0..=3 => {
            let data = dice.bytes(length);
            file.writer.write_at(offset, data.clone()).await?;
            lay(&mut file.content, offset, &data);
        }
        4..=5 => {
            let data = dice.bytes(length);
            file.writer.stage_at(offset, data.clone()).await?;
            lay(&mut file.content, offset, &data);
        }
        6 => {
            let data = dice.bytes(length.min(5_000));
            let (at, _) = file.writer.append(data.clone()).await?;
            if at != size {
                return Ok(Some(format!("appended at {at}, the file had {size} bytes")));
            }
            lay(&mut file.content, at, &data);
        }
        7 => {
            let how = [Allocation::PunchHole, Allocation::ZeroRange][dice.below(2) as usize];
            file.writer.allocate(offset, length, how, true).await?;
            let end = (offset + length).min(size);
            if offset < end {
                file.content[offset as usize..end as usize].fill(0);
            }
        }
        8 => {
            file.writer.truncate(offset).await?;
            file.content.resize(offset as usize, 0);
        }
        9 => return copy(files, index, offset, length, dice).await,
        10 => {
            let found = file.writer.seek(offset, SeekTarget::Data).await?;
            let data = found.unwrap_or(size).min(size);
            let hole = file
                .content
                .get(offset as usize..data as usize)
                .unwrap_or_default();
            if hole.iter().any(|byte| *byte != 0) {
                return Ok(Some("data in what is said to be a hole".into()));
            }
        }
        _ => {
            let expected = &file.content[(offset.min(size)) as usize..(offset + length).min(size) as usize];
            let found = file.writer.read_at(offset, length as usize).await?;
            if found != expected {
                return Ok(Some(format!(
                    "{offset} + {length} reads wrongly where it was written"
                )));
            }
            file.writer.flush().await?;
            file.reader.revalidate().await?;
            let found = file.reader.read_at(offset, length as usize).await?;
            if found != expected {
                return Ok(Some(format!("{offset} + {length} reads wrongly elsewhere")));
            }
        }
    }
    Ok(None)
}

async fn copy(
    files: &mut [File],
    to: usize,
    to_offset: u64,
    length: u64,
    dice: &mut Dice,
) -> Result<Option<String>, bark_client::Error> {
    let from = dice.below(files.len() as u64) as usize;
    let size = files[from].content.len() as u64;
    let from_offset = dice.below(size);
    let length = length.min(size - from_offset.min(size));
    let overlaps = from_offset < to_offset + length && to_offset < from_offset + length;
    if from == to && overlaps || length == 0 {
        return Ok(None);
    }
    let (source, target) = (&files[from].writer, &files[to].writer);
    let copied = source.copy_range(from_offset, target, to_offset, length).await?;
    if copied != length {
        return Ok(Some(format!("{copied} of {length} bytes were copied")));
    }
    let source = files[from].content[from_offset as usize..(from_offset + length) as usize].to_vec();
    lay(&mut files[to].content, to_offset, &source);
    Ok(None)
}

fn lay(content: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let end = offset as usize + data.len();
    content.resize(content.len().max(end), 0);
    content[offset as usize..end].copy_from_slice(data);
}
