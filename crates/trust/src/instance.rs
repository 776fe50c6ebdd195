use std::{ops::Deref, sync::Arc};

use tokio::sync::{OnceCell, OwnedRwLockReadGuard, RwLock};

use crate::{Designation, KeyManager};

/// A live manager and those who use it.
#[derive(Debug)]
pub(crate) struct Instance {
    designation: Designation,
    version: u64,
    /// Read by leases, written by who closes: so that comes after the last lease, and keeps new
    /// ones out.
    manager: Arc<RwLock<Arc<dyn KeyManager>>>,
    closed: OnceCell<()>,
}

impl Instance {
    pub(crate) fn new(
        designation: Designation,
        version: u64,
        manager: Arc<dyn KeyManager>,
    ) -> Self {
        Self {
            designation,
            version,
            manager: Arc::new(RwLock::new(manager)),
            closed: OnceCell::new(),
        }
    }

    /// Version of the configuration it was built from.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// `None` once closing began.
    pub(crate) fn lease(self: &Arc<Self>) -> Option<Lease> {
        let manager = Arc::clone(&self.manager).try_read_owned().ok()?;
        Some(Lease { instance: Arc::clone(self), manager })
    }

    /// Closes the manager after its last lease. Whoever calls it, and however often, the manager is
    /// closed once; when a caller is cancelled, the next one takes over.
    pub(crate) async fn close(&self) {
        self.closed.get_or_init(async || self.manager.write().await.close().await).await;
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.initialized()
    }
}

/// A manager in use; a replaced manager is closed after its last lease.
#[derive(Debug)]
pub struct Lease {
    instance: Arc<Instance>,
    manager: OwnedRwLockReadGuard<Arc<dyn KeyManager>>,
}

impl Lease {
    /// Which manager this is.
    pub fn designation(&self) -> &Designation {
        &self.instance.designation
    }

    /// Whether both are the same live manager.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.instance, &other.instance)
    }
}

impl Deref for Lease {
    type Target = dyn KeyManager;

    fn deref(&self) -> &Self::Target {
        self.manager.as_ref()
    }
}
