// SPDX-License-Identifier: GPL-2.0 OR MIT

/// Reads a number of bytes as people write it: decimal or `0x` hexadecimal, with K, M, G or T for
/// the powers of 1024.
///
/// ```
/// assert_eq!(ivshmem::parse_size("16M"), Ok(16 << 20));
/// assert_eq!(ivshmem::parse_size("0x1000"), Ok(4096));
/// assert!(ivshmem::parse_size("16X").is_err());
/// ```
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.to_ascii_uppercase().chars().last() {
        Some('K') => (&text[..text.len() - 1], 10),
        Some('M') => (&text[..text.len() - 1], 20),
        Some('G') => (&text[..text.len() - 1], 30),
        Some('T') => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let number = match digits.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => digits.parse(),
    };
    number
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| format!("{text} is not a size such as 4096, 0x1000 or 16M"))
}
