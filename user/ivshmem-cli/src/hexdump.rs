// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Bytes for people to read.

use std::io::{Result, Write};

/// Writes lines of 16 bytes each, with a `*` in place of lines that are as the one before.
pub struct Hexdump<W> {
    out: W,
    last: Option<Vec<u8>>,
    repeated: bool,
}

impl<W: Write> Hexdump<W> {
    pub fn new(out: W) -> Self {
        Self {
            out,
            last: None,
            repeated: false,
        }
    }

    /// Shows bytes that begin at an offset. All but the last are to be a multiple of 16 long.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<()> {
        for (offset, line) in (offset..).step_by(16).zip(bytes.chunks(16)) {
            if self.last.as_deref() == Some(line) {
                if !self.repeated {
                    writeln!(self.out, "*")?;
                }
                self.repeated = true;
                continue;
            }
            self.last = Some(line.to_vec());
            self.repeated = false;
            write!(self.out, "{offset:08x} ")?;
            for at in 0..16 {
                let gap = if at == 8 { " " } else { "" };
                match line.get(at) {
                    Some(byte) => write!(self.out, "{gap} {byte:02x}")?,
                    None => write!(self.out, "{gap}   ")?,
                }
            }
            let visible = |byte: &u8| match byte {
                b' '..=b'~' => char::from(*byte),
                _ => '.',
            };
            writeln!(
                self.out,
                "  |{}|",
                line.iter().map(visible).collect::<String>()
            )?;
        }
        Ok(())
    }

    /// Shows where the bytes ended.
    pub fn end(mut self, offset: usize) -> Result<()> {
        writeln!(self.out, "{offset:08x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_repetitions_and_the_end() {
        let mut bytes = vec![0; 64];
        bytes.extend(b"Hello, world!\n");
        let mut text = Vec::new();
        let mut dump = Hexdump::new(&mut text);
        dump.write(0x100, &bytes[..32]).unwrap();
        dump.write(0x120, &bytes[32..]).unwrap();
        dump.end(0x100 + bytes.len()).unwrap();
        let zeros = "00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|";
        let expected = format!(
            "00000100  {zeros}\n*\n\
             00000140  48 65 6c 6c 6f 2c 20 77  6f 72 6c 64 21 0a        |Hello, world!.|\n\
             0000014e\n"
        );
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }
}
