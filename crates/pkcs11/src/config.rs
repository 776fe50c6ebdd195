//! `config_json` of a provider configuration.

use std::str::FromStr;

use kasbah_trust::CustodyPolicy;
use serde::Deserialize;
use serde_json::Value;

/// Worker threads, and so sessions, of a manager. More than cores gains nothing on a software
/// token.
pub const DEFAULT_WORKERS: usize = 2;
/// Most workers: the parallelism of the largest devices.
pub const MAX_WORKERS: usize = 64;
/// Jobs that wait for a worker before others are told that the manager is busy: some 50 ms of work
/// for two workers on a software token.
pub const DEFAULT_QUEUE: usize = 64;
/// Longest queue.
pub const MAX_QUEUE: usize = 4096;

/// Wrapped private keys that are open at a time, all workers together: an RSA key takes some 10 kB
/// of a software token.
pub const DEFAULT_OPEN_KEYS: usize = 1024;
/// Most of them.
pub const MAX_OPEN_KEYS: usize = 4096;

/// Settings of one manager. `module` and `pin` are names of this node's own entries, never paths or
/// values: whoever may write a provider configuration must not thereby load a library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Name of an entry under `modules`.
    pub module: String,
    /// Label of the token.
    pub token: String,
    /// Name of an entry under `secrets`.
    pub pin: String,
    /// Slot id, where the label is not enough.
    pub slot: Option<u64>,
    /// What is demanded of custody; `require-sealed` unless said otherwise.
    pub custody: CustodyPolicy,
    /// Worker threads, 1 to [`MAX_WORKERS`].
    pub workers: usize,
    /// Length of the queue in front of them, 1 to [`MAX_QUEUE`].
    pub queue: usize,
    /// Private keys of mode `PROVIDER_ROOT_KEY` that are open in the token at a time, 1 to
    /// [`MAX_OPEN_KEYS`]; each worker has its share, one at least. Another one takes the place of
    /// the one not used for longest.
    pub open_keys: usize,
}

/// A `config_json` that cannot be used; says which setting and what is expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub(crate) String);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    module: String,
    token: String,
    /// Whatever it is, so that the parser does not repeat it in an error.
    pin: Value,
    slot: Option<u64>,
    custody: Option<String>,
    workers: Option<usize>,
    queue: Option<usize>,
    open_keys: Option<usize>,
}

impl FromStr for Settings {
    type Err = ConfigError;

    /// Reads JSON text such as
    /// `{"module":"softhsm","token":"kas","pin":"pin1","custody":"require-sealed"}`.
    fn from_str(json: &str) -> Result<Self, ConfigError> {
        let raw: Raw =
            serde_json::from_str(json).map_err(|error| ConfigError(error.to_string()))?;
        let custody = match raw.custody {
            None => CustodyPolicy::RequireSealed,
            Some(text) => {
                text.parse().map_err(|expected| ConfigError(format!("custody: {expected}")))?
            }
        };
        Ok(Self {
            module: named("module", raw.module)?,
            token: named("token", raw.token)?,
            pin: name_of_pin(raw.pin)?,
            slot: raw.slot,
            custody,
            workers: bounded("workers", raw.workers, DEFAULT_WORKERS, MAX_WORKERS)?,
            queue: bounded("queue", raw.queue, DEFAULT_QUEUE, MAX_QUEUE)?,
            open_keys: bounded("open_keys", raw.open_keys, DEFAULT_OPEN_KEYS, MAX_OPEN_KEYS)?,
        })
    }
}

/// What was given is not repeated: people put PINs there.
fn name_of_pin(pin: Value) -> Result<String, ConfigError> {
    match pin {
        Value::String(name) => named("pin", name),
        _ => Err(ConfigError("pin must be the name of an entry of `secrets`".into())),
    }
}

fn named(setting: &str, value: String) -> Result<String, ConfigError> {
    if value.is_empty() {
        return Err(ConfigError(format!("{setting} is empty")));
    }
    Ok(value)
}

fn bounded(
    setting: &str,
    value: Option<usize>,
    default: usize,
    most: usize,
) -> Result<usize, ConfigError> {
    match value.unwrap_or(default) {
        value if (1..=most).contains(&value) => Ok(value),
        value => Err(ConfigError(format!("{setting}: expected 1 to {most}, found {value}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = r#"{"module":"softhsm","token":"kas","pin":"pin1"}"#;

    fn with(more: &str) -> String {
        LEAST.replace('}', &format!(",{more}}}"))
    }

    #[test]
    fn what_is_left_out_is_safe() {
        let settings: Settings = LEAST.parse().unwrap();
        assert_eq!(settings.custody, CustodyPolicy::RequireSealed);
        assert_eq!((settings.workers, settings.queue, settings.slot), (2, 64, None));
        assert_eq!(settings.open_keys, 1024);
    }

    #[test]
    fn everything_can_be_said() {
        let more = r#""slot":3,"custody":"prefer-sealed","workers":4,"queue":8,"open_keys":9"#;
        let settings: Settings = with(more).parse().unwrap();
        assert_eq!(settings.custody, CustodyPolicy::PreferSealed);
        assert_eq!((settings.workers, settings.queue, settings.slot), (4, 8, Some(3)));
        assert_eq!(settings.open_keys, 9);
    }

    #[test]
    fn what_stands_for_a_pin_is_not_repeated() {
        for pin in ["87654321", "[87654321]", r#"{"pin":87654321}"#, "true", "null"] {
            let json = LEAST.replace("\"pin1\"", pin);
            assert_ne!(json, LEAST);
            let text = json.parse::<Settings>().unwrap_err().to_string();
            assert_eq!(text, "pin must be the name of an entry of `secrets`");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (json, expected) in [
            ("", "EOF"),
            ("{}", "missing field `module`"),
            (&LEAST.replace("kas", ""), "token is empty"),
            (&with(r#""pins":1"#), "unknown field `pins`"),
            (&with(r#""pin_value":"1234""#), "unknown field `pin_value`"),
            (&with(r#""custody":"sealed""#), "custody: expected `require-sealed`"),
            (&with(r#""workers":0"#), "workers: expected 1 to 64, found 0"),
            (&with(r#""workers":65"#), "workers: expected 1 to 64, found 65"),
            (&with(r#""queue":0"#), "queue: expected 1 to 4096"),
            (&with(r#""queue":4097"#), "queue: expected 1 to 4096"),
            (&with(r#""open_keys":0"#), "open_keys: expected 1 to 4096, found 0"),
            (&with(r#""open_keys":4097"#), "open_keys: expected 1 to 4096, found 4097"),
            (&with(r#""slot":-1"#), "expected u64"),
            (&with(r#""slot":"a""#), "expected u64"),
        ] {
            let text = json.parse::<Settings>().unwrap_err().to_string();
            assert!(text.contains(expected), "{json}: {text}");
        }
    }
}
