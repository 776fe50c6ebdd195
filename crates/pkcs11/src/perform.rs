//! What a worker does for each kind of job.

use std::sync::{Arc, atomic::Ordering};

use cryptoki::{
    context::Function,
    error::{Error as Cryptoki, RvError},
    mechanism::Mechanism,
    object::ObjectHandle,
};
use kasbah_crypto::{PublicKey, WrappedDek, binding, ec::EcPublicKey};
use kasbah_trust::{Custody, CustodyLevel, CustodyPolicy, Error, RewrappedKey};

use crate::{
    error::{Error as TokenError, ErrorClass},
    job::{Job, Key, Outcome, Place, Rewrap, Target},
    kek,
    object::{Ledger, Object},
    recipient::{HsmRecipient, WrapHandle, WrapSlot},
    record::Record,
    rewrap::{self, Fault},
    selftest::{self, Report},
    template::{self, DekTemplate, HkdfUse},
    token,
    uri::KeyUri,
    worker::Seat,
    wrapped::{self, Tools},
};

/// Keys whose handles a session remembers.
const MAX_HANDLES: usize = 1024;

const ON_HOST: &str = "sealed custody required, but the session key of this response is not in the \
                       token";
const NO_WAY_OUT: &str = "the key lets no data key out of the token, as this response would need";

impl Seat<'_, '_> {
    pub(crate) fn perform(&mut self, job: &Job) -> Result<Outcome, Fault> {
        match job {
            Job::Agree { key, peer } => self.agree(key, peer),
            Job::Check => self.check(),
            Job::Expose { key, wrapped } => {
                let (private, report) = self.examined(key)?;
                self.expose(private, &report, wrapped)
            }
            Job::Open { client } => self.open_recipient(client).map(Outcome::Opened),
            Job::Probe { key } => self.probe(key).map(Outcome::Proven),
            Job::Rewrap(rewrap) => self.rewrap(rewrap),
        }
    }

    /// Does with a sound ciphertext what was done with the suspicious one.
    pub(crate) fn canary(&mut self, key: &Arc<Key>) -> Result<(), Fault> {
        let (private, report) = self.examined(key)?;
        let wrapped = key.canary.wrapped(&key.public).map_err(Error::internal)?;
        match self.seal(&report, false) {
            Ok(template) => {
                rewrap::unwrap_sealed(self.ledger, private, wrapped, template).map(drop)
            }
            Err(_) => self.expose(private, &report, wrapped).map(drop),
        }
    }

    fn rewrap(&mut self, job: &Rewrap) -> Result<Outcome, Fault> {
        let (private, report) = self.examined(&job.key)?;
        let may_expose = self.worker.policy != CustodyPolicy::RequireSealed;
        match self.seal(&report, matches!(job.target, Target::Host)) {
            Ok(template) => match self.rewrap_sealed(private, template, &report, job) {
                Err(Fault::ShortKey) if may_expose => self.rewrap_exposed(private, &report, job),
                outcome => outcome,
            },
            Err(_) if may_expose => self.rewrap_exposed(private, &report, job),
            Err(reason) => Err(Error::NotPermitted(reason).into()),
        }
    }

