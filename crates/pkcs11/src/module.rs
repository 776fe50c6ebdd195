//! PKCS#11 libraries of this process.
//!
//! `C_Initialize` and the login belong to the process, not to whoever asks, so modules are shared
//! by file and never finalized while a session is open: several modules crash when they are.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Function, Pkcs11},
    error::{Error as Cryptoki, RvError},
};

use crate::{
    error::{Error, Result},
    token::Token,
};

static MODULES: Mutex<Vec<Arc<Module>>> = Mutex::new(Vec::new());

/// A loaded and initialised library; one per file and process, for the life of the process.
#[derive(Debug)]
pub struct Module {
    path: PathBuf,
    context: Pkcs11,
    tokens: Mutex<Vec<Arc<Token>>>,
    /// Held for reading while a session is being opened, for writing during a restart.
    gate: RwLock<()>,
    sessions: AtomicUsize,
}

impl Module {
    /// Loads and initialises the library at `path`, or returns the one already loaded from that
    /// file. `setting` names where the path was configured, for messages.
    ///
    /// # Errors
    /// [`Error::Module`]: the file is missing, is no PKCS#11 library, or would not start.
    pub fn load(setting: &str, path: &Path) -> Result<Arc<Self>> {
        let file = fs::canonicalize(path).map_err(|error| {
            Error::Module(format!(
                "{setting}: {} cannot be opened ({error}); install the module or correct the path",
                path.display()
            ))
        })?;
        let mut modules = lock(&MODULES);
        if let Some(module) = modules.iter().find(|module| module.path == file) {
            return Ok(Arc::clone(module));
        }
        let context = Pkcs11::new(&file).map_err(|error| {
            Error::Module(format!("{setting}: {} is no PKCS#11 module: {error}", file.display()))
        })?;
        initialize(&context).map_err(|error| {
            let hint = match error {
                Cryptoki::Pkcs11(RvError::FunctionFailed, _) => {
                    "; if this is openCryptoki, is pkcsslotd running?"
                }
                _ => "; does its configuration file exist, and may this user read it?",
            };
            Error::Module(format!("{setting}: {} did not start: {error}{hint}", file.display()))
        })?;
        let module = Arc::new(Self {
            path: file,
            context,
            tokens: Mutex::default(),
            gate: RwLock::default(),
            sessions: AtomicUsize::new(0),
        });
        modules.push(Arc::clone(&module));
        Ok(module)
    }

    /// Canonical path of the library.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The library itself. Open sessions with [`Token::open_session`] only: a session opened here
    /// is not seen by [`Module::restart`].
    pub fn context(&self) -> &Pkcs11 {
        &self.context
    }

    /// Finalizes and initialises the library again, to get a lost token back. Logins end; the next
    /// [`Token::login`] makes them anew. Object handles and slots from before mean nothing after.
    ///
    /// # Errors
    /// [`Error::InUse`], with nothing done, while sessions other than the tokens' guard sessions
    /// are open; [`Error::Call`] when the library does not come back.
    pub fn restart(&self) -> Result<()> {
        let tokens = lock(&self.tokens);
        let mut states: Vec<_> = tokens.iter().map(|token| token.state()).collect();
        let _closed = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let guards = states.iter().filter(|state| state.has_guard()).count();
        let open = self.sessions.load(Ordering::SeqCst);
        if open > guards {
            return Err(Error::InUse {
                path: self.path.display().to_string(),
                sessions: open - guards,
            });
        }
        // A guard dropped after the restart would close a new session of the same number.
        for state in &mut states {
            state.forget_login();
        }
        match self.context.clone().finalize() {
            Ok(()) | Err(Cryptoki::Pkcs11(RvError::CryptokiNotInitialized, _)) => {}
            Err(error) => return Err(Error::Call("finalizing the module", error)),
        }
        initialize(&self.context).map_err(Error::during("initialising the module again"))
    }

    /// Tokens in use, for sharing them.
    pub(crate) fn tokens(&self) -> MutexGuard<'_, Vec<Arc<Token>>> {
        lock(&self.tokens)
    }

    /// Counts a session for as long as the result lives; waits for a restart to end.
    pub(crate) fn enter(self: &Arc<Self>) -> Inside {
        let _open = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        self.sessions.fetch_add(1, Ordering::SeqCst);
        Inside(Arc::clone(self))
    }
}

/// Evidence that somebody uses a module, which therefore must not be finalized.
#[derive(Debug)]
pub(crate) struct Inside(Arc<Module>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::SeqCst);
    }
}

fn initialize(context: &Pkcs11) -> Result<(), Cryptoki> {
    match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        // Somebody else in this process was first; the library serves both.
        Err(Cryptoki::Pkcs11(RvError::CryptokiAlreadyInitialized, Function::Initialize)) => Ok(()),
        other => other,
    }
}

/// The data under these locks is valid after every statement, so a panic elsewhere spoils nothing.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
