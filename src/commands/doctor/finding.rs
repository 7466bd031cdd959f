//! What a check found, and the table of all of them.

use std::io::IsTerminal;

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// It works, but not as well or as safely as it could.
    Warn,
    Fail,
}

#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Such as `models`: stable, for scripts.
    pub check: &'static str,
    pub verdict: Verdict,
    pub what: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

#[derive(Debug, Default, Serialize)]
pub struct Findings {
    findings: Vec<Finding>,
}

impl Findings {
    pub fn ok(&mut self, check: &'static str, what: impl Into<String>) {
        self.findings.push(Finding { check, verdict: Verdict::Ok, what: what.into(), advice: None });
    }

    pub fn warn(&mut self, check: &'static str, what: impl Into<String>, advice: impl Into<String>) {
        let advice = Some(advice.into());
        self.findings.push(Finding { check, verdict: Verdict::Warn, what: what.into(), advice });
    }

    pub fn fail(&mut self, check: &'static str, what: impl Into<String>, advice: impl Into<String>) {
        let advice = Some(advice.into());
        self.findings.push(Finding { check, verdict: Verdict::Fail, what: what.into(), advice });
    }

    pub fn append(&mut self, mut other: Self) {
        self.findings.append(&mut other.findings);
    }

    pub fn count(&self, verdict: Verdict) -> usize {
        self.findings.iter().filter(|finding| finding.verdict == verdict).count()
    }

    /// The table for people.
    pub fn print(&self) {
        let colours = std::io::stdout().is_terminal();
        for Finding { check, verdict, what, advice } in &self.findings {
            let (word, colour) = match verdict {
                Verdict::Ok => ("ok", 32),
                Verdict::Warn => ("warn", 33),
                Verdict::Fail => ("FAIL", 31),
            };
            let word = if colours { format!("\x1b[{colour}m{word:<5}\x1b[0m") } else { format!("{word:<5}") };
            println!("{word} {check:<16} {what}");
            for line in advice.iter().flat_map(|advice| advice.lines()) {
                println!("{:>22} → {line}", "");
            }
        }
        let count = |verdict| self.count(verdict);
        println!(
            "\n{} ok, {} to look at, {} failed",
            count(Verdict::Ok),
            count(Verdict::Warn),
            count(Verdict::Fail)
        );
    }
}