    /// The template to unwrap with when a data key is to stay in the token; otherwise the reason
    /// why it is not.
    fn seal(&self, report: &Report, to_host: bool) -> Result<DekTemplate, &'static str> {
        let template = report.sealed?;
        match (self.worker.policy, report.gap) {
            (CustodyPolicy::Transient, _) => Err("transient custody is configured"),
            (CustodyPolicy::RequireSealed, Some(gap)) => Err(gap),
            _ if to_host => Err(ON_HOST),
            _ => Ok(template),
        }
    }

    fn rewrap_sealed(
        &self,
        private: ObjectHandle,
        template: DekTemplate,
        report: &Report,
        job: &Rewrap,
    ) -> Result<Outcome, Fault> {
        let dek = rewrap::unwrap_sealed(self.ledger, private, &job.wrapped, template)?;
        rewrap::verify_binding(self.ledger, &dek, &job.policy, &job.binding)?;
        let wrapped = match &job.target {
            Target::Device(slot) => wrap_for(self.ledger, &dek, slot)?,
            Target::Host => return Err(Error::NotPermitted(ON_HOST).into()),
            Target::Rsa(client) => rewrap::wrap_oaep(self.ledger, &dek, client)?,
        };
        Ok(Outcome::Wrapped(RewrappedKey { wrapped, custody: self.sealed(report) }))
    }

    /// The data key comes to the host, and goes back into the token when the session key is there.
    fn rewrap_exposed(
        &self,
        private: ObjectHandle,
        report: &Report,
        job: &Rewrap,
    ) -> Result<Outcome, Fault> {
        let exposed = self.expose(private, report, &job.wrapped)?;
        let (Outcome::Exposed(dek, custody), Target::Device(slot)) = (&exposed, &job.target) else {
            return Ok(exposed);
        };
        let mac = binding::compute(dek, &job.policy);
        job.binding.verify(mac.as_ref()).map_err(Error::from)?;
        let dek = rewrap::import_dek(self.ledger, dek)?;
        let wrapped = wrap_for(self.ledger, &dek, slot)?;
        Ok(Outcome::Wrapped(RewrappedKey { wrapped, custody: *custody }))
    }

    fn expose(
        &self,
        private: ObjectHandle,
        report: &Report,
        wrapped: &WrappedDek,
    ) -> Result<Outcome, Fault> {
        let exposure = report.exposure.ok_or(Error::NotPermitted(NO_WAY_OUT))?;
        let dek = rewrap::expose(self.ledger, private, wrapped, exposure)?;
        Ok(Outcome::Exposed(dek, self.transient()))
    }

    fn agree(&mut self, key: &Arc<Key>, peer: &EcPublicKey) -> Result<Outcome, Fault> {
        let (private, _) = self.examined(key)?;
        let secret = rewrap::agree_exposed(self.ledger, private, peer)?;
        let secret = secret.to_dek().map_err(Error::internal)?;
        Ok(Outcome::Exposed(secret, self.transient()))
    }

    fn check(&self) -> Result<Outcome, Fault> {
        self.device().check().map(|()| Outcome::Checked).map_err(|why| {
            self.device().lose(self.generation, &why);
            Error::unavailable(why).into()
        })
    }

    fn probe(&mut self, key: &Arc<Key>) -> Result<Custody, Fault> {
        let private = self.find(key)?;
        let report = self.examine(key, private)?;
        match self.seal(&report, false) {
            Ok(_) => Ok(self.sealed(&report)),
            Err(reason) if self.worker.policy == CustodyPolicy::RequireSealed => {
                Err(Error::NotPermitted(reason).into())
            }
            Err(_) if report.exposure.is_none() => Err(Error::NotPermitted(NO_WAY_OUT).into()),
            Err(_) => Ok(self.transient()),
        }
    }

    fn sealed(&self, report: &Report) -> Custody {
        let boundary = self.device().abilities.boundary;
        Custody { level: CustodyLevel::Sealed, enforced_by_key: report.enforced, boundary }
    }

    fn transient(&self) -> Custody {
        let boundary = self.device().abilities.boundary;
        Custody { level: CustodyLevel::Transient, enforced_by_key: false, boundary }
    }

    /// The key's handle on this session, and what the self-test says of it.
    fn examined(&mut self, key: &Arc<Key>) -> Result<(ObjectHandle, Arc<Report>), Fault> {
        let private = self.find(key)?;
        let report = match key.report(self.generation) {
            Some(report) => report,
            None => self.examine(key, private)?,
        };
        Ok((private, report))
    }

    fn examine(&self, key: &Key, private: ObjectHandle) -> Result<Arc<Report>, Fault> {
        let report = selftest::examine(self.ledger, self.device().abilities, key, private)?;
        let report = Arc::new(report);
        key.set_report(self.generation, Arc::clone(&report));
        Ok(report)
    }

    fn find(&mut self, key: &Key) -> Result<ObjectHandle, Fault> {
        match &key.place {
            Place::Token(uri) => self.find_in_token(key, uri),
            Place::Stored(record) => self.open(key, record),
        }
    }

    fn find_in_token(&mut self, key: &Key, uri: &KeyUri) -> Result<ObjectHandle, Fault> {
        if let Some(&handle) = self.handles.get(&key.serial) {
            return Ok(handle);
        }
        let found = token::find_key(self.ledger.session, self.device().token.label(), uri)
            .map_err(|error| self.not_found(key, error))?;
        if found.public_key != key.public {
            tracing::error!(kid = %key.kid, %uri, "the public key on record is not that \
                of the key in the token; correct the record or the reference");
            return Err(Error::Decrypt.into());
        }
        if self.handles.len() >= MAX_HANDLES {
            self.handles.clear();
        }
        self.handles.insert(key.serial, found.private);
        Ok(found.private)
    }

    /// A search that finds nothing: the key is gone, or the token is.
    fn not_found(&self, key: &Key, error: TokenError) -> Fault {
        match error {
            TokenError::Call(_, error) => error.into(),
            TokenError::Key(_) if !token::is_logged_in(self.ledger.session) => login_lost(),
            TokenError::Key(text) => match self.device().check() {
                Ok(()) => {
                    tracing::error!(kid = %key.kid, "{text}");
                    Error::NotFound(key.kid.clone()).into()
                }
                Err(why) => {
                    self.device().lose(self.generation, &why);
                    Error::unavailable(why).into()
                }
            },
            other => Error::internal(other).into(),
        }
    }

    /// Opens a wrapped private key on this session, or finds it open.
    fn open(&mut self, key: &Key, record: &Record) -> Result<ObjectHandle, Fault> {
        if let Some(handle) = self.opened.get(key.serial) {
            return Ok(handle);
        }
        while self.opened.len() >= self.worker.max_open
            && let Some(oldest) = self.opened.take_oldest()
        {
            drop(self.ledger.own(oldest));
        }
        let handle = self.opens(key, record).map_err(|error| self.not_opened(key, error))?;
        self.opened.insert(key.serial, handle);
        Ok(handle)
    }

    fn opens(&mut self, key: &Key, record: &Record) -> Result<ObjectHandle, TokenError> {
        let known = self.opened.tools(record.kek());
        let tools = match known {
            Some(tools) => tools,
            None => self.tools(record)?,
        };
        let opened = wrapped::open(self.ledger, tools, record, key.kid.as_str(), &key.public)?;
        if known.is_none() {
            tools.kek.examine(self.ledger, record.blob())?;
            self.opened.set_tools(record.kek(), tools);
        }
        Ok(opened.keep())
    }

    fn tools(&self, record: &Record) -> Result<Tools, TokenError> {
        let device = self.device();
        let kwp = device.abilities.kwp.ok_or_else(|| {
            TokenError::Key("the token has no AES key wrap with padding (RFC 5649)".into())
        })?;
        let (session, token) = (self.ledger.session, device.token.label());
        Tools::find(session, token, record.family(), record.kek(), kwp)
    }

    /// A stored key that does not open: never the fault of who sent a data key, and never enough to
    /// call the token down, since a wrapping key of the wrong value is answered as a dead device is.
    fn not_opened(&self, key: &Key, error: TokenError) -> Fault {
        use ErrorClass as C;
        match error {
            TokenError::Call(_, error)
                if matches!(ErrorClass::of(&error), C::Login | C::Session | C::StaleHandle) =>
            {
                return error.into();
            }
            _ if !token::is_logged_in(self.ledger.session) => return login_lost(),
            TokenError::Config(text) => {
                tracing::error!(kid = %key.kid, "{text}");
                return Error::NotPermitted(kek::WEAK).into();
            }
            _ => {}
        }
        match self.device().check() {
            Ok(()) => {
                tracing::error!(kid = %key.kid, %error, "a wrapped private key does not open");
                Error::unavailable(error).into()
            }
            Err(why) => {
                self.device().lose(self.generation, &why);
                Error::unavailable(why).into()
            }
        }
    }

    /// Makes the session key of a response in the token; `None` where it cannot, or does not keep
    /// it sealed.
    fn open_recipient(&mut self, client: &EcPublicKey) -> Result<Option<HsmRecipient>, Fault> {
        let device = self.device();
        if !device.abilities.seals_ec || self.worker.policy == CustodyPolicy::Transient {
            return Ok(None);
        }
        let permits = Arc::clone(&device.recipients);
        let permit = permits.try_acquire_owned().map_err(|_| Error::Busy)?;
        let (session, key) = match self.ephemeral(client) {
            Err(Fault::Answer(Error::NotPermitted(_))) => return Ok(None),
            outcome => outcome?,
        };
        let key = Arc::new(WrapHandle::new(key));
        self.recipients.push(Arc::clone(&key));
        self.worker.stats().live_recipients.fetch_add(1, Ordering::Relaxed);
        let owner = self.worker.control.0.clone();
        let slot = WrapSlot::new(device.manager, key, owner, permit);
        Ok(Some(HsmRecipient::new(client.clone(), session, slot)))
    }

    /// An ephemeral public key, and the AES key that its private half and the client's key make.
    fn ephemeral(&self, client: &EcPublicKey) -> Result<(EcPublicKey, ObjectHandle), Fault> {
        let (public, private) = template::ephemeral_ec(client.curve());
        let mechanism = Mechanism::EccKeyPairGen;
        let session = self.ledger.session;
        let (public, private) = session.generate_key_pair(&mechanism, &public, &private)?;
        let (public, private) = (self.ledger.own(public), self.ledger.own(private));
        rewrap::check_sealed(self.ledger, &private)?;
        let point = match token::public_key(session, public.handle()) {
            Ok(Some(PublicKey::Ec(point))) => point,
            Ok(_) => return Err(Error::internal("the ephemeral key has no point").into()),
            Err(TokenError::Call(_, error)) => return Err(error.into()),
            Err(error) => return Err(Error::internal(error).into()),
        };
        let key = rewrap::agree_sealed(self.ledger, private.handle(), client, HkdfUse::Wrap)?;
        Ok((point, key.keep()))
    }

    /// Ends the life of a session key.
    pub(crate) fn release(&mut self, key: &Arc<WrapHandle>) {
        let Some(position) = self.recipients.iter().position(|known| Arc::ptr_eq(known, key))
        else {
            return;
        };
        self.recipients.swap_remove(position);
        self.worker.stats().live_recipients.fetch_sub(1, Ordering::Relaxed);
        if let Some(handle) = key.revoke() {
            drop(self.ledger.own(handle));
        }
    }
}

/// A search that found nothing because private objects cannot be seen: what the token would have
/// said had it been asked for one.
fn login_lost() -> Fault {
    Cryptoki::Pkcs11(RvError::UserNotLoggedIn, Function::FindObjects).into()
}

/// Wraps under a session key in the token, which the wait for a lost session may have cost.
fn wrap_for(ledger: &Ledger<'_>, dek: &Object<'_>, slot: &WrapSlot) -> Result<Vec<u8>, Fault> {
    let wrapped = slot.key().with(|key| rewrap::wrap_gcm(ledger, dek, key));
    wrapped.unwrap_or_else(|| {
        Err(Error::unavailable("the session key of the response went with its session").into())
    })
}
