//! Session keys of EC responses that live in the token.

use std::sync::{Arc, PoisonError, RwLock};

use crossbeam_channel::Sender;
use cryptoki::object::ObjectHandle;
use kasbah_crypto::ec::EcPublicKey;
use kasbah_trust::DeviceRecipient;
use tokio::sync::OwnedSemaphorePermit;

use crate::worker::Control;

/// Session keys that may live in one token at a time: as many as there are EC responses under way.
pub(crate) const MAX_LIVE: usize = 256;

/// An EC client, with the AES key derived for it in the token. The ephemeral private key and the
/// ECDH secret are gone by the time this exists.
///
/// Dropping the last reference sends the key to be destroyed on the worker that made it.
#[derive(Debug)]
pub(crate) struct HsmRecipient {
    client: EcPublicKey,
    session: EcPublicKey,
    slot: Arc<WrapSlot>,
}

/// Where the AES key is. Jobs hold it too, so it outlives a caller who left.
#[derive(Debug)]
pub(crate) struct WrapSlot {
    /// Which manager made it.
    pub(crate) manager: u64,
    key: Arc<WrapHandle>,
    owner: Sender<Control>,
    permit: Option<OwnedSemaphorePermit>,
}

/// The handle of an AES key; `None` once its session has gone, when the number may come to mean
/// another object.
#[derive(Debug)]
pub(crate) struct WrapHandle(RwLock<Option<ObjectHandle>>);

impl HsmRecipient {
    pub(crate) fn new(client: EcPublicKey, session: EcPublicKey, slot: WrapSlot) -> Self {
        Self { client, session, slot: Arc::new(slot) }
    }

    pub(crate) fn slot(&self) -> &Arc<WrapSlot> {
        &self.slot
    }
}

impl DeviceRecipient for HsmRecipient {
    fn client_key(&self) -> &EcPublicKey {
        &self.client
    }

    fn session_key(&self) -> &EcPublicKey {
        &self.session
    }
}

impl WrapSlot {
    pub(crate) fn new(
        manager: u64,
        key: Arc<WrapHandle>,
        owner: Sender<Control>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self { manager, key, owner, permit: Some(permit) }
    }

    pub(crate) fn key(&self) -> &WrapHandle {
        &self.key
    }
}

impl Drop for WrapSlot {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            // There is room: the channel has a place for every permit. When the worker has gone,
            // so has its session, and the key with it.
            let _ = self.owner.try_send(Control::Release(Arc::clone(&self.key), permit));
        }
    }
}

impl WrapHandle {
    pub(crate) fn new(handle: ObjectHandle) -> Self {
        Self(RwLock::new(Some(handle)))
    }

    /// Runs `wrap` with the handle, which stays valid meanwhile; `None` when the key has gone.
    pub(crate) fn with<T>(&self, wrap: impl FnOnce(ObjectHandle) -> T) -> Option<T> {
        let handle = self.0.read().unwrap_or_else(PoisonError::into_inner);
        handle.map(wrap)
    }

    /// Takes the handle away from everybody.
    pub(crate) fn revoke(&self) -> Option<ObjectHandle> {
        self.0.write().unwrap_or_else(PoisonError::into_inner).take()
    }
}
