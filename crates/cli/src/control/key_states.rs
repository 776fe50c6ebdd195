//! `kasbah keys list`: every key at a glance.

use std::time::{Duration, SystemTime};

use kasbah_proto::{
    kasbah::admin::v1::{KeyState, ListKeyStatesRequest},
    policy::{AsymmetricKey, KeyProviderConfig, KeyStatus},
};
use kasbah_trust::Algorithm;
use prost_types::Timestamp;
use serde_json::Value;

use crate::{
    control::{
        find::KasName,
        json::Object,
        page::PageArguments,
        refused::OrRefused,
        server::Server,
        table::{cell, time, yes},
        words::{self, parse_algorithm, wire_algorithm},
    },
    exit::Failure,
    output::{Output, columns},
};

const SECONDS_A_DAY: u64 = 24 * 60 * 60;

/// Which keys.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArguments {
    /// The key access server; without it, the one that the server serves itself
    #[arg(long, value_name = "UUID|URI|NAME")]
    kas: Option<KasName>,
    /// Only keys of this algorithm
    #[arg(long, short, value_name = "ALGORITHM", value_parser = parse_algorithm)]
    algorithm: Option<Algorithm>,
    /// Only legacy keys; `--legacy false` for only the others
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    legacy: Option<bool>,
    /// After how many days without a rewrap a rotated key is `safe` to retire
    #[arg(long, value_name = "N", default_value_t = 90)]
    unused_days: u32,
}

impl ListArguments {
    /// Asks for the keys and prints them.
    pub(crate) async fn run(&self, server: &Server, output: Output) -> Result<(), Failure> {
        let kas_id = server.kas_id_or_own(self.kas.as_ref()).await?;
        let mut states = PageArguments::default()
            .collect(async |page| {
                let request =
                    ListKeyStatesRequest { kas_id: kas_id.clone(), pagination: Some(page) };
                let answer = server.admin().list_key_states(request).await;
                let answer = answer.or_refused("cannot list keys")?;
                Ok((answer.keys, answer.pagination))
            })
            .await?;
        states.retain(|state| self.wants(key(state)));
        let unused_since = self.unused_since(SystemTime::now());
        let json: Value = Object::default().list("keys", &states).into();
        output.print(&json, |_| table(&states, &unused_since))
    }

    fn wants(&self, key: Option<&AsymmetricKey>) -> bool {
        let algorithm = self.algorithm.map(|algorithm| i32::from(wire_algorithm(algorithm)));
        let (found, legacy) = key.map_or((0, false), |key| (key.key_algorithm, key.legacy));
        algorithm.is_none_or(|wanted| wanted == found)
            && self.legacy.is_none_or(|wanted| wanted == legacy)
    }

    fn unused_since(&self, now: SystemTime) -> Timestamp {
        let unused = Duration::from_secs(u64::from(self.unused_days) * SECONDS_A_DAY);
        now.checked_sub(unused).unwrap_or(SystemTime::UNIX_EPOCH).into()
    }
}

fn table(states: &[KeyState], unused_since: &Timestamp) -> String {
    if states.is_empty() {
        return "no keys; make one with `kasbah keys create`".into();
    }
    let header = [
        "KID",
        "ALGORITHM",
        "STATUS",
        "MODE",
        "MANAGER#PROVIDER",
        "CUSTODY",
        "LAST USED",
        "USES",
        "BASE",
        "RETIRE",
    ];
    let rows: Vec<_> = states.iter().map(|state| row(state, unused_since)).collect();
    let not_ready: String = states.iter().filter_map(not_ready).collect();
    format!("{}{not_ready}", columns(header, &rows))
}

fn row(state: &KeyState, unused_since: &Timestamp) -> [String; 10] {
    let key = key(state).cloned().unwrap_or_default();
    let custody = state.custody.as_ref().map_or("", |custody| &custody.level);
    [
        cell(&key.key_id),
        words::algorithm(key.key_algorithm).into(),
        words::status(key.key_status).into(),
        words::mode(key.key_mode).into(),
        designation(key.provider_config.as_ref()),
        cell(custody),
        time(state.last_used.as_ref()),
        state.uses.to_string(),
        yes(state.is_base_key),
        cell(if safe_to_retire(state, unused_since) { "safe" } else { "" }),
    ]
}

fn key(state: &KeyState) -> Option<&AsymmetricKey> {
    state.kas_key.as_ref()?.key.as_ref()
}

/// `manager#name`, or a dash.
pub(crate) fn designation(provider: Option<&KeyProviderConfig>) -> String {
    let text = provider.map(|provider| format!("{}#{}", provider.manager, provider.name));
    cell(&text.unwrap_or_default())
}

/// Whether a key was rotated out and nothing has needed it since. Only rewraps count: a TDF that
/// nobody has opened for so long may need it still.
fn safe_to_retire(state: &KeyState, unused_since: &Timestamp) -> bool {
    let rotated = key(state).is_some_and(|key| key.key_status() == KeyStatus::Rotated);
    let unused = match &state.last_used {
        Some(last_used) => last_used.seconds <= unused_since.seconds,
        None => state.uses == 0,
    };
    rotated && unused
}

