//! The raw PKCS#11 loop that a manager is measured against.
//!
//! Both do the same work on the same token (unwrap, read back, HMAC, import the client's key, wrap,
//! destroy), so the ratio of their rates is what queue, checks and answers cost.

use std::{
    thread,
    time::{Duration, Instant},
};

use cryptoki::{mechanism::Mechanism, object::AttributeType};
use kasbah_crypto::{Dek, WrappedDek, rsa::RsaPublicKey};
use zeroize::Zeroizing;

use crate::{
    error::{Error, Result},
    mechanism,
    template::{self, DekTemplate},
    token::{self, Token, TokenSession},
    uri::KeyUri,
};

/// Text whose HMAC each round takes, as long as a policy with one attribute.
const POLICY: [u8; 256] = [b'A'; 256];

/// What a run of the raw loop showed.
#[derive(Debug, Clone)]
pub struct RawRun {
    /// From the first to the last round, set-up not counted.
    pub elapsed: Duration,
    /// Duration of every round, sorted.
    pub latencies: Vec<Duration>,
}

impl RawRun {
    /// Rounds per second, all threads together.
    pub fn rate(&self) -> f64 {
        let rounds = u32::try_from(self.latencies.len()).unwrap_or(u32::MAX);
        f64::from(rounds) / self.elapsed.as_secs_f64()
    }
}

/// Runs the loop on `threads` threads with a session each, `rounds` times in all, with a data key
/// wrapped for the RSA key that `uri` names and re-wrapped for `client`.
///
/// # Errors
/// [`Error::Key`] when there is no such RSA key; [`Error::Call`] when the token refuses a call.
pub fn raw(
    token: &Token,
    uri: &KeyUri,
    client: &RsaPublicKey,
    threads: usize,
    rounds: usize,
) -> Result<RawRun> {
    let key = token::find_key(&*token.open_session()?, token.label(), uri)?;
    let wrapped = Dek::generate().and_then(|dek| key.public_key.wrap(&dek));
    let Ok(WrappedDek::Rsa(ciphertext)) = wrapped else {
        return Err(Error::Key(format!("key {uri} is no RSA key")));
    };
    let sessions = (0..threads).map(|_| token.open_session()).collect::<Result<Vec<_>>>()?;
    let start = Instant::now();
    let runs: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = sessions
            .into_iter()
            .enumerate()
            .map(|(number, session)| {
                let share = rounds / threads + usize::from(number < rounds % threads);
                let round =
                    Round { session, private: key.private, ciphertext: &ciphertext, client };
                scope.spawn(move || round.repeat(share))
            })
            .collect();
        threads.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    let elapsed = start.elapsed();
    let mut latencies = Vec::with_capacity(rounds);
    for run in runs {
        let run = run.map_err(|_| Error::Config("a thread of the raw loop panicked".into()))?;
        latencies.extend(run.map_err(Error::during("running the raw loop"))?);
    }
    latencies.sort_unstable();
    Ok(RawRun { elapsed, latencies })
}

struct Round<'a> {
    session: TokenSession,
    private: cryptoki::object::ObjectHandle,
    ciphertext: &'a [u8],
    client: &'a RsaPublicKey,
}

impl Round<'_> {
    fn repeat(self, rounds: usize) -> Result<Vec<Duration>, cryptoki::error::Error> {
        (0..rounds)
            .map(|_| {
                let start = Instant::now();
                self.once()?;
                Ok(start.elapsed())
            })
            .collect()
    }

    fn once(&self) -> Result<(), cryptoki::error::Error> {
        let session = &self.session;
        let template = DekTemplate::WithoutLength.attributes();
        let dek =
            session.unwrap_key(&mechanism::oaep(), self.private, self.ciphertext, &template)?;
        session.get_attributes(dek, &[AttributeType::Sensitive])?;
        drop(Zeroizing::new(session.sign(&Mechanism::Sha256Hmac, dek, &POLICY)?));
        let client = session.create_object(&template::client_rsa(self.client))?;
        session.wrap_key(&mechanism::oaep(), client, dek)?;
        session.destroy_object(client)?;
        session.destroy_object(dek)
    }
}
