//! Cuts a connection's bytes into commands.
//!
//! Previous in the flow: the worker's chunks. Next: `command`.
//!
//! Bytes are copied once, into one growing buffer; a complete command is split off and its arguments are
//! slices of it. Where a command is incomplete the parser remembers how far it got, so a value that comes
//! in a thousand chunks is looked at once.
//!
//! Invariants:
//! - The buffer grows with the bytes that arrived, never with what a header announces.
//! - After an error the rest of the stream means nothing: the connection must end.
//!
//! Source: Redis 7.0 networking.c, whose limits and wording these are.

use bark_schema::limits::FRAME_SIZE_PEER_MAX;
use bytes::{Buf, Bytes, BytesMut};

/// Longest line: an inline command, or a header.
pub const LINE_SIZE_MAX: usize = 64 * 1024;
/// Most arguments of one command.
pub const ARGUMENTS_MAX: usize = 1024 * 1024;
/// What a command may need beside its largest argument.
const COMMAND_SIZE_BESIDE_MAX: usize = 64 * 1024 * 1024;
/// And what can be handed to another node in one frame.
const COMMAND_SIZE_MAX: usize = FRAME_SIZE_PEER_MAX - 128 * 1024;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("too big inline request")]
    InlineTooBig,
    #[error("unbalanced quotes in request")]
    UnbalancedQuotes,
    #[error("too big mbulk count string")]
    CountLineTooBig,
    #[error("too big bulk count string")]
    LengthLineTooBig,
    #[error("invalid multibulk length")]
    InvalidCount,
    #[error("invalid bulk length")]
    InvalidLength,
    #[error("expected '$', got '{}'", printable(*.0))]
    ExpectedLength(u8),
    #[error("too big request")]
    CommandTooBig,
}

fn printable(byte: u8) -> char {
    if byte.is_ascii_graphic() || byte == b' ' {
        char::from(byte)
    } else {
        ' '
    }
}

/// A command's name and arguments; never empty.
pub type Command = Vec<Bytes>;

/// A GET, or a SET without options, where it lies in the buffer: the short way for what most clients send most.
pub struct KeyCommand<'a> {
    pub key: &'a [u8],
    /// None: GET.
    pub value: Option<&'a [u8]>,
    /// Bytes of the whole command, to be passed to [`Parser::consume`].
    pub size: usize,
}

pub struct Parser {
    buffer: BytesMut,
    argument_size_max: usize,
    /// How far into the buffer the command at its start has been understood.
    position: usize,
    /// From where on no line end was looked for yet.
    searched: usize,
    /// Where the arguments found so far lie in the buffer.
    arguments: Vec<(usize, usize)>,
    /// Arguments still to come; 0 between commands.
    remaining: usize,
    /// Size of the argument that comes next, once its header was read.
    argument_size: Option<usize>,
}

impl Parser {
    pub fn new(argument_size_max: usize) -> Parser {
        Parser {
            buffer: BytesMut::new(),
            argument_size_max,
            position: 0,
            searched: 0,
            arguments: Vec::new(),
            remaining: 0,
            argument_size: None,
        }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes that wait to be understood or completed.
    pub fn buffered_size(&self) -> usize {
        self.buffer.len()
    }

    /// The next command if it is here, whole, in the form all clients send it, with short arguments, and a
    /// [`KeyCommand`]; it stays until it is consumed. Everything else is for [`Parser::next`].
    pub fn key_command(&self) -> Option<KeyCommand<'_>> {
        if self.position > 0 || self.remaining > 0 {
            return None;
        }
        let (head, rest) = self.buffer.split_at_checked(KEY_COMMAND_HEAD_SIZE)?;
        let (is_set, name) = match head {
            [
                b'*',
                b'2',
                b'\r',
                b'\n',
                b'$',
                b'3',
                b'\r',
                b'\n',
                name @ ..,
                b'\r',
                b'\n',
            ] => (false, name),
            [
                b'*',
                b'3',
                b'\r',
                b'\n',
                b'$',
                b'3',
                b'\r',
                b'\n',
                name @ ..,
                b'\r',
                b'\n',
            ] => (true, name),
            _ => return None,
        };
        if !name.eq_ignore_ascii_case(if is_set { b"set" } else { b"get" }) {
            return None;
        }
        let (key, rest) = short_argument(rest)?;
        let (value, rest) = match is_set {
            true => short_argument(rest).map(|(value, rest)| (Some(value), rest))?,
            false => (None, rest),
        };
        Some(KeyCommand {
            key,
            value,
            size: self.buffer.len() - rest.len(),
        })
    }

