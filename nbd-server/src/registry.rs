//! The exports that exist now, by name: declare, connect, list, remove.
//!
//! One registry is shared by configuration files, REST and the engine, so it is `Send + Sync` and
//! generic over what an export is opened from. A connection holds a [`ConnectionGuard`]: dropping
//! it frees the slot, whatever way the connection ended. What is over a limit is refused at once
//! with a reason; nothing waits here. Names may be capabilities, so nothing here logs one.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::export::{Export, ExportInfo, Exports as Offers, Listed, Peer, Refused};
use crate::wire::{MAX_STRING, text};

/// Prefixes of the names that the daemon itself makes; declared exports may not use them.
pub const RESERVED_PREFIXES: [&str; 2] = ["backup-", "restore-"];

/// The reserved prefix that `name` begins with, if any.
pub fn reserved_prefix(name: &str) -> Option<&'static str> {
    RESERVED_PREFIXES
        .into_iter()
        .find(|prefix| name.starts_with(prefix))
}

/// One export as it is declared.
#[derive(Debug, Clone)]
pub struct Entry<T> {
    /// What a connection gets a clone of.
    pub value: T,
    /// Text for people.
    pub description: String,
    /// Shown by LIST. An export whose name is a secret is not.
    pub listed: bool,
    /// Connections at a time; `None` is no limit of its own.
    pub max_connections: Option<usize>,
    /// Only for peers whose verified certificate carries one of these names; `None` for all.
    pub subjects: Option<Vec<String>>,
    /// Peers on a unix socket pass without a certificate: the socket's file mode says who may.
    pub local_passes: bool,
    /// Only for peers that speak TLS; others are told so, and do not see it in LIST.
    pub require_tls: bool,
}

impl<T> Entry<T> {
    /// Listed, for everybody, without a limit.
    pub const fn new(value: T) -> Self {
        Self {
            value,
            description: String::new(),
            listed: true,
            max_connections: None,
            subjects: None,
            local_passes: false,
            require_tls: false,
        }
    }

    fn admits(&self, peer: &Peer) -> bool {
        if self.local_passes && peer.address.is_none() && !peer.tls {
            return true;
        }
        self.subjects.as_ref().is_none_or(|subjects| {
            peer.certificate_names
                .iter()
                .any(|name| subjects.contains(name))
        })
    }
}

/// How an export is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Refuse while it is in use.
    Safe,
    /// No new connections; those that exist stay.
    Drain,
    /// Cut the connections that exist.
    Hard,
}

/// Why [`Registry::declare`] refuses.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeclareError {
    /// The name is taken.
    #[error("an export of this name exists already; remove it first or choose another name")]
    Exists,
    /// The last connections to an export of this name are still open.
    #[error("an export of this name is still draining {connections} connections; wait or cut them")]
    Draining {
        /// How many.
        connections: usize,
    },
    /// The name or the description cannot be carried by the protocol.
    #[error("{0} must be at most 4096 bytes of UTF-8 without NUL")]
    Text(&'static str),
}

/// Why [`Registry::remove`] refuses.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RemoveError {
    /// No such export.
    #[error("there is no export of this name")]
    Unknown,
    /// Safe removal while somebody is connected.
    #[error("the export is in use by {connections} connections; drain it or cut them")]
    InUse {
        /// How many.
        connections: usize,
    },
}

/// One line of [`Registry::list`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryItem {
    /// The name; may be a secret.
    pub name: String,
    /// Text for people.
    pub description: String,
    /// Shown by LIST.
    pub listed: bool,
    /// Open now.
    pub connections: usize,
    /// The limit.
    pub max_connections: Option<usize>,
    /// Removed, but the last connections are still open.
    pub draining: bool,
}

/// What connections and the registry share about one export.
#[derive(Debug)]
struct Use {
    connections: watch::Sender<usize>,
    cut: watch::Sender<bool>,
}

impl Use {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            connections: watch::Sender::new(0),
            cut: watch::Sender::new(false),
        })
    }

    fn count(&self) -> usize {
        *self.connections.borrow()
    }
}

struct Slot<T> {
    entry: Entry<T>,
    usage: Arc<Use>,
}

struct Exports<T> {
    open: BTreeMap<String, Slot<T>>,
    draining: Vec<(RegistryItem, Arc<Use>)>,
}

