// SPDX-License-Identifier: GPL-2.0

//! That the documents do not promise what is not there.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

const DOCUMENTS: [&str; 3] = ["README.md", "docs/specification.md", "docs/using-qemu.md"];

/// Where the tests of a suite may be.
fn places(suite: &str) -> [String; 3] {
    [
        format!("tests/guest/src/bin/{suite}.rs"),
        format!("user/ivshmem-server/tests/{suite}.rs"),
        format!("tests/{suite}/src/interleavings.rs"),
    ]
}

/// Whether a source has a test of this name that is run: a function alone is not.
fn runs(source: &str, case: &str) -> bool {
    let mut lists = source
        .split("cases![")
        .skip(1)
        .filter_map(|list| list.split(']').next());
    let mut tests = source.split("#[test]\n").skip(1);
    lists.any(|list| list.split(',').any(|name| name.trim() == case))
        || tests.any(|test| test.trim_start().starts_with(&format!("fn {case}()")))
}

fn has_case(suite: &str, case: &str) -> bool {
    places(suite).iter().any(|path| {
        fs::read_to_string(repository().join(path)).is_ok_and(|source| runs(&source, case))
    })
}

/// What is between single backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|line| !line.starts_with("```"))
        .flat_map(|line| line.split('`').skip(1).step_by(2))
}

#[test]
fn the_tests_they_name_exist() {
    let mut named = 0;
    for document in DOCUMENTS {
        for name in quoted(&read(document)) {
            let Some((suite, case)) = name.split_once("::") else {
                continue;
            };
            if (suite, case) == ("suite", "case") {
                continue;
            }
            assert!(has_case(suite, case), "{document}: there is no {name}");
            named += 1;
        }
    }
    assert!(
        named > 50,
        "only {named}: this test looks for the wrong thing"
    );
}

#[test]
fn a_function_alone_is_no_test() {
    let source = "fn helper() {}\nfn case() {}\n#[test]\nfn test() {}\n\
        #[test]\n#[ignore]\nfn ignored() {}\ncases![\n    case,\n    other]";
    for (name, is_run) in [
        ("case", true),
        ("other", true),
        ("test", true),
        ("helper", false),
        ("ignored", false),
        ("cas", false),
    ] {
        assert_eq!(runs(source, name), is_run, "{name}");
    }
}

#[test]
fn every_item_of_the_specification_is_there() {
    let text = read("docs/specification.md");
    let items = text.lines().filter_map(|line| {
        let number = line.strip_prefix("| ")?.split(' ').next()?;
        number.parse::<u32>().ok()
    });
    assert!(items.eq(1..=34));
}

#[test]
fn links_lead_somewhere() {
    for document in DOCUMENTS {
        let text = read(document);
        for link in text.split("](").skip(1) {
            let link = link.split(')').next().expect("the rest of the link");
            let (path, place) = link.split_once('#').unwrap_or((link, ""));
            let from = repository().join(document);
            let path = match path {
                "" => from,
                other => from.with_file_name(other),
            };
            assert!(path.exists(), "{document}: {link}");
            if !place.is_empty() {
                let heading = |line: &str| {
                    line.starts_with('#')
                        && line
                            .trim_start_matches(['#', ' '])
                            .to_lowercase()
                            .replace(' ', "-")
                            == place
                };
                let target = fs::read_to_string(path).expect("a document");
                assert!(target.lines().any(heading), "{document}: {link}");
            }
        }
    }
}

#[test]
fn the_example_compiles() {
    let readme = read("README.md");
    let example = readme.split("```c\n").nth(1).expect("an example in C");
    let example = example.split("```").next().expect("its end");
    let mut compiler = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"])
        .arg("-I")
        .arg(repository().join("uapi"))
        .args(["-x", "c", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("a C compiler");
    let mut input = compiler.stdin.take().expect("a pipe");
    input
        .write_all(example.as_bytes())
        .expect("a compiler that reads");
    drop(input);
    assert!(compiler.wait().expect("its end").success());
}