    /// Drops the command that [`Parser::key_command`] showed.
    pub fn consume(&mut self, size: usize) {
        self.buffer.advance(size);
        self.searched = 0;
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }

    /// Forgets everything, its memory too.
    pub fn clear(&mut self) {
        *self = Parser::new(self.argument_size_max);
    }

    /// The next complete command; None until more bytes come.
    pub fn next(&mut self) -> Result<Option<Command>, Error> {
        loop {
            if self.remaining > 0 {
                return self.next_argument_run();
            }
            match self.buffer.first() {
                None => return Ok(None),
                Some(b'*') => {
                    let Some(line) = self.line(Error::CountLineTooBig)? else {
                        return Ok(None);
                    };
                    let count = integer(&self.buffer[line.0 + 1..line.1]).ok_or(Error::InvalidCount)?;
                    if count <= 0 {
                        self.finish();
                        continue;
                    }
                    let count = usize::try_from(count).map_err(|_| Error::InvalidCount)?;
                    if count > ARGUMENTS_MAX {
                        return Err(Error::InvalidCount);
                    }
                    self.remaining = count;
                }
                Some(_) => match self.inline()? {
                    Some(command) if command.is_empty() => {}
                    other => return Ok(other),
                },
            }
        }
    }

    fn next_argument_run(&mut self) -> Result<Option<Command>, Error> {
        while self.remaining > 0 {
            let size = match self.argument_size {
                Some(size) => size,
                None => {
                    let Some(line) = self.line(Error::LengthLineTooBig)? else {
                        return Ok(None);
                    };
                    let header = &self.buffer[line.0..line.1];
                    match header.first() {
                        Some(b'$') => {}
                        other => return Err(Error::ExpectedLength(other.copied().unwrap_or(b'\r'))),
                    }
                    let size = integer(&header[1..]).and_then(|size| usize::try_from(size).ok());
                    let size = size
                        .filter(|size| *size <= self.argument_size_max)
                        .ok_or(Error::InvalidLength)?;
                    let size_max = (self.argument_size_max + COMMAND_SIZE_BESIDE_MAX).min(COMMAND_SIZE_MAX);
                    if self.position + size > size_max {
                        return Err(Error::CommandTooBig);
                    }
                    self.argument_size = Some(size);
                    size
                }
            };
            if self.buffer.len() < self.position + size + 2 {
                return Ok(None);
            }
            self.arguments.push((self.position, size));
            self.position += size + 2;
            self.searched = self.position;
            self.argument_size = None;
            self.remaining -= 1;
        }
        let arguments = std::mem::take(&mut self.arguments);
        let bytes = self.finish();
        Ok(Some(
            arguments
                .into_iter()
                .map(|(start, size)| bytes.slice(start..start + size))
                .collect(),
        ))
    }

    /// The header line at `position` without its end, and steps over it. Any byte may follow the `\r`.
    fn line(&mut self, too_big: Error) -> Result<Option<(usize, usize)>, Error> {
        let start = self.position;
        let found = self.buffer[self.searched..]
            .iter()
            .position(|byte| *byte == b'\r');
        let Some(end) = found.map(|offset| self.searched + offset) else {
            self.searched = self.buffer.len();
            return if self.buffer.len() - start > LINE_SIZE_MAX {
                Err(too_big)
            } else {
                Ok(None)
            };
        };
        self.searched = end;
        if end - start > LINE_SIZE_MAX {
            return Err(too_big);
        }
        if self.buffer.len() < end + 2 {
            return Ok(None);
        }
        self.position = end + 2;
        self.searched = self.position;
        Ok(Some((start, end)))
    }

