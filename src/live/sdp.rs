//! What WHIP and WHEP need of SDP: which way an offer's video goes, and fragments (RFC 8840 §4.4), which
//! carry candidates and ICE credentials without the rest of a description. Pure.

/// Candidates of one fragment that are used; a browser has fewer than ten.
const MAX_CANDIDATES: usize = 64;

/// What a client says of its ICE session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    pub credentials: Option<Credentials>,
    /// Each as `candidate:…`.
    pub candidates: Vec<String>,
    pub is_last: bool,
}

/// A username fragment and its password (RFC 8839 §5.4): who changes them restarts ICE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub ufrag: String,
    pub password: String,
}

/// Why text is no fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FragmentError {
    #[error("line {0} is not of the form <letter>=<value>")]
    Line(usize),
    #[error("ice-ufrag and ice-pwd must come together, with 4 to 256 and 22 to 256 ICE characters")]
    Credentials,
    #[error("the fragment says nothing about ICE")]
    Empty,
}

impl Fragment {
    /// Reads the body of a PATCH.
    pub fn read(text: &str) -> Result<Self, FragmentError> {
        let mut candidates = Vec::new();
        let mut is_last = false;
        for (index, line) in text.lines().map(str::trim_end).enumerate().filter(|(_, line)| !line.is_empty())
        {
            let mut characters = line.chars();
            let is_typed = characters.next().is_some_and(|c| c.is_ascii_lowercase());
            if !is_typed || characters.next() != Some('=') || line.contains('\0') {
                return Err(FragmentError::Line(index + 1));
            }
            match line.strip_prefix("a=") {
                Some("end-of-candidates") => is_last = true,
                Some(line) if line.starts_with("candidate:") => candidates.push(line.to_owned()),
                _ => {}
            }
        }
        candidates.truncate(MAX_CANDIDATES);
        let credentials = match (attribute(text, "ice-ufrag"), attribute(text, "ice-pwd")) {
            (None, None) => None,
            (Some(ufrag), Some(password))
                if is_ice_text(ufrag, 4..=256) && is_ice_text(password, 22..=256) =>
            {
                Some(Credentials { ufrag: ufrag.to_owned(), password: password.to_owned() })
            }
            _ => return Err(FragmentError::Credentials),
        };
        if credentials.is_none() && candidates.is_empty() && !is_last {
            return Err(FragmentError::Empty);
        }
        Ok(Self { credentials, candidates, is_last })
    }
}

impl Credentials {
    /// Those of a whole description; everything is bundled, so there is one pair.
    pub fn of(sdp: &str) -> Option<Self> {
        let (ufrag, password) = (attribute(sdp, "ice-ufrag")?, attribute(sdp, "ice-pwd")?);
        Some(Self { ufrag: ufrag.to_owned(), password: password.to_owned() })
    }
}

/// Which way media goes, as the side that wrote the description sees it (RFC 8866 §6.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Send,
    Receive,
}

/// Why an offer cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    #[error("the body is not an SDP offer with ICE credentials and a fingerprint")]
    Malformed,
    #[error("the offer has no video")]
    NoVideo,
    #[error("the offer has more than one video track")]
    ManyVideos,
    #[error("the offer's video must be sendonly or sendrecv")]
    SendsNothing,
    #[error("the offer's video must be recvonly or sendrecv")]
    ReceivesNothing,
}

/// Checks that `offer` is one, and that its only video goes the way that is `wanted`.
pub fn check_offer(offer: &str, wanted: Flow) -> Result<(), OfferError> {
    let is_whole = offer.starts_with("v=0") && attribute(offer, "fingerprint").is_some();
    if !is_whole || Credentials::of(offer).is_none() {
        return Err(OfferError::Malformed);
    }
    let mut videos = offer.split("\nm=").skip(1).filter(|section| section.starts_with("video "));
    let video = videos.next().ok_or(OfferError::NoVideo)?;
    if videos.next().is_some() {
        return Err(OfferError::ManyVideos);
    }
    let has =
        |direction: &str| video.lines().any(|line| line.trim_end().strip_prefix("a=") == Some(direction));
    let serves = |other: &str| !has(other) && !has("inactive");
    match wanted {
        Flow::Send if !serves("recvonly") => Err(OfferError::SendsNothing),
        Flow::Receive if !serves("sendonly") => Err(OfferError::ReceivesNothing),
        _ => Ok(()),
    }
}

