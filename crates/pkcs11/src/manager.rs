//! The key manager `opentdf.io/hsm`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, atomic::Ordering},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use kasbah_crypto::{
    PublicKey, WrappedDek,
    ec::{EcPublicKey, NONCE_LEN, TAG_LEN},
    rsa::RsaPublicKey,
};
use kasbah_telemetry::instruments;
use kasbah_trust::{
    Custody, CustodyPolicy, Deadline, Error, Health, KeyDetails, KeyManager, KeyMode, KeyStore,
    ProtectedKey, Recipient, Result, RewrapRequest, RewrappedKey, SoftwareKey,
};
use tokio::{
    sync::{Semaphore, oneshot},
    time::{timeout, timeout_at},
};
use tracing::Span;

use crate::{
    MANAGER,
    config::Settings,
    error::Error as TokenError,
    job::{Job, Key, Outcome, Place, Rewrap, Target, Ticket, Wait},
    module::lock,
    recipient::{self, HsmRecipient},
    record::Record,
    recovery::Device,
    selftest::Abilities,
    token::Token,
    uri::KeyUri,
    worker::{Stats, Worker},
    wrapped,
};

/// Keys a manager knows; one more, and it starts again.
const MAX_KEYS: usize = 4096;
/// How long health waits for a worker: longer than any single operation takes.
const HEALTH_WAIT: Duration = Duration::from_secs(2);
/// How long closing waits for what is inside the token. A call cannot be stopped, so a worker that
/// hangs longer is left behind.
const DRAIN_WAIT: Duration = Duration::from_secs(10);

pub(crate) const CLOSED: &str = "the key manager is closed";
const NO_KEY_ID: &str =
    "a key of opentdf.io/hsm needs private_key_ctx.key_id, such as pkcs11:object=r1";
const NO_WRAPPED_KEY: &str =
    "a key of opentdf.io/hsm of mode PROVIDER_ROOT_KEY needs private_key_ctx.wrapped_key";
const NO_PRIVATE_PART: &str = "the key has no private part here";
const OTHER_MODE: &str = "opentdf.io/hsm serves keys of mode REMOTE and PROVIDER_ROOT_KEY";
const STAYS: &str = "a data key does not leave the token in clear under require-sealed";

/// Private keys in one token, used by worker threads with a session each.
#[derive(Debug)]
pub struct HsmManager {
    pub(crate) device: Arc<Device>,
    policy: CustodyPolicy,
    /// `None` once closed.
    jobs: Mutex<Option<Sender<Ticket>>>,
    keys: Mutex<HashMap<String, Arc<Key>>>,
    workers: Arc<Workers>,
    /// Held by who works as a [`KeyStore`].
    pub(crate) storing: Arc<Semaphore>,
}

/// The threads of a manager.
#[derive(Debug)]
struct Workers {
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Disconnected once the last of them is done.
    done: Receiver<()>,
}

impl Workers {
    /// Waits until no thread is in the module any more, [`DRAIN_WAIT`] at most; blocks. Joining
    /// matters: a thread that ends still runs the module's clean-up of thread-local data, which
    /// must not meet the clean-up of the process.
    fn join(&self) -> bool {
        if self.done.recv_timeout(DRAIN_WAIT) == Err(RecvTimeoutError::Timeout) {
            return false;
        }
        for thread in lock(&self.threads).drain(..) {
            // A worker that panicked has said so; there is nobody else to tell.
            let _ = thread.join();
        }
        true
    }
}

impl HsmManager {
    /// Starts the workers on a token that is logged in.
    ///
    /// # Errors
    /// [`TokenError`] when the token is not there or no thread can be started.
    pub fn start(token: Arc<Token>, settings: &Settings) -> Result<Self, TokenError> {
        let abilities = Abilities::of(token.module(), token.slot()?);
        let (queue, jobs) = bounded(settings.queue);
        // A place for each session key that may be released, and for orders to park.
        let controls: Vec<_> =
            (0..settings.workers).map(|_| bounded(recipient::MAX_LIVE + 8)).collect();
        let senders = controls.iter().map(|(sender, _)| sender.clone()).collect();
        let device = Arc::new(Device::new(token, abilities, recipient::MAX_LIVE, senders));
        let (alive, done) = bounded(0);
        let mut threads = Vec::new();
        for (number, control) in controls.into_iter().enumerate() {
            let worker = Worker {
                device: Arc::clone(&device),
                policy: settings.custody,
                jobs: jobs.clone(),
                control,
                max_suspects: settings.queue,
                max_open: (settings.open_keys / settings.workers).max(1),
            };
            let alive: Sender<()> = alive.clone();
            let thread = thread::Builder::new()
                .name(format!("hsm-{}-{number}", device.manager))
                .spawn(move || {
                    worker.run();
                    drop(alive);
                })
                .map_err(|error| TokenError::Config(format!("no worker thread: {error}")))?;
            threads.push(thread);
        }
        Ok(Self {
            device,
            policy: settings.custody,
            jobs: Mutex::new(Some(queue)),
            keys: Mutex::default(),
            workers: Arc::new(Workers { threads: Mutex::new(threads), done }),
            storing: Arc::new(Semaphore::new(1)),
        })
    }

