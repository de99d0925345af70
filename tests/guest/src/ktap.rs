// SPDX-License-Identifier: GPL-2.0

//! Runs test cases and reports in KTAP, version 1. A case fails by panicking.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::process;

use crate::{guests, host, model};

#[derive(Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    pub test: fn(),
}

/// Makes the cases of a program from its functions: `cases![one, other]`.
#[macro_export]
macro_rules! cases {
    ($($case:ident),* $(,)?) => {
        &[$($crate::Case { name: stringify!($case), test: $case }),*]
    };
}

struct Skip(String);

/// Ends the current case as skipped.
pub fn skip(reason: &str) -> ! {
    panic::resume_unwind(Box::new(Skip(reason.to_owned())))
}

/// Runs all cases, in their order, and ends the program. Guests of one run go through the cases
/// together.
pub fn run(cases: &[Case]) -> ! {
    println!("KTAP version 1");
    println!("1..{}", cases.len());
    let mut failed = false;
    for (index, case) in cases.iter().enumerate() {
        let number = index + 1;
        let name = case.name.replace('_', " ");
        let result = panic::catch_unwind(AssertUnwindSafe(|| {
            if guests() > 1 {
                host::barrier(&format!("case:{number}"));
            }
            (case.test)();
            model::those_that_stay_are_content();
        }));
        match result {
            Ok(()) => println!("ok {number} {name}"),
            Err(payload) => match payload.downcast_ref::<Skip>() {
                Some(Skip(reason)) => println!("ok {number} {name} # SKIP {reason}"),
                None => {
                    println!("not ok {number} {name}");
                    println!("# {}", message(&*payload).replace('\n', "\n# "));
                    failed = true;
                }
            },
        }
    }
    process::exit(i32::from(failed))
}

/// The panic hook has already written where it happened, to standard error.
fn message(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "a panic without a message"
    }
}