/// `offer` as it would be if it were made again with what `fragment` says.
pub fn restarted(offer: &str, credentials: &Credentials, candidates: &[String]) -> String {
    let candidates = || candidates.iter().map(|candidate| format!("a={candidate}"));
    let mut lines: Vec<String> = Vec::new();
    let mut sections = 0;
    for line in offer.lines().map(str::trim_end) {
        if line.starts_with("m=") {
            sections += 1;
            if sections == 2 {
                // The end of the first section, which all others are bundled with.
                lines.extend(candidates());
            }
        }
        if line.starts_with("a=ice-ufrag:") {
            lines.push(format!("a=ice-ufrag:{}", credentials.ufrag));
        } else if line.starts_with("a=ice-pwd:") {
            lines.push(format!("a=ice-pwd:{}", credentials.password));
        } else if !line.starts_with("a=candidate:") && line != "a=end-of-candidates" && !line.is_empty() {
            lines.push(line.to_owned());
        }
    }
    if sections < 2 {
        lines.extend(candidates());
    }
    lines.iter().map(|line| format!("{line}\r\n")).collect()
}

/// What a client needs of `answer` to take up the new ICE session.
pub fn of_answer(answer: &str) -> String {
    let mut fragment = String::new();
    let mut sections = 0;
    for line in answer.lines().map(str::trim_end) {
        if line.starts_with("m=") {
            sections += 1;
        }
        let is_session_level = line.starts_with("a=ice-options:") || line.starts_with("a=group:");
        let is_media_level = ["m=", "a=mid:", "a=ice-ufrag:", "a=ice-pwd:", "a=candidate:"]
            .iter()
            .any(|prefix| line.starts_with(prefix))
            || line == "a=end-of-candidates";
        if (sections == 0 && is_session_level) || (sections == 1 && is_media_level) {
            fragment.push_str(line);
            fragment.push_str("\r\n");
        }
    }
    fragment
}

/// Whether an `If-Match` header names the ICE session `etag` (RFC 9110 §13.1.1).
pub fn is_matched(if_match: &str, etag: &str) -> bool {
    if_match.split(',').map(str::trim).any(|tag| {
        // Clients also quote the asterisk, as the RFC's examples print it.
        tag == "*" || tag == "\"*\"" || tag.strip_prefix('"').and_then(|t| t.strip_suffix('"')) == Some(etag)
    })
}

fn attribute<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.trim_end().strip_prefix("a=")?.strip_prefix(name)?.strip_prefix(':'))
}