/// The exports that exist now. Cheap to share behind an `Arc`.
pub struct Registry<T> {
    exports: Mutex<Exports<T>>,
}

impl<T> fmt::Debug for Registry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exports = self.lock();
        f.debug_struct("Registry")
            .field("exports", &exports.open.len())
            .field("draining", &exports.draining.len())
            .finish()
    }
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Self {
            exports: Mutex::new(Exports {
                open: BTreeMap::new(),
                draining: Vec::new(),
            }),
        }
    }
}

impl<T> Registry<T> {
    /// Empty.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Exports<T>> {
        // Each change below is a single step, so a panic elsewhere leaves nothing half done.
        let mut exports = self.exports.lock().unwrap_or_else(PoisonError::into_inner);
        exports.draining.retain(|(_, usage)| usage.count() > 0);
        exports
    }

    /// Adds an export.
    pub fn declare(&self, name: &str, entry: Entry<T>) -> Result<(), DeclareError> {
        if text(name.as_bytes()).is_none() {
            return Err(DeclareError::Text("the name"));
        }
        if entry.description.len() > MAX_STRING || text(entry.description.as_bytes()).is_none() {
            return Err(DeclareError::Text("the description"));
        }
        let mut exports = self.lock();
        if exports.open.contains_key(name) {
            return Err(DeclareError::Exists);
        }
        if let Some((_, usage)) = exports.draining.iter().find(|(item, _)| item.name == name) {
            return Err(DeclareError::Draining {
                connections: usage.count(),
            });
        }
        exports.open.insert(
            name.to_owned(),
            Slot {
                entry,
                usage: Use::new(),
            },
        );
        Ok(())
    }

    /// Takes an export away. What is given back tells when its last connection is gone.
    pub fn remove(&self, name: &str, how: Removal) -> Result<Removed<T>, RemoveError> {
        let mut exports = self.lock();
        let connections = exports
            .open
            .get(name)
            .ok_or(RemoveError::Unknown)
            .map(|slot| slot.usage.count())?;
        if how == Removal::Safe && connections > 0 {
            return Err(RemoveError::InUse { connections });
        }
        let Slot { entry, usage } = exports.open.remove(name).ok_or(RemoveError::Unknown)?;
        if how == Removal::Hard {
            usage.cut.send_replace(true);
        }
        if connections > 0 {
            let mut item = describe(name, &entry, &usage);
            item.draining = true;
            exports.draining.push((item, Arc::clone(&usage)));
        }
        Ok(Removed {
            value: entry.value,
            usage,
        })
    }

    /// Everything, hidden exports and those that drain included.
    pub fn list(&self) -> Vec<RegistryItem> {
        let exports = self.lock();
        let open = exports
            .open
            .iter()
            .map(|(name, slot)| describe(name, &slot.entry, &slot.usage));
        let draining = exports.draining.iter().map(|(item, usage)| RegistryItem {
            connections: usage.count(),
            ..item.clone()
        });
        open.chain(draining).collect()
    }

    /// What LIST shows to `peer`.
    pub fn listed(&self, peer: &Peer) -> Vec<Listed> {
        self.lock()
            .open
            .iter()
            .filter(|(_, slot)| slot.entry.listed && slot.entry.admits(peer))
            .filter(|(_, slot)| peer.tls || !slot.entry.require_tls)
            .map(|(name, slot)| Listed {
                name: name.clone(),
                description: slot.entry.description.clone(),
            })
            .collect()
    }

    /// Cuts whatever connections still hold an export of this name that was removed with
    /// [`Removal::Drain`]. Answers how many there were.
    pub fn cut_draining(&self, name: &str) -> usize {
        let exports = self.lock();
        let mut cut = 0;
        for (_, usage) in exports
            .draining
            .iter()
            .filter(|(item, _)| item.name == name)
        {
            usage.cut.send_replace(true);
            cut += usage.count();
        }
        cut
    }
}

impl<T: Clone> Registry<T> {
    /// Connects `peer`: a clone of the value, and the guard that keeps the slot.
    pub fn connect(&self, name: &str, peer: &Peer) -> Result<(T, ConnectionGuard), Refused> {
        let exports = self.lock();
        let slot = admit(&exports, name, peer)?;
        slot.usage.connections.send_modify(|count| *count += 1);
        Ok((
            slot.entry.value.clone(),
            ConnectionGuard {
                usage: Arc::clone(&slot.usage),
            },
        ))
    }

