//! The key/value stores of a project.

mod counted;
mod meter;
mod operator;

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use wws_engine::Account;
use wws_kv::{FileStore, HostAddresses, MemoryStore, RedisOptions, RedisStore, Store, StoreLimits};
use wws_outbound::{Dns, HostNames};
use wws_project::{
    KeyValue, Problem, Problems, RedisUrl, StoreDefinition, StorePlace, StoreSettings,
};
use wws_telemetry::Telemetry;

pub use operator::{NotReadable, store_contents};

use crate::stores::counted::CountedStore;
use crate::stores::meter::KvMeter;

/// The opened key/value stores of a process. Cheap to clone; clones have the same stores, so what
/// they hold lasts when a project is loaded again.
#[derive(Clone, Default)]
pub struct OpenedStores {
    opened: Arc<Mutex<HashMap<StoreId, Arc<dyn Store>>>>,
    /// Whether nothing outside of this process is touched.
    is_trial: bool,
}

impl std::fmt::Debug for OpenedStores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenedStores").finish_non_exhaustive()
    }
}

/// What makes two definitions the same store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum StoreId {
    /// The one that every project has.
    Default,
    Memory(String),
    File(PathBuf),
    Redis(RedisUrl),
}

impl StoreId {
    fn of(definition: &StoreDefinition) -> Self {
        match &definition.place {
            StorePlace::Memory => Self::Memory(definition.name.clone()),
            StorePlace::File(path) => Self::File(path.clone()),
            StorePlace::Redis(url) => Self::Redis(url.clone()),
        }
    }
}

impl OpenedStores {
    /// Stores that last as long as the process and touch no file and no network, whatever their
    /// definitions say: to try whether a project can be loaded.
    #[must_use]
    pub fn trial() -> Self {
        Self {
            is_trial: true,
            ..Self::default()
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StoreId, Arc<dyn Store>>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the stores of a project, unless they are open. Blocks the thread.
    pub(crate) fn open(
        &self,
        definitions: &[StoreDefinition],
        account: &Account,
        telemetry: &Telemetry,
        env: &BTreeMap<String, String>,
    ) -> Result<ProjectStores, Problems> {
        let mut opened = self.lock();
        let opener = Opener {
            meter: KvMeter::new(account),
            telemetry,
            env,
            is_trial: self.is_trial,
        };
        let default = opened
            .entry(StoreId::Default)
            .or_insert_with(|| opener.memory(StoreLimits::default()))
            .clone();
        let mut stores = ProjectStores {
            default,
            named: BTreeMap::new(),
        };
        let mut problems = Vec::new();
        for definition in definitions {
            let id = StoreId::of(definition);
            let limits = limits(&definition.limits);
            let store = match opened.get(&id) {
                Some(store) => {
                    store.set_limits(limits);
                    Ok(store.clone())
                }
                None => opener.open(definition, limits),
            };
            match store {
                Ok(store) => {
                    opened.insert(id, store.clone());
                    stores.named.insert(definition.name.clone(), store);
                }
                Err(problem) => problems.push(problem),
            }
        }
        match Problems::of(problems) {
            None => Ok(stores),
            Some(problems) => Err(problems),
        }
    }

    /// Forgets all stores but those of a project that is served now, whose limits apply. They close
    /// when the last request that uses them has ended.
    pub(crate) fn keep(&self, definitions: &[StoreDefinition]) {
        let ids: Vec<_> = definitions.iter().map(StoreId::of).collect();
        let mut opened = self.lock();
        opened.retain(|id, _| *id == StoreId::Default || ids.contains(id));
        for (definition, id) in definitions.iter().zip(&ids) {
            if let Some(store) = opened.get(id) {
                store.set_limits(limits(&definition.limits));
            }
        }
    }
}

struct Opener<'a> {
    meter: Arc<KvMeter>,
    telemetry: &'a Telemetry,
    env: &'a BTreeMap<String, String>,
    is_trial: bool,
}

impl Opener<'_> {
    fn memory(&self, limits: StoreLimits) -> Arc<dyn Store> {
        let store = MemoryStore::new(limits).metered(self.meter.clone());
        CountedStore::new(store, self.telemetry.clone())
    }

