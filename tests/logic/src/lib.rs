// SPDX-License-Identifier: GPL-2.0

//! Tests of the part of the driver that is plain logic, on the very file that is built into the
//! module.
//!
//! `rules` checks what each of its functions promises; `interleavings` tries every order in which
//! those who deliver events and those who wait for them can meet.

#![cfg(test)]

// Formatted with the module, by the kernel's rules.
#[rustfmt::skip]
#[path = "../../../count.rs"]
mod count;
mod interleavings;
mod rules;