    fn inline(&mut self) -> Result<Option<Command>, Error> {
        let found = self.buffer[self.searched..]
            .iter()
            .position(|byte| *byte == b'\n');
        let Some(end) = found.map(|offset| self.searched + offset) else {
            self.searched = self.buffer.len();
            return if self.buffer.len() > LINE_SIZE_MAX {
                Err(Error::InlineTooBig)
            } else {
                Ok(None)
            };
        };
        if end > LINE_SIZE_MAX {
            return Err(Error::InlineTooBig);
        }
        self.position = end + 1;
        let line = self.finish();
        let line = &line[..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        split_inline(line).map(Some).ok_or(Error::UnbalancedQuotes)
    }

    /// Splits the command that ends at `position` off the buffer.
    fn finish(&mut self) -> Bytes {
        let bytes = self.buffer.split_to(self.position).freeze();
        self.position = 0;
        self.searched = 0;
        if self.buffer.is_empty() {
            // What is in flight keeps its bytes alive; an idle connection keeps none.
            self.buffer = BytesMut::new();
        }
        bytes
    }
}

/// `*2`, `$3`, the name, with their line ends.
const KEY_COMMAND_HEAD_SIZE: usize = 13;

/// An argument of at most 9,999 bytes, whole, and what follows it. None: anything else.
fn short_argument(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (b'$', digits) = bytes.split_first()? else {
        return None;
    };
    let mut size = 0;
    let mut count = 0;
    while let digit @ b'0'..=b'9' = digits.get(count)? {
        size = size * 10 + usize::from(digit - b'0');
        count += 1;
        if count > 4 {
            return None;
        }
    }
    // No digits, or a leading zero.
    if count == 0 || (digits[0] == b'0' && count > 1) {
        return None;
    }
    let rest = digits[count..].strip_prefix(b"\r\n")?;
    let (argument, rest) = rest.split_at_checked(size)?;
    Some((argument, rest.strip_prefix(b"\r\n")?))
}

/// Redis' strict form: an optional minus, digits without leading zeros, nothing else.
pub fn integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, text),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    let mut number: i64 = 0;
    for digit in digits {
        let digit = i64::from(digit.checked_sub(b'0').filter(|digit| *digit <= 9)?);
        number = number.checked_mul(10)?;
        number = if negative {
            number.checked_sub(digit)?
        } else {
            number.checked_add(digit)?
        };
    }
    Some(number)
}

/// Words of a line, with "double" and 'single' quotes; None if the quotes do not match up.
fn split_inline(line: &[u8]) -> Option<Command> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start();
        // A NUL ends the line, as it does where this form comes from.
        if rest.first().is_none_or(|byte| *byte == 0) {
            return Some(words);
        }
        let (word, after) = inline_word(rest)?;
        words.push(Bytes::from(word));
        rest = after;
    }
}

fn inline_word(line: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut word = Vec::new();
    let mut at = 0;
    let mut quote = None;
    loop {
        let byte = line.get(at).copied();
        match (quote, byte) {
            (Some(_), None) => return None,
            (None, None) => return Some((word, &[])),
            (Some(b'"'), Some(b'\\')) => {
                let (decoded, used) = escape(&line[at + 1..])?;
                word.push(decoded);
                at += used;
            }
            (Some(b'\''), Some(b'\\')) if line.get(at + 1) == Some(&b'\'') => {
                word.push(b'\'');
                at += 1;
            }
            (Some(open), Some(byte)) if byte == open => {
                let after = &line[at + 1..];
                let ends = after
                    .first()
                    .is_none_or(|next| next.is_ascii_whitespace() || *next == 0);
                return ends.then_some((word, after));
            }
            (None, Some(open @ (b'"' | b'\''))) => quote = Some(open),
            (None, Some(b' ' | b'\n' | b'\r' | b'\t' | 0)) => return Some((word, &line[at..])),
            (_, Some(byte)) => word.push(byte),
        }
        at += 1;
    }
}