/// Why a key that should be ready is not.
fn not_ready(state: &KeyState) -> Option<String> {
    let key = key(state)?;
    let in_use = matches!(key.key_status(), KeyStatus::Active | KeyStatus::Rotated);
    let troubled = in_use && !state.state.is_empty() && state.state != "ready";
    troubled.then(|| format!("{} is not ready: {}\n", cell(&key.key_id), cell(&state.state)))
}

#[cfg(test)]
mod tests {
    use kasbah_proto::{
        kasbah::admin::v1::Custody,
        policy::{self, KasKey, KeyMode},
    };

    use super::*;

    const DAY: i64 = 24 * 60 * 60;

    fn at(seconds: i64) -> Timestamp {
        Timestamp { seconds, nanos: 0 }
    }

    fn state(kid: &str, status: KeyStatus, last_used: Option<i64>) -> KeyState {
        let key = AsymmetricKey {
            key_id: kid.into(),
            key_algorithm: policy::Algorithm::Rsa2048.into(),
            key_status: status.into(),
            key_mode: KeyMode::Remote.into(),
            provider_config: Some(KeyProviderConfig {
                name: "main".into(),
                manager: "opentdf.io/hsm".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        KeyState {
            kas_key: Some(KasKey { key: Some(key), ..Default::default() }),
            state: "ready".into(),
            custody: Some(Custody { level: "sealed".into(), ..Default::default() }),
            uses: last_used.map_or(0, |_| 12),
            last_used: last_used.map(at),
            is_base_key: status == KeyStatus::Active,
        }
    }

    fn arguments(algorithm: Option<Algorithm>, legacy: Option<bool>) -> ListArguments {
        ListArguments { kas: None, algorithm, legacy, unused_days: 90 }
    }

    #[test]
    fn every_key_is_shown_at_a_glance() {
        let states =
            [state("r1", KeyStatus::Rotated, None), state("r2", KeyStatus::Active, Some(DAY))];
        assert_eq!(
            table(&states, &at(0)),
            "\
KID  ALGORITHM  STATUS   MODE    MANAGER#PROVIDER     CUSTODY  LAST USED             USES  BASE  RETIRE
r1   rsa:2048   rotated  remote  opentdf.io/hsm#main  sealed   -                     0     -     safe
r2   rsa:2048   active   remote  opentdf.io/hsm#main  sealed   1970-01-02T00:00:00Z  12    yes   -
"
        );
        assert!(table(&[], &at(0)).contains("kasbah keys create"));
    }

    #[test]
    fn a_key_of_which_nothing_is_known_is_shown_too() {
        let text = table(&[KeyState::default()], &at(0));
        assert!(text.contains("\n-    unknown    unknown  unknown  -"), "{text}");
    }

    #[test]
    fn a_rotated_key_is_safe_to_retire_once_unused_for_long() {
        let unused_since = at(100 * DAY);
        let safe =
            |status, last_used| safe_to_retire(&state("r1", status, last_used), &unused_since);
        assert!(safe(KeyStatus::Rotated, None));
        assert!(safe(KeyStatus::Rotated, Some(100 * DAY)));
        assert!(!safe(KeyStatus::Rotated, Some(100 * DAY + 1)));
        for status in [KeyStatus::Active, KeyStatus::Disabled, KeyStatus::Compromised] {
            assert!(!safe(status, None), "{status:?}");
        }
        let uncertain = KeyState { uses: 1, ..state("r1", KeyStatus::Rotated, None) };
        assert!(!safe_to_retire(&uncertain, &unused_since));
    }

    #[test]
    fn days_are_counted_back_from_now() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100 * SECONDS_A_DAY);
        assert_eq!(arguments(None, None).unused_since(now), at(10 * DAY));
        let ages = ListArguments { unused_days: u32::MAX, ..arguments(None, None) };
        assert!(ages.unused_since(now).seconds <= 0);
    }

    #[test]
    fn a_key_that_is_not_ready_says_why() {
        let down = |status| KeyState { state: "token absent".into(), ..state("r1", status, None) };
        let text = table(&[down(KeyStatus::Active)], &at(0));
        assert!(text.ends_with("\nr1 is not ready: token absent\n"), "{text}");
        assert_eq!(not_ready(&down(KeyStatus::Disabled)), None);
        assert_eq!(not_ready(&state("r1", KeyStatus::Active, None)), None);
    }

    #[test]
    fn filters_are_kept() {
        let state = state("r1", KeyStatus::Active, None);
        let wants = |algorithm, legacy| arguments(algorithm, legacy).wants(key(&state));
        assert!(wants(None, None));
        assert!(wants(Some(Algorithm::Rsa2048), Some(false)));
        assert!(!wants(Some(Algorithm::Rsa4096), None));
        assert!(!wants(None, Some(true)));
    }
}