    /// Figures of its workers.
    pub fn stats(&self) -> &Stats {
        &self.device.stats
    }

    /// Jobs that wait for a worker.
    pub fn queued(&self) -> usize {
        lock(&self.jobs).as_ref().map_or(0, Sender::len)
    }

    /// Puts a job in the queue and waits for the answer until the deadline.
    pub(crate) async fn ask(&self, job: Job, deadline: Deadline) -> Result<Outcome> {
        if deadline.has_passed() {
            return Err(Error::unavailable("the deadline had passed before the token was asked"));
        }
        let (reply, answer) = oneshot::channel();
        let queued = Instant::now();
        let (wait, span) = (Some(Wait::begin(&job)), Span::current());
        self.put(Ticket { job, deadline, queued, wait, span, again: false, reply })?;
        match timeout_at(deadline.instant().into(), answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(Error::unavailable("the worker ended")),
            Err(_) => Err(Error::unavailable("the token did not answer before the deadline")),
        }
    }

    fn put(&self, ticket: Ticket) -> Result<()> {
        let jobs = lock(&self.jobs);
        match jobs.as_ref().ok_or_else(|| Error::unavailable(CLOSED))?.try_send(ticket) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => {
                instruments().not_done(MANAGER, "busy");
                Err(Error::Busy)
            }
            Err(TrySendError::Disconnected(_)) => Err(Error::unavailable(CLOSED)),
        }
    }

    fn check_open(&self) -> Result<()> {
        let is_open = lock(&self.jobs).is_some();
        if is_open { Ok(()) } else { Err(Error::unavailable(CLOSED)) }
    }

    /// The key that `details` name.
    fn key(&self, details: &KeyDetails) -> Result<Arc<Key>> {
        self.check_open()?;
        let private = &details.private_key;
        let name = match details.mode {
            KeyMode::Remote => private.key_id.as_ref().ok_or(Error::Unsupported(NO_KEY_ID))?,
            KeyMode::ProviderRootKey => {
                private.wrapped_key.as_ref().ok_or(Error::Unsupported(NO_WRAPPED_KEY))?
            }
            KeyMode::PublicKeyOnly => return Err(Error::NotPermitted(NO_PRIVATE_PART)),
            KeyMode::ConfigRootKey => return Err(Error::Unsupported(OTHER_MODE)),
        };
        if let Some(key) = lock(&self.keys).get(name)
            && key.is(details)
        {
            return Ok(Arc::clone(key));
        }
        let place = match details.mode {
            KeyMode::Remote => Place::Token(name.parse::<KeyUri>().map_err(Error::internal)?),
            _ => Place::Stored(stored(details, name)?),
        };
        let key = Arc::new(Key::new(details, place));
        let mut keys = lock(&self.keys);
        if keys.len() >= MAX_KEYS {
            keys.clear();
        }
        keys.insert(name.clone(), Arc::clone(&key));
        Ok(key)
    }

    /// Whom to wrap for; a session key in another device is of no use here.
    fn target(&self, recipient: &Recipient) -> Result<Target> {
        if let Some(client) = recipient.rsa() {
            return Ok(Target::Rsa(client.clone()));
        }
        match recipient.device::<HsmRecipient>() {
            Some(ours) if ours.slot().manager == self.device.manager => {
                Ok(Target::Device(Arc::clone(ours.slot())))
            }
            Some(_) => Err(Error::Unsupported(
                "the session key of this response is in another key manager's token",
            )),
            None => Ok(Target::Host),
        }
    }

    async fn expose(&self, job: Job, deadline: Deadline) -> Result<SoftwareKey> {
        if self.policy == CustodyPolicy::RequireSealed {
            return Err(Error::Unsupported(STAYS));
        }
        match self.ask(job, deadline).await? {
            Outcome::Exposed(dek, custody) => Ok(SoftwareKey::new(dek, custody)),
            _ => Err(mismatch()),
        }
    }
}

