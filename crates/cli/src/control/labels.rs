//! Labels of what a registry keeps.

use std::str::FromStr;

use kasbah_proto::common::{MetadataMutable, MetadataUpdateEnum};

/// Labels of something new.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct LabelArguments {
    /// Label it; may be given several times
    #[arg(long = "label", short, value_name = "KEY=VALUE", value_delimiter = ',')]
    labels: Vec<Label>,
}

/// Changes to labels.
#[derive(Debug, clap::Args)]
pub(crate) struct LabelChangeArguments {
    #[command(flatten)]
    labels: LabelArguments,
    /// Drop the labels that are not given; without it, those given are added
    #[arg(long)]
    force_replace_labels: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Label {
    key: String,
    value: String,
}

impl LabelArguments {
    /// `None` without labels.
    pub(crate) fn metadata(&self) -> Option<MetadataMutable> {
        let labels = self.labels.iter().map(|label| (label.key.clone(), label.value.clone()));
        (!self.labels.is_empty()).then(|| MetadataMutable { labels: labels.collect() })
    }
}

impl LabelChangeArguments {
    /// The labels, and what becomes of those there are; `None` when nothing is to change.
    pub(crate) fn change(&self) -> Option<(MetadataMutable, MetadataUpdateEnum)> {
        let metadata = self.labels.metadata();
        if self.force_replace_labels {
            return Some((metadata.unwrap_or_default(), MetadataUpdateEnum::Replace));
        }
        metadata.map(|metadata| (metadata, MetadataUpdateEnum::Extend))
    }
}

impl FromStr for Label {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() && !value.contains('=') => {
                Ok(Self { key: key.into(), value: value.into() })
            }
            _ => Err("a label is KEY=VALUE, with one `=`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(texts: &[&str]) -> LabelArguments {
        LabelArguments { labels: texts.iter().map(|text| text.parse().unwrap()).collect() }
    }

    #[test]
    fn a_label_has_a_key_and_one_equals_sign() {
        let label: Label = "team=blue".parse().unwrap();
        assert_eq!((label.key.as_str(), label.value.as_str()), ("team", "blue"));
        assert!("team=".parse::<Label>().is_ok());
        for text in ["", "team", "=blue", "a=b=c"] {
            assert!(text.parse::<Label>().is_err(), "{text}");
        }
    }

    #[test]
    fn labels_are_added_unless_they_are_to_replace() {
        let change = |texts: &[&str], force_replace_labels| {
            LabelChangeArguments { labels: labels(texts), force_replace_labels }.change()
        };
        assert_eq!(change(&[], false), None);
        let (metadata, behaviour) = change(&["a=1"], false).unwrap();
        assert_eq!((metadata.labels["a"].as_str(), behaviour), ("1", MetadataUpdateEnum::Extend));
        let (metadata, behaviour) = change(&[], true).unwrap();
        assert!(metadata.labels.is_empty());
        assert_eq!(behaviour, MetadataUpdateEnum::Replace);
    }
}
