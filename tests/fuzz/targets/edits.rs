//! Mistakes in a file.

use bolero::TypeGenerator;

/// A mistake. Places and lengths are taken modulo the file's length, so that any number is one.
#[derive(Debug, Clone, TypeGenerator)]
pub enum Edit {
    /// Sets a byte.
    Set { at: u32, byte: u8 },
    /// Turns a bit.
    Turn { at: u32, bit: u8 },
    /// Cuts the rest off.
    Cut { at: u32 },
    /// Takes bytes out.
    Remove { at: u32, length: u8 },
    /// Copies bytes to another place.
    Repeat { from: u32, to: u32, length: u8 },
    /// Writes a number of 64 bits that is at the end of something.
    Number { at: u32, which: u8 },
    /// Puts a piece of text in that means something to some parser.
    Word { at: u32, which: u8 },
    /// Puts a piece of text in place of the digits at or behind a place.
    Digits { at: u32, which: u8 },
}

/// Numbers at the ends of something.
const NUMBERS: [u64; 12] = [
    0,
    1,
    0x7f,
    0xff,
    0xffff,
    i32::MAX as u64,
    u32::MAX as u64,
    1 << 40,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 7,
    u64::MAX,
];

/// Words that mean something to JSON, to templates or to a tokenizer.
const WORDS: [&str; 40] = [
    "null",
    "true",
    "false",
    "{}",
    "[]",
    "[[[[[[[[",
    "}}",
    "\"",
    "\\",
    "\\ud800",
    "\\u0000",
    "\u{feff}",
    "\n",
    "\u{1b}[2J",
    "\u{ffff}",
    "NaN",
    "1e999",
    "-1",
    "0.5",
    "18446744073709551616",
    "\"type\"",
    "\"format\":\"pt\"",
    ",",
    ":",
    "{%",
    "%}",
    "{{",
    "}}",
    "{% for a in range(999999999) %}",
    "{% endfor %}",
    "{{ messages }}",
    "{{ 'x' * 999999999 }}",
    "| tojson(indent=99999999)",
    "-%}",
    "{#",
    "raise_exception('no')",
    "nn",
    "I64",
    "BF16",
    "general.architecture",
];

/// Numbers as text.
const DIGITS: [&str; 12] = [
    "0",
    "1",
    "-1",
    "3",
    "255",
    "65536",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "1e308",
    "99999999999999999999999999",
];

/// The longest a file may become: mistakes are not about size.
const LONGEST: usize = 1 << 20;

/// Returns `good` with mistakes made in it.
pub fn edited(good: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for edit in edits {
        let length = bytes.len();
        if length == 0 || length > LONGEST {
            break;
        }
        let within = |place: u32| place as usize % length;
        match edit {
            Edit::Set { at, byte } => bytes[within(*at)] = *byte,
            Edit::Turn { at, bit } => bytes[within(*at)] ^= 1 << (bit % 8),
            Edit::Cut { at } => bytes.truncate(within(*at)),
            Edit::Remove { at, length: many } => {
                let at = within(*at);
                bytes.drain(at..length.min(at + usize::from(*many)));
            }
            Edit::Repeat {
                from,
                to,
                length: many,
            } => {
                let from = within(*from);
                let copied = bytes[from..length.min(from + usize::from(*many))].to_vec();
                let to = within(*to);
                bytes.splice(to..to, copied);
            }
            Edit::Number { at, which } => {
                let number = NUMBERS[usize::from(*which) % NUMBERS.len()].to_le_bytes();
                let at = within(*at);
                let room = number.len().min(length - at);
                bytes[at..at + room].copy_from_slice(&number[..room]);
            }
            Edit::Word { at, which } => {
                let word = WORDS[usize::from(*which) % WORDS.len()];
                let at = within(*at);
                bytes.splice(at..at, word.bytes());
            }
            Edit::Digits { at, which } => {
                let behind = &bytes[within(*at)..];
                let Some(first) = behind.iter().position(u8::is_ascii_digit) else {
                    continue;
                };
                let begin = within(*at) + first;
                let digits = bytes[begin..]
                    .iter()
                    .take_while(|byte| byte.is_ascii_digit());
                let end = begin + digits.count();
                let number = DIGITS[usize::from(*which) % DIGITS.len()];
                bytes.splice(begin..end, number.bytes());
            }
        }
    }
    bytes
}