/// What stands behind a backslash in double quotes, and how many bytes it took.
fn escape(rest: &[u8]) -> Option<(u8, usize)> {
    if let [b'x', high, low, ..] = rest
        && let (Some(high), Some(low)) = (char::from(*high).to_digit(16), char::from(*low).to_digit(16))
    {
        return Some(((high * 16 + low) as u8, 3));
    }
    let decoded = match rest.first()? {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => *other,
    };
    Some((decoded, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(parser: &mut Parser) -> Result<Vec<Command>, Error> {
        let mut commands = Vec::new();
        while let Some(command) = parser.next()? {
            commands.push(command);
        }
        Ok(commands)
    }

    fn parse(bytes: &[u8]) -> Result<Vec<Command>, Error> {
        let mut parser = Parser::new(512 << 20);
        parser.push(bytes);
        all(&mut parser)
    }

    fn check(bytes: &[u8], expected: &[&[&str]]) {
        let commands = parse(bytes).expect("it parses");
        let expected: Vec<Command> = expected
            .iter()
            .map(|words| {
                words
                    .iter()
                    .map(|word| Bytes::copy_from_slice(word.as_bytes()))
                    .collect()
            })
            .collect();
        assert_eq!(commands, expected, "{:?}", String::from_utf8_lossy(bytes));
    }

    #[test]
    fn commands_of_both_forms_are_understood() {
        // Goal: the forms clients and people send.
        check(
            b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*1\r\n$4\r\nPING\r\n",
            &[&["GET", "k"], &["PING"]],
        );
        check(b"*1\r\n$0\r\n\r\n", &[&[""]]);
        check(b"*0\r\n*-1\r\n\r\nPING\r\n", &[&["PING"]]);
        check(b"SET  k \"a b\\x41\\n\"\tx\n", &[&["SET", "k", "a bA\n", "x"]]);
        check(b"SET 'it\\'s' ''\r\n", &[&["SET", "it's", ""]]);
        check(b"*2\r\n$3\r\nGET\r\n$5\r\nab", &[]);
    }

    #[test]
    fn errors_have_the_wording_of_redis() {
        // Goal: each way to break the protocol, by its message.
        let long = vec![b'a'; LINE_SIZE_MAX + 1];
        let cases: [(&[u8], &str); 10] = [
            (b"*1\r\n$536870913\r\n", "invalid bulk length"),
            (b"*1\r\n$-1\r\n", "invalid bulk length"),
            (b"*1\r\n$+1\r\n", "invalid bulk length"),
            (b"*1048577\r\n", "invalid multibulk length"),
            (b"*99999999999999999999\r\n", "invalid multibulk length"),
            (b"*x\r\n", "invalid multibulk length"),
            (b"*1\r\nPING\r\n", "expected '$', got 'P'"),
            (b"*1\r\n\r\n", "expected '$', got ' '"),
            (b"SET k \"a\r\n", "unbalanced quotes in request"),
            (&long, "too big inline request"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(parse(bytes).expect_err("an error").to_string(), expected);
        }
    }

    #[test]
    fn every_split_of_the_bytes_gives_the_same_commands() {
        // Goal: chunk borders mean nothing, by cutting a stream at every byte, and by feeding single bytes.
        let stream =
            b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$6\r\na\r\nb\r\n\r\nPING \"x y\"\r\n*1\r\n$4\r\nQUIT\r\n";
        let whole = parse(stream).expect("it parses");
        assert_eq!(whole.len(), 3);
        for cut in 0..=stream.len() {
            let mut parser = Parser::new(1 << 20);
            parser.push(&stream[..cut]);
            let mut commands = all(&mut parser).expect("the first part parses");
            parser.push(&stream[cut..]);
            commands.extend(all(&mut parser).expect("the rest parses"));
            assert_eq!(commands, whole, "cut at {cut}");
        }
        let mut parser = Parser::new(1 << 20);
        let mut commands = Vec::new();
        for byte in stream {
            parser.push(&[*byte]);
            commands.extend(all(&mut parser).expect("it parses"));
        }
        assert_eq!(commands, whole);
        assert_eq!(parser.buffered_size(), 0);
    }

    #[test]
    fn the_short_way_reads_what_the_long_one_does_or_nothing() {
        // Goal: both ways agree on every command the short one takes. Method: forms near the common one, and
        // every prefix of them.
        let forms: [(&[u8], bool); 9] = [
            (b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", true),
            (b"*2\r\n$3\r\ngEt\r\n$0\r\n\r\n*1\r\n", true),
            (
                b"*3\r\n$3\r\nset\r\n$2\r\nab\r\n$10\r\n0123456789\r\nPING\r\n",
                true,
            ),
            (b"*3\r\n$3\r\nGET\r\n$1\r\nk\r\n$1\r\nk\r\n", false),
            (b"*2\r\n$3\r\nSET\r\n$1\r\nk\r\n", false),
            (b"*4\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n$2\r\nNX\r\n", false),
            (b"*2\r\n$3\r\nDEL\r\n$1\r\nk\r\n", false),
            (b"*2\r\n$3\r\nGET\r\n$01\r\nk\r\n", false),
            (b"*2\r\n$3\r\nGET\r\n$-1\r\nk\r\n", false),
        ];
        for (bytes, is_short) in forms {
            for size in 0..=bytes.len() {
                let mut long = Parser::new(1 << 20);
                long.push(&bytes[..size]);
                let mut short = Parser::new(1 << 20);
                short.push(&bytes[..size]);
                let Some(found) = short.key_command() else {
                    assert!(size < bytes.len() || !is_short, "{bytes:?}");
                    continue;
                };
                let command = long.next().expect("it parses").expect("it is whole");
                assert_eq!(found.key, &command[1]);
                assert_eq!(found.value, command.get(2).map(|value| &value[..]));
                let size = found.size;
                short.consume(size);
                assert_eq!(short.buffer, long.buffer);
            }
        }
    }

    #[test]
    fn announced_sizes_reserve_no_memory() {
        // Goal: a header alone costs nothing, by looking at what the parser holds after one.
        let mut parser = Parser::new(512 << 20);
        parser.push(b"*1048576\r\n$536870912\r\n");
        assert_eq!(parser.next(), Ok(None));
        assert!(parser.buffer.capacity() < 1024);
        assert!(parser.arguments.capacity() < 1024);
    }

    #[test]
    fn a_command_of_many_large_arguments_is_refused() {
        // Goal: the sum is bounded too, with a small limit for one argument.
        let mut parser = Parser::new(1 << 20);
        let argument = [b"$1048576\r\n".to_vec(), vec![b'x'; 1 << 20], b"\r\n".to_vec()].concat();
        parser.push(b"*1000\r\n");
        let refused = (0..100).find_map(|_| {
            parser.push(&argument);
            parser.next().err()
        });
        assert_eq!(refused, Some(Error::CommandTooBig));
    }

    #[test]
    fn garbage_never_panics() {
        // Goal: any bytes are commands, an error or unfinished, by seeded garbage rich in the format's own bytes.
        let mut random = bark_core::random::Random::new(7);
        let alphabet = b"*$\r\n\r\n0123456789-\"'\\x ab\0\xff";
        for _ in 0..20_000 {
            let size = random.below(60) as usize;
            let bytes: Vec<u8> = (0..size)
                .map(|_| alphabet[random.below(alphabet.len() as u64) as usize])
                .collect();
            let mut parser = Parser::new(64);
            for chunk in bytes.chunks(1 + random.below(9) as usize) {
                parser.push(chunk);
                if all(&mut parser).is_err() {
                    break;
                }
            }
        }
    }
}
