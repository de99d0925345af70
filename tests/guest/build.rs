// SPDX-License-Identifier: GPL-2.0

//! Builds the program for 32 bits that the suite `compat` runs.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    let output = Path::new(&env::var_os("OUT_DIR").expect("set by cargo")).join("compat");
    let (source, header) = ("src/compat.c", "../../uapi/ivshmem.h");
    let status = Command::new("gcc")
        .args([
            "-m32",
            "-static",
            "-s",
            "-O1",
            "-std=gnu11",
            "-Wall",
            "-Wextra",
            "-Werror",
        ])
        .args(["-include", header, source, "-o"])
        .arg(output)
        .status()
        .expect("gcc");
    assert!(status.success(), "{source} does not build");
    println!("cargo:rerun-if-changed={source}");
    println!("cargo:rerun-if-changed={header}");
}
