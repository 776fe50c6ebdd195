use std::{
    collections::{HashMap, HashSet},
    error::Error as StdError,
    fmt,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt, StreamExt,
    future::{self, BoxFuture, Shared},
    stream::FuturesUnordered,
};
use tokio::sync::watch;

use crate::{
    Algorithm, Error, Health, KeyDetails, KeyIndex, KeyManagerFactory, KeyManagers, KeyMode,
    KeyStatus, Lease, ProviderConfig, Result, instance::Instance, proof::Proofs,
};

/// What to do with a key whose manager nobody registered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UnknownManager {
    /// Attempt the default manager, with a warning, where it could hold such a key.
    #[default]
    Default,
    /// Refuse.
    Refuse,
}

/// Identity of a live manager: `(manager, name)`, printed `manager#name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Designation {
    /// Name of the manager.
    pub manager: String,
    /// Name of the provider configuration; empty for the default manager.
    pub name: String,
}

impl Designation {
    fn of(config: &ProviderConfig) -> Self {
        Self { manager: config.manager.clone(), name: config.name.clone() }
    }
}

impl fmt::Display for Designation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.manager, self.name)
    }
}

/// Picks the manager of a key and keeps managers alive.
///
/// There is one live manager per [`Designation`], built from the greatest
/// [`ProviderConfig::version`] seen. It is built by whoever asks first and everybody who asks
/// meanwhile: when one of them goes away the others carry on with the same construction, and one
/// that all have left is resumed by the next. A greater version replaces the manager; the old one
/// is closed after its last lease by [`KeyService::drain_replaced`], which somebody must be
/// running. A construction that failed is not tried again for a second, so that requests do not
/// hammer a dead device.
#[derive(Debug)]
pub struct KeyService {
    index: Arc<dyn KeyIndex>,
    managers: KeyManagers,
    default: Arc<ProviderConfig>,
    unknown: UnknownManager,
    fallbacks: AtomicU64,
    state: Mutex<State>,
    proofs: Proofs,
    /// Says that `state` has something to drain, or is closed.
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    slots: HashMap<Designation, Slot>,
    replaced: Vec<Arc<Instance>>,
    warned: HashSet<Designation>,
}

/// What is known of one designation.
#[derive(Debug, Default)]
struct Slot {
    live: Option<Arc<Instance>>,
    building: Option<Building>,
    failed: Option<Failed>,
}

type Building = Shared<BoxFuture<'static, Result<Arc<Instance>, BuildError>>>;

#[derive(Debug)]
struct Failed {
    at: Instant,
    error: BuildError,
}

/// How a request gets its manager.
enum Step {
    Done(Lease),
    Wait(Building),
}

/// Why a manager could not be built; shared by all who waited for it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("key manager {designation} could not be built")]
struct BuildError {
    designation: Designation,
    version: u64,
    #[source]
    cause: Arc<dyn StdError + Send + Sync>,
}

impl KeyService {
    /// A service over `index`; `default` names the manager of keys without a provider
    /// configuration.
    ///
    /// # Errors
    /// `Internal` when `default` is not registered.
    pub fn new(
        index: Arc<dyn KeyIndex>,
        managers: KeyManagers,
        default: &str,
        unknown: UnknownManager,
    ) -> Result<Self> {
        if managers.factory(default).is_none() {
            return Err(Error::internal(format!(
                "default key manager {default} is not registered; registered are: {}",
                list(managers.names())
            )));
        }
        let default = Arc::new(ProviderConfig {
            name: String::new(),
            manager: default.to_owned(),
            config_json: "{}".to_owned(),
            version: 0,
        });
        Ok(Self {
            index,
            managers,
            default,
            unknown,
            fallbacks: AtomicU64::new(0),
            state: Mutex::default(),
            proofs: Proofs::default(),
            changed: watch::Sender::new(()),
        })
    }

    /// Where keys are found.
    pub fn index(&self) -> &dyn KeyIndex {
        self.index.as_ref()
    }

