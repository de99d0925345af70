// SPDX-License-Identifier: GPL-2.0

//! What a guest boots into: a cpio archive (newc), put together in memory for each guest.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::build;

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

#[derive(Clone, Default)]
pub struct Archive {
    data: Vec<u8>,
    inode: u32,
}

impl Archive {
    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.inode += 1;
        let name = path.trim_start_matches('/');
        let fields = [
            self.inode,
            mode,
            0, // uid
            0, // gid
            1, // links
            0, // time
            content.len().try_into().expect("a file under 4 GiB"),
            0, // the device it is on
            0,
            device.0,
            device.1,
            u32::try_from(name.len()).expect("a short name") + 1,
            0, // checksum, not in this format
        ];
        self.data.extend_from_slice(b"070701");
        for field in fields {
            self.data
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.data.extend_from_slice(name.as_bytes());
        self.data.push(0);
        self.pad();
        self.data.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.data.resize(self.data.len().next_multiple_of(4), 0);
    }

    pub fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY | 0o755, (0, 0), &[]);
    }

    pub fn link(&mut self, path: &str, target: &str) {
        self.entry(path, LINK | 0o777, (0, 0), target.as_bytes());
    }

    pub fn character(&mut self, path: &str, major: u32, minor: u32) {
        self.entry(path, CHARACTER | 0o600, (major, minor), &[]);
    }

    pub fn file(&mut self, path: &str, executable: bool, content: &[u8]) {
        let mode = if executable { 0o755 } else { 0o644 };
        self.entry(path, FILE | mode, (0, 0), content);
    }

    /// Copies a file or a whole directory of the host.
    pub fn copy(&mut self, path: &str, from: &Path) -> Result<()> {
        let context = || format!("cannot read {}", from.display());
        let metadata = fs::symlink_metadata(from).with_context(context)?;
        if metadata.is_symlink() {
            let target = fs::read_link(from).with_context(context)?;
            self.link(path, &target.to_string_lossy());
        } else if metadata.is_dir() {
            self.directory(path);
            for entry in fs::read_dir(from).with_context(context)? {
                let entry = entry.with_context(context)?;
                let name = format!("{path}/{}", entry.file_name().to_string_lossy());
                self.copy(&name, &entry.path())?;
            }
        } else {
            let content = fs::read(from).with_context(context)?;
            let mode = metadata.permissions().mode() & 0o777;
            debug_assert_eq!(metadata.mode() & FILE, FILE);
            self.entry(path, FILE | mode, (0, 0), &content);
        }
        Ok(())
    }

    /// Copies a program to `/bin` and the libraries it needs to where they are looked for.
    pub fn program(&mut self, from: &Path) -> Result<()> {
        let ldd = build::quietly(Command::new("ldd").arg(from))?;
        let ldd = String::from_utf8(ldd.stdout)?;
        let program = from.to_string_lossy();
        let libraries = ldd.split_whitespace().filter(|word| word.starts_with('/'));
        for path in libraries.chain([&*program]) {
            let place = match path {
                _ if path == program => "bin",
                _ if path.contains("/ld-") => "lib64",
                _ => "lib",
            };
            let name = path.rsplit('/').next().expect("a name");
            // Most libraries are known by symbolic links.
            let content = fs::read(path).with_context(|| format!("cannot read {path}"))?;
            self.directory(place);
            self.file(&format!("{place}/{name}"), true, &content);
        }
        Ok(())
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.data
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn entries_are_aligned_and_closed() {
        let mut archive = Archive::default();
        archive.directory("/a");
        archive.file("/a/b", true, b"12345");
        archive.link("/c", "a/b");
        let data = archive.finish();
        assert_eq!(data.len() % 4, 0);
        assert!(data.starts_with(b"070701"));
        let headers: Vec<usize> = (0..data.len() - 6)
            .filter(|&at| &data[at..at + 6] == b"070701")
            .collect();
        assert_eq!(headers.len(), 4);
        assert!(headers.iter().all(|at| at % 4 == 0));
        assert!(data.windows(11).any(|window| window == b"TRAILER!!!\0"));
    }
}