fn is_ice_text(text: &str, lengths: std::ops::RangeInclusive<usize>) -> bool {
    lengths.contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWORD: &str = "vw5LmwG4y/e6dPP/zAP9Gp5k";

    #[test]
    fn the_fragments_of_the_rfc_are_read() {
        let trickle = "a=group:BUNDLE 0 1\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\n\
             a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\n\
             a=candidate:1387637174 1 udp 2122260223 192.0.2.1 61764 typ host generation 0 ufrag EsAw\r\n\
             a=end-of-candidates\r\n";
        let read = Fragment::read(trickle).unwrap();
        assert_eq!(read.credentials.unwrap().ufrag, "EsAw");
        assert!(read.candidates[0].starts_with("candidate:1387637174 1 udp"));
        assert!(read.is_last);
        let restart = format!("a=ice-ufrag:ysXw\r\na=ice-pwd:{PASSWORD}\r\n");
        let credentials = Credentials { ufrag: "ysXw".into(), password: PASSWORD.into() };
        let expected = Fragment { credentials: Some(credentials), candidates: vec![], is_last: false };
        assert_eq!(Fragment::read(&restart), Ok(expected));
    }

    #[test]
    fn what_is_no_fragment_is_refused() {
        let short = "a=ice-ufrag:ysXw\na=ice-pwd:short".to_owned();
        let alone = "a=ice-ufrag:ysXw\na=end-of-candidates".to_owned();
        let odd = format!("a=ice-ufrag:y s\na=ice-pwd:{PASSWORD}");
        for (text, expected) in [
            ("".into(), FragmentError::Empty),
            ("m=audio 9 RTP/AVP 0\r\n".into(), FragmentError::Empty),
            ("{\"candidate\": 1}".into(), FragmentError::Line(1)),
            ("a=end-of-candidates\ncandidate:1".into(), FragmentError::Line(2)),
            ("a=candidate:\0".into(), FragmentError::Line(1)),
            (short, FragmentError::Credentials),
            (alone, FragmentError::Credentials),
            (odd, FragmentError::Credentials),
        ] {
            let text: String = text;
            assert_eq!(Fragment::read(&text), Err(expected), "{text:?}");
        }
        let flood = "a=candidate:1 1 udp 1 192.0.2.1 1 typ host\n".repeat(1000);
        assert_eq!(Fragment::read(&flood).unwrap().candidates.len(), MAX_CANDIDATES);
    }

    #[test]
    fn an_offers_video_must_go_the_right_way() {
        let offer = |sections: &str| {
            format!(
                "v=0\r\na=ice-ufrag:ysXw\r\na=ice-pwd:{PASSWORD}\r\na=fingerprint:sha-256 00\r\n{sections}"
            )
        };
        let video = |direction: &str| format!("m=video 9 X 96\r\na={direction}\r\n");
        let cases = [
            ("nonsense".into(), Flow::Send, Err(OfferError::Malformed)),
            ("v=0\r\nm=video 9 X 96\r\n".into(), Flow::Send, Err(OfferError::Malformed)),
            (offer("m=audio 9 X 0\r\na=sendonly\r\n"), Flow::Send, Err(OfferError::NoVideo)),
            (offer(&video("sendonly").repeat(2)), Flow::Send, Err(OfferError::ManyVideos)),
            (offer(&video("recvonly")), Flow::Send, Err(OfferError::SendsNothing)),
            (offer(&video("inactive")), Flow::Send, Err(OfferError::SendsNothing)),
            (offer(&video("sendonly")), Flow::Send, Ok(())),
            (offer(&video("mid:0")), Flow::Send, Ok(())),
            (offer(&video("sendonly")), Flow::Receive, Err(OfferError::ReceivesNothing)),
            (offer(&video("sendrecv")), Flow::Receive, Ok(())),
            (offer(&format!("m=audio 9 X 0\r\na=sendonly\r\n{}", video("recvonly"))), Flow::Receive, Ok(())),
        ];
        for (offer, wanted, expected) in cases {
            assert_eq!(check_offer(&offer, wanted), expected, "{offer}");
        }
    }

    #[test]
    fn a_restarted_offer_differs_in_its_ice_only() {
        let offer = "v=0\r\nm=audio 9 X 0\r\na=ice-ufrag:old1\r\na=ice-pwd:old\r\na=candidate:1 gone\r\n\
                     a=mid:0\r\na=end-of-candidates\r\nm=video 9 X 96\r\na=ice-ufrag:old1\r\na=ice-pwd:old\r\na=mid:1\r\n";
        let credentials = Credentials { ufrag: "new1".into(), password: PASSWORD.into() };
        let whole = restarted(offer, &credentials, &["candidate:2 come".into()]);
        let ice = format!("a=ice-ufrag:new1\r\na=ice-pwd:{PASSWORD}\r\n");
        let expected = format!(
            "v=0\r\nm=audio 9 X 0\r\n{ice}a=mid:0\r\na=candidate:2 come\r\nm=video 9 X 96\r\n{ice}a=mid:1\r\n"
        );
        assert_eq!(whole, expected);
        assert_eq!(Credentials::of(&whole), Some(credentials.clone()));
        let single = restarted("v=0\nm=video 9 X 96\na=mid:0\n", &credentials, &["candidate:2 come".into()]);
        assert!(single.ends_with("a=mid:0\r\na=candidate:2 come\r\n"), "{single}");
    }

    #[test]
    fn an_answers_fragment_has_its_first_section_only() {
        let answer = "v=0\r\na=group:BUNDLE 0 1\r\na=ice-options:trickle\r\na=fingerprint:sha-256 00\r\n\
                      m=audio 9 X 0\r\na=mid:0\r\na=ice-ufrag:abcd\r\na=ice-pwd:efgh\r\na=rtpmap:0 x\r\n\
                      a=candidate:1 here\r\na=end-of-candidates\r\nm=video 9 X 96\r\na=mid:1\r\na=ice-ufrag:abcd\r\n";
        let expected = "a=group:BUNDLE 0 1\r\na=ice-options:trickle\r\nm=audio 9 X 0\r\na=mid:0\r\n\
                        a=ice-ufrag:abcd\r\na=ice-pwd:efgh\r\na=candidate:1 here\r\na=end-of-candidates\r\n";
        assert_eq!(of_answer(answer), expected);
    }

    #[test]
    fn entity_tags_match_strongly() {
        for (header, is_match) in [
            ("\"abcd\"", true),
            ("*", true),
            ("\"*\"", true),
            ("\"other\", \"abcd\"", true),
            ("abcd", false),
            ("W/\"abcd\"", false),
            ("\"abc\"", false),
            ("", false),
        ] {
            assert_eq!(is_matched(header, "abcd"), is_match, "{header}");
        }
    }
}