    /// The algorithms that the registered managers serve, sorted. Builds no manager.
    pub fn algorithms(&self) -> Vec<Algorithm> {
        let mut all: Vec<_> = self
            .managers
            .names()
            .flat_map(|name| self.managers.algorithms(name))
            .copied()
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Names of the managers that are registered, sorted.
    pub fn managers(&self) -> impl Iterator<Item = &str> {
        self.managers.names()
    }

    /// Whether a manager of this name is registered.
    pub fn has_manager(&self, name: &str) -> bool {
        self.managers.factory(name).is_some()
    }

    /// How often a key whose manager nobody registered was given to the default manager.
    pub fn fallbacks(&self) -> u64 {
        self.fallbacks.load(Ordering::Relaxed)
    }

    /// The manager of `key`, built on first use.
    ///
    /// # Errors
    /// `NotPermitted` for a key that has no private part or is out of use; `Unavailable` when its manager cannot be
    /// built now or is not registered (the source names it), and after [`KeyService::close`].
    pub async fn manager_for(&self, key: &KeyDetails) -> Result<Lease> {
        if key.mode == KeyMode::PublicKeyOnly {
            return Err(Error::NotPermitted("only the public part of this key is kept here"));
        }
        match key.status {
            KeyStatus::Active | KeyStatus::Rotated => {}
            KeyStatus::Disabled => return Err(Error::NotPermitted("the key is disabled")),
            KeyStatus::Compromised => {
                return Err(Error::NotPermitted("the key is marked as compromised"));
            }
        }
        let (config, factory) = self.config_for(key)?;
        self.live(config, factory).await
    }

    /// The manager of a provider configuration, built on first use; for what is not about one key.
    ///
    /// # Errors
    /// `Unavailable` when it cannot be built now or is not registered, and after
    /// [`KeyService::close`].
    pub async fn manager_of(&self, config: &Arc<ProviderConfig>) -> Result<Lease> {
        let factory = self.managers.factory(&config.manager).ok_or_else(|| {
            Error::unavailable(format!(
                "key manager {} is not registered; registered are: {}",
                config.manager,
                list(self.managers.names())
            ))
        })?;
        self.live(config, factory).await
    }

    async fn live(
        &self,
        config: &Arc<ProviderConfig>,
        factory: &Arc<dyn KeyManagerFactory>,
    ) -> Result<Lease> {
        let designation = Designation::of(config);
        loop {
            let building = match self.step(&designation, config, factory)? {
                Step::Done(lease) => return Ok(lease),
                Step::Wait(building) => building,
            };
            let outcome = building.clone().await;
            self.settle(&designation, &building, outcome.clone());
            if let Err(error) = outcome
                && error.version >= config.version
            {
                return Err(Error::unavailable(error));
            }
        }
    }

    /// Health of every live manager, by designation. Builds no manager.
    pub async fn health(&self) -> Vec<(Designation, Health)> {
        let mut leases: Vec<_> =
            self.state().slots.values().filter_map(|slot| slot.live.as_ref()?.lease()).collect();
        leases.sort_by(|a, b| a.designation().cmp(b.designation()));
        future::join_all(
            leases.iter().map(async |lease| (lease.designation().clone(), lease.health().await)),
        )
        .await
    }

    /// Closes replaced managers once their last lease has gone; runs until [`KeyService::close`].
    pub async fn drain_replaced(&self) {
        let mut changed = self.changed.subscribe();
        let mut draining = FuturesUnordered::new();
        let mut taken = Vec::<Arc<Instance>>::new();
        loop {
            taken.retain(|instance| !instance.is_closed());
            let closed = {
                let mut state = self.state();
                // They stay in the list until closed, so that `close` finds those left undrained.
                state.replaced.retain(|instance| !instance.is_closed());
                for instance in &state.replaced {
                    if !taken.iter().any(|known| Arc::ptr_eq(known, instance)) {
                        taken.push(Arc::clone(instance));
                        let instance = Arc::clone(instance);
                        draining.push(async move { instance.close().await });
                    }
                }
                state.closed
            };
            if closed && draining.is_empty() {
                return;
            }
            tokio::select! {
                _ = changed.changed() => {}
                Some(()) = draining.next() => {}
            }
        }
    }

    /// Waits for leases to end, then closes every manager, replaced ones included. Meanwhile and
    /// afterwards `manager_for` fails. Idempotent; a call that is cancelled can be repeated.
    pub async fn close(&self) {
        let (instances, buildings) = self.begin_close();
        self.changed.send_replace(());
        let built = buildings.into_iter().map(async |building| {
            if let Ok(instance) = building.await {
                instance.close().await;
            }
        });
        let live = instances.iter().map(|instance| instance.close());
        future::join(future::join_all(live), future::join_all(built)).await;
        let mut state = self.state();
        state.slots.clear();
        state.replaced.clear();
    }

    fn begin_close(&self) -> (Vec<Arc<Instance>>, Vec<Building>) {
        let mut state = self.state();
        state.closed = true;
        let live = state.slots.values().filter_map(|slot| slot.live.as_ref());
        let instances = live.chain(&state.replaced).map(Arc::clone).collect();
        let buildings = state.slots.values().filter_map(|slot| slot.building.clone()).collect();
        (instances, buildings)
    }

    /// Which configuration of which registered manager serves `key`.
    fn config_for<'a>(
        &'a self,
        key: &'a KeyDetails,
    ) -> Result<(&'a Arc<ProviderConfig>, &'a Arc<dyn KeyManagerFactory>)> {
        let wanted = key.provider.as_ref().unwrap_or(&self.default);
        if let Some(factory) = self.managers.factory(&wanted.manager) {
            return Ok((wanted, factory));
        }
        // The private part of any other mode is with the missing manager, or wrapped by it.
        let could_hold = key.mode == KeyMode::ConfigRootKey;
        match self.managers.factory(&self.default.manager) {
            Some(factory) if could_hold && self.unknown == UnknownManager::Default => {
                self.note_fallback(wanted);
                Ok((&self.default, factory))
            }
            _ => Err(Error::unavailable(format!(
                "key {} needs key manager {}, which is not registered; registered are: {}",
                key.kid,
                wanted.manager,
                list(self.managers.names())
            ))),
        }
    }

