//! The name of a job: what is told to whoever asked for it, and to nobody else.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// 128 random bits: who does not know an id does not guess it. Written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct JobId(u128);

/// Text that is no job's id.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the id of a job")]
pub struct InvalidJobId;

impl JobId {
    pub fn random() -> Self {
        Self(rand::random())
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobId({self})")
    }
}

impl FromStr for JobId {
    type Err = InvalidJobId;

    fn from_str(text: &str) -> Result<Self, InvalidJobId> {
        // One spelling each, because ids name places in the store.
        if text.len() != 32 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(InvalidJobId);
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| InvalidJobId)
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for JobId {
    type Error = InvalidJobId;

    fn try_from(text: String) -> Result<Self, InvalidJobId> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_from_what_it_is_written_as() {
        for id in [JobId(0), JobId(1), JobId(u128::MAX), JobId::random()] {
            assert_eq!(id.to_string().parse(), Ok(id));
            let json = serde_json::to_string(&id).unwrap();
            assert_eq!(json, format!("\"{id}\""));
            assert_eq!(serde_json::from_str::<JobId>(&json).unwrap(), id);
        }
        assert_ne!(JobId::random(), JobId::random());
    }

    #[test]
    fn nothing_else_is_an_id() {
        let id = "0123456789abcdef0123456789abcdef";
        assert!(id.parse::<JobId>().is_ok());
        for wrong in
            ["", "0", &id[1..], &format!("{id}0"), &id.to_uppercase(), "../../../../../../../../etc/passwd"]
        {
            assert_eq!(wrong.parse::<JobId>(), Err(InvalidJobId), "{wrong}");
        }
        let signed = format!("+{}", &id[1..]);
        assert_eq!(signed.parse::<JobId>(), Err(InvalidJobId));
        assert!(serde_json::from_str::<JobId>("\"x\"").is_err());
    }
}
