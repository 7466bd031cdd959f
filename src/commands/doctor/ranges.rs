//! Addresses that a relay must not reach. Pure.

use std::net::IpAddr;
use std::str::FromStr;

/// From and to, both included, as coturn's `allowed-peer-ip` writes it; or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    first: IpAddr,
    last: IpAddr,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a range such as 10.1.0.0-10.1.255.255")]
pub struct NotARange(String);

impl FromStr for Range {
    type Err = NotARange;

    fn from_str(text: &str) -> Result<Self, NotARange> {
        let wrong = || NotARange(text.to_owned());
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let first: IpAddr = first.trim().parse().map_err(|_| wrong())?;
        let last: IpAddr = last.trim().parse().map_err(|_| wrong())?;
        if first.is_ipv4() == last.is_ipv4() && first <= last {
            Ok(Self { first, last })
        } else {
            Err(wrong())
        }
    }
}

impl Range {
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && (self.first..=self.last).contains(&address)
    }
}

/// What each range is called, and addresses in it: the edges, and those where something worth reaching is.
pub const FORBIDDEN: &[(&str, &[&str])] = &[
    ("this host (0.0.0.0/8)", &["0.0.0.0", "0.0.0.1"]),
    ("loopback", &["127.0.0.1", "127.255.255.254"]),
    ("private (10/8)", &["10.0.0.1", "10.128.0.1", "10.255.255.254"]),
    ("private (172.16/12)", &["172.16.0.1", "172.17.0.1", "172.31.255.254"]),
    ("private (192.168/16)", &["192.168.0.1", "192.168.255.254"]),
    ("shared (100.64/10)", &["100.64.0.1", "100.127.255.254"]),
    ("link-local", &["169.254.0.1"]),
    ("cloud metadata", &["169.254.169.254"]),
    ("multicast", &["224.0.0.1", "239.255.255.250"]),
    ("broadcast", &["255.255.255.255"]),
];

pub const FORBIDDEN_V6: &[(&str, &[&str])] = &[
    ("IPv6 loopback", &["::1", "::"]),
    ("IPv6 link-local", &["fe80::1"]),
    ("IPv6 unique local", &["fc00::1", "fd00:ec2::254"]),
    ("IPv6 multicast", &["ff02::1"]),
    (
        "IPv4-mapped IPv6",
        &["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0.0.0.0"],
    ),
    ("translated IPv4", &["64:ff9b::7f00:1", "2002:7f00:1::1"]),
];

/// The addresses of a table that are not the workers' own.
pub fn probes(
    table: &'static [(&'static str, &'static [&'static str])],
    workers: &[Range],
) -> Vec<(&'static str, IpAddr)> {
    let addresses = table.iter().flat_map(|(range, addresses)| {
        addresses.iter().filter_map(move |address| Some((*range, address.parse::<IpAddr>().ok()?)))
    });
    addresses.filter(|(_, address)| !workers.iter().any(|range| range.contains(*address))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_can_be_read_and_the_workers_are_left_out() {
        let count = |table: &[(&str, &[&str])]| table.iter().map(|(_, a)| a.len()).sum::<usize>();
        assert_eq!(probes(FORBIDDEN, &[]).len(), count(FORBIDDEN));
        assert_eq!(probes(FORBIDDEN_V6, &[]).len(), count(FORBIDDEN_V6));
        let workers: Range = "10.0.0.0-10.127.255.255".parse().unwrap();
        let left: Vec<_> =
            probes(FORBIDDEN, &[workers]).into_iter().filter(|(r, _)| r.contains("10/8")).collect();
        assert_eq!(left.len(), 2);
    }

    #[test]
    fn ranges_are_read_as_coturn_reads_them() {
        let range: Range = "10.1.0.0-10.1.0.9".parse().unwrap();
        assert!(range.contains("10.1.0.9".parse().unwrap()) && !range.contains("10.1.0.10".parse().unwrap()));
        assert!(!range.contains("::ffff:10.1.0.9".parse().unwrap()));
        for text in ["", "10.1", "10.1.0.9-10.1.0.0", "10.1.0.0-::1"] {
            assert!(text.parse::<Range>().is_err(), "{text}");
        }
    }
}
