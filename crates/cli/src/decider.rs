//! Who decides on access, from the configuration; and what keeps local entitlements current.

use std::{fs, path::Path, sync::Arc, time::Duration};

use kasbah_access::{Decisions, Entitlements, LocalDecisions};
use kasbah_kas::AccessRules;
use kasbah_platform::PlatformDecisions;
use kasbah_registry::Registry;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

use crate::{
    config::{Decider, Decisions as Config},
    exit::{Exit, Failure, OrExit},
};

/// How often it is looked whether a registry has changed, beside hearing of it.
const LOOK: Duration = Duration::from_millis(250);

/// Who decides.
pub(crate) struct Deciding {
    /// How.
    pub(crate) rules: AccessRules,
    /// This node, if it does.
    pub(crate) local: Option<Arc<LocalDecisions>>,
    /// A platform, if it does.
    pub(crate) platform: Option<Arc<PlatformDecisions>>,
}

/// Builds the rules; what keeps them current runs in `background`.
pub(crate) async fn rules(
    config: Config,
    registry: Option<&Registry>,
    background: &mut JoinSet<()>,
) -> Result<Deciding, Failure> {
    let Config { by, deny_without_attributes, check_binding_after_denial } = config;
    let mut platform = None;
    let local = match by {
        Decider::Nobody => None,
        Decider::File { file, entitlements, options } => {
            let local = Arc::new(LocalDecisions::new(*entitlements, options));
            let mut hangup = signal(SignalKind::hangup()).or_exit(Exit::Unavailable)?;
            let reloaded = Arc::clone(&local);
            background.spawn(async move {
                while hangup.recv().await.is_some() {
                    reload(&reloaded, &file);
                }
            });
            Some(local)
        }
        Decider::Registry(options) => {
            let local = Arc::new(LocalDecisions::new(Entitlements::default(), options));
            if let Some(registry) = registry {
                let (registry, local) = (registry.clone(), Arc::clone(&local));
                let changes = registry.database().changes();
                let known = take_on(&registry, &local, None).await.or_exit(Exit::Unavailable)?;
                background.spawn(async move { follow(&registry, &local, changes, known).await });
            }
            Some(local)
        }
        Decider::Platform(connection, settings) => {
            let decisions = PlatformDecisions::new(&connection, settings).or_exit(Exit::Usage)?;
            platform = Some(Arc::new(decisions));
            None
        }
    };
    let decisions: Option<Arc<dyn Decisions>> = match (&local, &platform) {
        (Some(local), _) => Some(Arc::clone(local) as _),
        (None, Some(platform)) => Some(Arc::clone(platform) as _),
        (None, None) => None,
    };
    let rules = AccessRules { decisions, deny_without_attributes, check_binding_after_denial };
    Ok(Deciding { rules, local, platform })
}

fn reload(local: &LocalDecisions, file: &Path) {
    let read = fs::read_to_string(file).map_err(|error| error.to_string());
    match read.and_then(|text| Entitlements::parse(&text).map_err(|error| error.to_string())) {
        Ok(entitlements) => {
            local.replace(entitlements);
            warn(local);
            tracing::info!(file = %file.display(), "entitlements were read again");
        }
        Err(error) => {
            tracing::error!(file = %file.display(), error, "entitlements stay as they were");
        }
    }
}

/// Takes on the entitlements of the registry after each change: when one is heard of, and by looking
/// now and then, since one is not heard of while the connection is made anew.
async fn follow(
    registry: &Registry,
    local: &LocalDecisions,
    mut changes: watch::Receiver<u64>,
    mut known: Option<u64>,
) {
    let mut seen = None;
    let mut is_down = false;
    loop {
        tokio::select! {
            heard = changes.changed() => if heard.is_err() { return },
            () = tokio::time::sleep(LOOK) => {}
        }
        match look(registry, local, &mut seen, known).await {
            Ok(revision) => (known, is_down) = (revision, false),
            Err(error) if !is_down => {
                tracing::warn!(%error, "entitlements of the registry cannot be read");
                is_down = true;
            }
            Err(_) => {}
        }
    }
}

/// As [`take_on`], if the registry has changed since the revision `seen`.
async fn look(
    registry: &Registry,
    local: &LocalDecisions,
    seen: &mut Option<u64>,
    known: Option<u64>,
) -> kasbah_registry::Result<Option<u64>> {
    let revision = registry.database().revision().await?;
    if *seen == Some(revision) {
        return Ok(known);
    }
    let known = take_on(registry, local, known).await?;
    *seen = Some(revision);
    Ok(known)
}

/// Takes on the entitlements of the registry, unless they are those of the revision `known`; says of
/// which revision they are. Some that cannot be read are passed over: what is in force stays so.
async fn take_on(
    registry: &Registry,
    local: &LocalDecisions,
    known: Option<u64>,
) -> kasbah_registry::Result<Option<u64>> {
    let Some((text, revision)) = registry.entitlements().await? else {
        // There were some, in a database that was put back since.
        if known.is_some() {
            local.replace(Entitlements::default());
        }
        return Ok(None);
    };
    if known == Some(revision) {
        return Ok(known);
    }
    match Entitlements::parse(&text) {
        Ok(entitlements) => {
            local.replace(entitlements);
            warn(local);
            tracing::info!(revision, "entitlements of the registry are in force");
        }
        Err(error) => tracing::error!(revision, %error, "entitlements stay as they were"),
    }
    Ok(Some(revision))
}

/// Guards that fail open are worth a line each time they come into force.
fn warn(local: &LocalDecisions) {
    for warning in local.warnings() {
        tracing::warn!(warning, "entitlements");
    }
}