    fn open(
        &self,
        definition: &StoreDefinition,
        limits: StoreLimits,
    ) -> Result<Arc<dyn Store>, Problem> {
        match &definition.place {
            _ if self.is_trial => Ok(self.memory(limits)),
            StorePlace::Memory => Ok(self.memory(limits)),
            StorePlace::File(path) => {
                create_directory_of(path).map_err(|error| definition.problem(error.to_string()))?;
                let store = FileStore::open(path, limits)
                    .map_err(|error| definition.problem(error.to_string()))?;
                let store = store.metered(self.meter.clone());
                Ok(CountedStore::new(store, self.telemetry.clone()))
            }
            StorePlace::Redis(url) => {
                let store = redis(url, self.env, limits)
                    .map_err(|error| definition.problem(error.to_string()))?;
                let store = store.metered(self.meter.clone());
                Ok(CountedStore::new(store, self.telemetry.clone()))
            }
        }
    }
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenStoreError {
    /// The directory of its file cannot be created.
    #[error("cannot create {}: {source}", .directory.display())]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its URL is invalid.
    #[error("the URL: {0}")]
    Redis(#[source] wws_kv::Error),
    /// The trusted certificates cannot be read.
    #[error("cannot read `SSL_CERT_FILE` ({path}): {source}")]
    Certificates {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Creates the directory that a file is to be in. After a power cut it exists.
fn create_directory_of(file: &Path) -> Result<(), OpenStoreError> {
    let missing: Vec<&Path> = file
        .ancestors()
        .skip(1)
        .take_while(|directory| !directory.exists())
        .collect();
    let Some(directory) = missing.first() else {
        return Ok(());
    };
    let create = || -> io::Result<()> {
        std::fs::create_dir_all(directory)?;
        for parent in missing.iter().filter_map(|directory| directory.parent()) {
            File::open(parent)?.sync_all()?;
        }
        Ok(())
    };
    create().map_err(|source| OpenStoreError::Directory {
        directory: (*directory).to_owned(),
        source,
    })
}

/// The store at a URL.
fn redis(
    url: &RedisUrl,
    env: &BTreeMap<String, String>,
    limits: StoreLimits,
) -> Result<RedisStore, OpenStoreError> {
    let options = RedisOptions {
        roots: roots(env)?,
        names: Some(Arc::new(Names(HostNames::new(Dns::default())))),
    };
    RedisStore::new(url.as_str(), options, limits).map_err(OpenStoreError::Redis)
}

/// The certificates that the operator wants TLS to trust, if not public ones.
fn roots(env: &BTreeMap<String, String>) -> Result<Option<Vec<u8>>, OpenStoreError> {
    let Some(path) = env.get("SSL_CERT_FILE") else {
        return Ok(None);
    };
    let read = std::fs::read(path);
    read.map(Some)
        .map_err(|source| OpenStoreError::Certificates {
            path: path.clone(),
            source,
        })
}

/// Resolves names as for outgoing requests.
struct Names(HostNames);

#[async_trait]
impl HostAddresses for Names {
    async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let found = self.0.addresses(host).await;
        found.map_err(|error| io::Error::new(io::ErrorKind::NotFound, error.to_string()))
    }
}

fn limits(settings: &StoreSettings) -> StoreLimits {
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    StoreLimits {
        key: size(settings.max_key),
        value: size(settings.max_value),
        size: settings.max_size,
        ..StoreLimits::default()
    }
}

/// The stores of one project, by their names.
pub(crate) struct ProjectStores {
    default: Arc<dyn Store>,
    named: BTreeMap<String, Arc<dyn Store>>,
}

impl ProjectStores {
    /// The store that a worker uses.
    pub(crate) fn of(&self, kv: &KeyValue) -> &Arc<dyn Store> {
        // The project's loader has checked the name.
        let named = kv.store.as_ref().and_then(|name| self.named.get(name));
        named.unwrap_or(&self.default)
    }
}