    fn note_fallback(&self, wanted: &ProviderConfig) {
        self.fallbacks.fetch_add(1, Ordering::Relaxed);
        let designation = Designation::of(wanted);
        let mut state = self.state();
        if !state.warned.contains(&designation) && state.warned.len() < MAX_WARNINGS {
            tracing::warn!(
                %designation,
                default = %self.default.manager,
                "key manager is not registered; its keys are tried with the default manager"
            );
            state.warned.insert(designation);
        }
    }

    fn step(
        &self,
        designation: &Designation,
        config: &Arc<ProviderConfig>,
        factory: &Arc<dyn KeyManagerFactory>,
    ) -> Result<Step> {
        let mut state = self.state();
        if state.closed {
            return Err(closed());
        }
        let slot = state.slots.entry(designation.clone()).or_default();
        if let Some(live) = slot.live.as_ref().filter(|live| live.version() >= config.version) {
            return live.lease().map(Step::Done).ok_or(Error::Busy);
        }
        if let Some(building) = &slot.building {
            return Ok(Step::Wait(building.clone()));
        }
        if let Some(failed) = &slot.failed
            && failed.error.version >= config.version
            && failed.at.elapsed() < BACK_OFF
        {
            return Err(Error::unavailable(failed.error.clone()));
        }
        let building = build(designation.clone(), Arc::clone(config), Arc::clone(factory));
        slot.building = Some(building.clone());
        Ok(Step::Wait(building))
    }

    /// Records how `building` ended, unless one who also waited for it has done so, or the
    /// service closed: then [`KeyService::close`] waits for it too and closes what it yields.
    fn settle(
        &self,
        designation: &Designation,
        building: &Building,
        outcome: Result<Arc<Instance>, BuildError>,
    ) {
        let mut state = self.state();
        let State { closed: false, slots, replaced, .. } = &mut *state else { return };
        let Some(slot) = slots.get_mut(designation) else { return };
        if slot.building.take_if(|current| current.ptr_eq(building)).is_none() {
            return;
        }
        match outcome {
            Ok(instance) => {
                slot.failed = None;
                replaced.extend(slot.live.replace(instance));
                self.changed.send_replace(());
            }
            Err(error) => slot.failed = Some(Failed { at: Instant::now(), error }),
        }
    }

    pub(crate) fn proofs(&self) -> &Proofs {
        &self.proofs
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn build(
    designation: Designation,
    config: Arc<ProviderConfig>,
    factory: Arc<dyn KeyManagerFactory>,
) -> Building {
    async move {
        // A factory that panics must not take down those who ask after it.
        let outcome = AssertUnwindSafe(async { factory.create(&config).await })
            .catch_unwind()
            .await
            .unwrap_or_else(|_| Err(Error::internal("its factory panicked")));
        match outcome {
            Ok(manager) => Ok(Arc::new(Instance::new(designation, config.version, manager))),
            Err(error) => {
                Err(BuildError { designation, version: config.version, cause: Arc::new(error) })
            }
        }
    }
    .boxed()
    .shared()
}

fn closed() -> Error {
    Error::unavailable("the key service is closed")
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// How long a failed construction stands before it is tried again.
const BACK_OFF: Duration = Duration::from_secs(1);

/// Designations come from the registry, so there are few; this only keeps a broken one from
/// growing the set.
const MAX_WARNINGS: usize = 1024;