#[async_trait]
impl KeyManager for HsmManager {
    fn name(&self) -> &'static str {
        MANAGER
    }

    async fn decrypt(
        &self,
        key: &KeyDetails,
        wrapped: &WrappedDek,
        deadline: Deadline,
    ) -> Result<Box<dyn ProtectedKey>> {
        let key = self.key(key)?;
        check_form(&key.public, wrapped)?;
        let job = Job::Expose { key, wrapped: wrapped.clone() };
        Ok(Box::new(self.expose(job, deadline).await?))
    }

    async fn derive(
        &self,
        key: &KeyDetails,
        peer: &EcPublicKey,
        deadline: Deadline,
    ) -> Result<Box<dyn ProtectedKey>> {
        let key = self.key(key)?;
        let PublicKey::Ec(public) = &key.public else {
            return Err(Error::Unsupported("RSA keys agree on nothing"));
        };
        if public.curve() != peer.curve() {
            return Err(Error::Decrypt);
        }
        let job = Job::Agree { key, peer: peer.clone() };
        Ok(Box::new(self.expose(job, deadline).await?))
    }

    async fn open_recipient(&self, client: &PublicKey, deadline: Deadline) -> Result<Recipient> {
        self.check_open()?;
        let PublicKey::Ec(point) = client else { return Recipient::in_host(client) };
        match self.ask(Job::Open { client: point.clone() }, deadline).await? {
            Outcome::Opened(Some(recipient)) => Ok(Recipient::in_device(recipient)),
            Outcome::Opened(None) => Recipient::in_host(client),
            _ => Err(mismatch()),
        }
    }

    async fn rewrap(&self, request: RewrapRequest<'_>) -> Result<RewrappedKey> {
        let key = self.key(request.key)?;
        check_form(&key.public, request.wrapped)?;
        let rewrap = Rewrap {
            key,
            wrapped: request.wrapped.clone(),
            policy: request.policy.into(),
            binding: request.binding.clone(),
            target: self.target(request.recipient)?,
        };
        match self.ask(Job::Rewrap(rewrap), request.deadline).await? {
            Outcome::Wrapped(rewrapped) => Ok(rewrapped),
            Outcome::Exposed(dek, custody) => {
                Box::<dyn ProtectedKey>::from(Box::new(SoftwareKey::new(dek, custody)))
                    .verify_binding(request.policy, request.binding)
                    .await?
                    .export(request.recipient)
                    .await
            }
            _ => Err(mismatch()),
        }
    }

    async fn probe(&self, key: &KeyDetails, deadline: Deadline) -> Result<Custody> {
        let key = self.key(key)?;
        match self.ask(Job::Probe { key }, deadline).await? {
            Outcome::Proven(custody) => Ok(custody),
            _ => Err(mismatch()),
        }
    }

    fn key_store(&self) -> Option<&dyn KeyStore> {
        Some(self)
    }

    /// Asks the token, through a worker. A full queue that moves is no illness.
    async fn health(&self) -> Health {
        let done = self.device.stats.done.load(Ordering::Relaxed);
        match self.ask(Job::Check, Deadline::after(HEALTH_WAIT)).await {
            Ok(_) => Health::Ready,
            Err(Error::Busy) => {
                tokio::time::sleep(HEALTH_WAIT / 4).await;
                if self.device.stats.done.load(Ordering::Relaxed) > done {
                    Health::Ready
                } else {
                    Health::NotReady(
                        "the queue is full and no job ends; does the token hang?".into(),
                    )
                }
            }
            Err(Error::Unavailable(why)) => Health::NotReady(why.to_string()),
            Err(error) => Health::NotReady(error.to_string()),
        }
    }

    async fn close(&self) {
        drop(lock(&self.jobs).take());
        let turn = timeout(DRAIN_WAIT, self.storing.acquire()).await;
        self.storing.close();
        let stored = turn.is_ok();
        drop(turn);
        let workers = Arc::clone(&self.workers);
        let joined = tokio::task::spawn_blocking(move || workers.join()).await;
        if !stored || !joined.unwrap_or(false) {
            tracing::error!(
                token = self.device.token.label(),
                "a thread is still inside the token and is left behind"
            );
        }
    }
}

/// For managers that nobody closed; [`KeyManager::close`] does not block the caller's thread.
impl Drop for HsmManager {
    fn drop(&mut self) {
        if lock(&self.jobs).take().is_some() {
            self.workers.join();
        }
    }
}

/// What can be told without the token, which some modules answer by a crash.
fn check_form(key: &PublicKey, wrapped: &WrappedDek) -> Result<()> {
    let fits = match (key, wrapped) {
        (PublicKey::Rsa(key), WrappedDek::Rsa(ciphertext)) => is_below_modulus(ciphertext, key),
        (PublicKey::Ec(key), WrappedDek::Ec { blob, ephemeral }) => {
            let dek = blob.len().checked_sub(NONCE_LEN + TAG_LEN);
            ephemeral.curve() == key.curve() && matches!(dek, Some(16 | 24 | 32))
        }
        _ => false,
    };
    if fits { Ok(()) } else { Err(Error::Decrypt) }
}

fn is_below_modulus(ciphertext: &[u8], key: &RsaPublicKey) -> bool {
    ciphertext.len() == key.modulus().len() && ciphertext < key.modulus()
}

/// The record of a key. That it is genuine shows when it is opened.
fn stored(details: &KeyDetails, text: &str) -> Result<Record> {
    let record = Record::from_base64(text);
    let checked = record.and_then(|record| record.check_owner(details).map(|()| record));
    checked
        .map_err(|malformed| Error::unavailable(wrapped::damaged(details.kid.as_str(), malformed)))
}

/// Workers answer each kind of job with its kind of outcome.
fn mismatch() -> Error {
    Error::internal("a worker answered another question")
}
