//! Answers as people read them.

use std::collections::BTreeMap;

use kasbah_proto::common::Metadata;
use prost_types::Timestamp;

/// Text of somebody else's on one line, without anything a terminal would obey.
pub(crate) fn one_line(text: &str) -> String {
    let shown = |c: char| match c {
        '\n' | '\r' | '\t' => ' ',
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().map(shown).collect()
}

/// Text in a table; a dash when there is none.
pub(crate) fn cell(text: &str) -> String {
    if text.is_empty() { "-".into() } else { one_line(text) }
}

/// `yes`, or a dash.
pub(crate) fn yes(flag: bool) -> String {
    cell(if flag { "yes" } else { "" })
}

/// A time to the second; a dash when there is none.
pub(crate) fn time(time: Option<&Timestamp>) -> String {
    time.map_or_else(|| cell(""), |time| Timestamp { seconds: time.seconds, nanos: 0 }.to_string())
}

/// The labels, in order of their keys.
pub(crate) fn labels(metadata: Option<&Metadata>) -> String {
    let labels: BTreeMap<_, _> =
        metadata.into_iter().flat_map(|metadata| &metadata.labels).collect();
    let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    cell(&labels.join(", "))
}

/// One thing, one of its properties on each line.
pub(crate) fn details(properties: &[(&str, String)]) -> String {
    let width = properties.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let lines: Vec<_> =
        properties.iter().map(|(name, value)| format!("{name:width$}  {value}")).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_has_nothing_to_obey() {
        assert_eq!(one_line("a\nb\tc"), "a b c");
        assert_eq!(one_line("\u{1b}[2J\u{7f}\u{9b}"), "\u{fffd}[2J\u{fffd}\u{fffd}");
        assert_eq!(cell(""), "-");
    }

    #[test]
    fn labels_are_in_order() {
        let labels_of = |pairs: &[(&str, &str)]| {
            let own = |(key, value): &(&str, &str)| ((*key).into(), (*value).into());
            let map = pairs.iter().map(own).collect();
            labels(Some(&Metadata { labels: map, ..Default::default() }))
        };
        assert_eq!(labels_of(&[("b", "2"), ("a", "1\n")]), "a=1 , b=2");
        assert_eq!(labels_of(&[]), "-");
        assert_eq!(labels(None), "-");
    }

    #[test]
    fn times_are_to_the_second() {
        let moment = Timestamp { seconds: 1, nanos: 999_999_999 };
        assert_eq!(time(Some(&moment)), "1970-01-01T00:00:01Z");
        assert_eq!(time(None), "-");
    }

    #[test]
    fn properties_line_up() {
        assert_eq!(details(&[("id", "1".into()), ("name", "2".into())]), "id    1\nname  2");
    }
}