    /// A clone of the value without connecting: refuses exactly as [`connect`](Self::connect)
    /// would (for INFO).
    pub fn peek(&self, name: &str, peer: &Peer) -> Result<T, Refused> {
        Ok(admit(&self.lock(), name, peer)?.entry.value.clone())
    }

    /// The value of an export, for the daemon's own use: no limit, no rule.
    pub fn get(&self, name: &str) -> Option<T> {
        self.lock()
            .open
            .get(name)
            .map(|slot| slot.entry.value.clone())
    }
}

fn describe<T>(name: &str, entry: &Entry<T>, usage: &Use) -> RegistryItem {
    RegistryItem {
        name: name.to_owned(),
        description: entry.description.clone(),
        listed: entry.listed,
        connections: usage.count(),
        max_connections: entry.max_connections,
        draining: false,
    }
}

fn admit<'a, T>(exports: &'a Exports<T>, name: &str, peer: &Peer) -> Result<&'a Slot<T>, Refused> {
    let Some(slot) = exports.open.get(name) else {
        let drains = exports.draining.iter().any(|(item, _)| item.name == name);
        return Err(if drains {
            Refused::Shutdown("the export is being removed".into())
        } else {
            Refused::Unknown
        });
    };
    if !slot.entry.admits(peer) {
        // The peer may not learn that it exists; the operator may learn why.
        tracing::info!(peer.address = ?peer.address, certificate = ?peer.certificate_names.first(),
            "an export is refused: no rule maps this certificate to it");
        return Err(Refused::Unknown);
    }
    if slot.entry.require_tls && !peer.tls {
        return Err(Refused::Policy("this export is given over TLS only".into()));
    }
    match slot.entry.max_connections {
        Some(limit) if slot.usage.count() >= limit => Err(Refused::Policy(
            format!("the export is full: all of its {limit} connections are in use").into(),
        )),
        _ => Ok(slot),
    }
}

/// Holds one connection's slot; dropping it frees the slot.
#[derive(Debug)]
pub struct ConnectionGuard {
    usage: Arc<Use>,
}

impl ConnectionGuard {
    /// Ends when the connection must be cut (hard removal). Outlives the guard's borrow.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + Sync + 'static {
        let mut cut = self.usage.cut.subscribe();
        async move {
            if cut.wait_for(|cut| *cut).await.is_err() {
                // Everything that could cut is gone, this guard included.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether it must be cut.
    pub fn is_cut(&self) -> bool {
        *self.usage.cut.borrow()
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.usage
            .connections
            .send_modify(|count| *count = count.saturating_sub(1));
    }
}

/// An export that was taken away.
#[derive(Debug)]
pub struct Removed<T> {
    /// What it was.
    pub value: T,
    usage: Arc<Use>,
}

impl<T> Removed<T> {
    /// Connections that are still open.
    pub fn connections(&self) -> usize {
        self.usage.count()
    }

    /// Ends when the last connection is gone.
    pub async fn gone(&self) {
        let mut connections = self.usage.connections.subscribe();
        // The sender lives in `self`, so this cannot fail.
        let _ = connections.wait_for(|count| *count == 0).await;
    }
}

/// Gives nothing to anybody, with a reason: what a server beyond its limit of connections serves,
/// so that the client hears why instead of waiting.
#[derive(Debug, Clone)]
pub struct RefuseAll<X> {
    reason: Refused,
    would_be: PhantomData<fn() -> X>,
}

impl<X> RefuseAll<X> {
    /// Refuses with this.
    pub const fn new(reason: Refused) -> Self {
        Self {
            reason,
            would_be: PhantomData,
        }
    }
}

impl<X: Export> Offers for RefuseAll<X> {
    type Export = X;

    async fn info(&self, _name: &str, _peer: &Peer) -> Result<ExportInfo, Refused> {
        Err(self.reason.clone())
    }

    async fn open(&self, _name: &str, _peer: &Peer) -> Result<Rc<X>, Refused> {
        Err(self.reason.clone())
    }

    fn list(&self, _peer: &Peer) -> Option<Vec<Listed>> {
        None
    }
}

#[cfg(test)]
mod tests;
