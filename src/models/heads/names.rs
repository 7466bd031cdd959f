//! What exporters write beside the graph: lists of names, sizes and strides, as Python prints them or as
//! JSON.

use std::collections::BTreeMap;

/// Labels that a list may have.
const MAX_LABELS: usize = 0xffff;
/// Bytes of a label, as manifests have it.
const MAX_LABEL_BYTES: usize = 64;

/// Reads `{0: 'person', 1: "bicycle"}`, `['person', 'bicycle']` and the same as JSON; `None` for anything
/// else. Numbers that are passed over get names of their own.
pub fn labels(text: &str) -> Option<Vec<String>> {
    let mut rest = Scanner(text.trim_start());
    let ends = if rest.take('{') { '}' } else { rest.take('[').then_some(']')? };
    let mut named = BTreeMap::new();
    let mut next = 0;
    while !rest.take(ends) {
        if ends == '}' {
            next = rest.index()?;
            rest.take(':').then_some(())?;
        }
        (next < MAX_LABELS).then_some(())?;
        named.insert(next, rest.quoted()?);
        next += 1;
        if !rest.take(',') {
            rest.take(ends).then_some(())?;
            break;
        }
    }
    let count = *named.keys().next_back()? + 1;
    rest.0.trim().is_empty().then(|| unique((0..count).map(|index| named.remove(&index).unwrap_or_default())))
}

/// Makes any names ones that a manifest can have: short, not empty, each once.
pub fn unique(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    let label = |(index, name): (usize, String)| {
        let plain: String = name.trim().chars().filter(|c| !c.is_control()).collect();
        // Room for a number behind it.
        let short = plain.char_indices().take_while(|(at, c)| at + c.len_utf8() <= MAX_LABEL_BYTES - 8);
        let short: String = short.map(|(_, c)| c).collect();
        let name = if short.is_empty() { format!("class {index}") } else { short };
        let name = if seen.contains(&name) { format!("{name} #{index}") } else { name };
        seen.insert(name.clone());
        name
    };
    names.into_iter().enumerate().map(label).collect()
}

/// Reads `[640, 640]` and `640`.
pub fn numbers(text: &str) -> Option<Vec<usize>> {
    let inside = text.trim().trim_start_matches(['[', '(']).trim_end_matches([']', ')']);
    inside.split(',').map(str::trim).filter(|part| !part.is_empty()).map(|part| part.parse().ok()).collect()
}

/// The rest of the text.
struct Scanner<'a>(&'a str);

impl Scanner<'_> {
    fn take(&mut self, wanted: char) -> bool {
        let Some(rest) = self.0.trim_start().strip_prefix(wanted) else { return false };
        self.0 = rest;
        true
    }

    /// A number, which JSON writes in quotes.
    fn index(&mut self) -> Option<usize> {
        let quoted = self.0.trim_start().starts_with(['"', '\'']);
        if quoted {
            return self.quoted()?.parse().ok();
        }
        let text = self.0.trim_start();
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        self.0 = &text[digits..];
        text[..digits].parse().ok()
    }

    fn quoted(&mut self) -> Option<String> {
        let text = self.0.trim_start();
        let quote = text.chars().next().filter(|c| ['\'', '"'].contains(c))?;
        let mut name = String::new();
        let mut chars = text.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => match chars.next()?.1 {
                    'n' | 't' | 'r' => name.push(' '),
                    other => name.push(other),
                },
                c if c == quote => {
                    self.0 = &text[at + c.len_utf8()..];
                    return Some(name);
                }
                c => name.push(c),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_python_and_as_json_write_them() {
        for text in [
            "{0: 'person', 1: 'traffic light'}",
            "{0: \"person\", 1: \"traffic light\",}",
            "{\"0\": \"person\", \"1\": \"traffic light\"}",
            "['person', 'traffic light']",
            " [ \"person\" , \"traffic light\" ] ",
        ] {
            assert_eq!(labels(text).unwrap(), ["person", "traffic light"], "{text}");
        }
        assert_eq!(
            labels(r#"{0: "men's", 1: 'l\'eau, {x}', 2: 'chat\\noir'}"#).unwrap(),
            ["men's", "l'eau, {x}", r"chat\noir"]
        );
        assert_eq!(labels("{2: 'c', 0: 'a'}").unwrap(), ["a", "class 1", "c"]);
    }

    #[test]
    fn what_is_no_list_of_names_is_none() {
        for text in [
            "",
            "person",
            "{",
            "[",
            "{}",
            "[]",
            "{0: person}",
            "{0 'a'}",
            "['a' 'b']",
            "['a'] x",
            "['a",
            "{-1: 'a'}",
        ] {
            assert_eq!(labels(text), None, "{text}");
        }
        assert_eq!(labels("{99999999: 'a'}"), None);
        assert_eq!(labels("{18446744073709551616: 'a'}"), None);
    }

    #[test]
    fn any_names_become_labels() {
        let long = "é".repeat(100);
        let made = unique(["a", "a", "", " a\n", &long].map(str::to_owned));
        assert_eq!(made[..4], ["a", "a #1", "class 2", "a #3"]);
        assert!(made.iter().all(|label| (1..=MAX_LABEL_BYTES).contains(&label.len())), "{made:?}");
    }

    #[test]
    fn sizes_are_read() {
        assert_eq!(numbers("[640, 480]"), Some(vec![640, 480]));
        assert_eq!(numbers("32"), Some(vec![32]));
        assert_eq!(numbers("(320,)"), Some(vec![320]));
        assert_eq!(numbers("[a]"), None);
    }
}
