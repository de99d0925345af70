// SPDX-License-Identifier: GPL-2.0

//! Reads the Kernel Test Anything Protocol, version 1, as a program of ours writes it.

#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    Failed,
    Skipped(String),
}

#[derive(Debug, PartialEq, Eq)]
pub struct Case {
    pub name: String,
    pub verdict: Verdict,
}

#[derive(Default)]
pub struct Report {
    version: bool,
    plan: Option<usize>,
    pub cases: Vec<Case>,
    /// What is not as the protocol wants it.
    faults: Vec<String>,
}

impl Report {
    pub fn line(&mut self, line: &str) {
        if line == "KTAP version 1" {
            self.version = true;
        } else if let Some(plan) = line.strip_prefix("1..") {
            match plan.parse() {
                Ok(plan) if self.plan.is_none() => self.plan = Some(plan),
                _ => self.faults.push(format!("bad or second plan: {line}")),
            }
        } else if let Some(rest) = line.strip_prefix("ok ") {
            self.case(rest, true);
        } else if let Some(rest) = line.strip_prefix("not ok ") {
            self.case(rest, false);
        }
    }

    fn case(&mut self, rest: &str, passed: bool) {
        let (number, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        if number.parse() != Ok(self.cases.len() + 1) {
            self.faults.push(format!("case {number} out of order"));
        }
        let (name, verdict) = match rest.split_once(" # SKIP") {
            Some((name, reason)) => (name, Verdict::Skipped(reason.trim().to_owned())),
            None if passed => (rest, Verdict::Passed),
            None => (rest, Verdict::Failed),
        };
        self.cases.push(Case {
            name: name.to_owned(),
            verdict,
        });
    }

    /// What is wrong with the report as a whole.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = self.faults.clone();
        if !self.version {
            faults.push("no KTAP version line".to_owned());
        }
        match self.plan {
            None => faults.push("no KTAP plan".to_owned()),
            Some(plan) if plan != self.cases.len() => {
                faults.push(format!(
                    "{plan} cases were planned, {} ran",
                    self.cases.len()
                ));
            }
            Some(_) => {}
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::{Report, Verdict};

    fn report(text: &str) -> Report {
        let mut report = Report::default();
        text.lines().for_each(|line| report.line(line));
        report
    }

    #[test]
    fn reads_verdicts() {
        let report =
            report("KTAP version 1\n1..3\nok 1 a b\n# x\nnot ok 2 c\nok 3 d # SKIP no reason\n");
        assert!(report.faults().is_empty());
        assert_eq!(report.cases[0].name, "a b");
        assert_eq!(report.cases[1].verdict, Verdict::Failed);
        assert_eq!(
            report.cases[2].verdict,
            Verdict::Skipped("no reason".to_owned())
        );
    }

    #[test]
    fn notices_what_is_missing() {
        assert_eq!(report("").faults().len(), 2);
        assert_eq!(report("KTAP version 1\n1..2\nok 1 a\n").faults().len(), 1);
        assert_eq!(report("KTAP version 1\n1..1\nok 2 a\n").faults().len(), 1);
    }
}
