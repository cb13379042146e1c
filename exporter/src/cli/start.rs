//! The part of the start that runs with privileges. It can hang, since it reads files, so it runs on a thread
//! of its own, which has ended before privileges are dropped: capabilities are per thread. Meanwhile, the
//! reactor handles signals.

use std::{
    env, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, anyhow};
use sched_exporter_ebpf::{Global, HOOK};

use super::{
    args::Args,
    check::{FoundCgroup, FoundCgroups},
};
use crate::{
    access::{self, WebConfigError},
    accounting::CGROUPS,
    cgroup::{
        self,
        hierarchy::{self, HierarchyError, Selection},
        paths,
    },
    config::{self, Config, ConfigError, ConfigFile},
    expr::cgroup::NamesFrom,
    kernel::{
        attach::Start,
        btf::Btf,
        layout::{Hierarchy, Layout},
        pins::{self, PinDirectory},
        preflight::{BTF_PATH, Facts},
        scheduler::{LoadError, Scheduler},
    },
    metrics::telemetry::Telemetry,
    os::{
        files::FileError,
        heap, log,
        patience::{self, Step},
    },
    privileges::{self, Protection, capabilities, isolation},
    reload::{self, Reloader},
    runtimes::{Origins, Runtimes, Settings},
    sources::SourceOrigins,
};

/// Completes the errors about what the last process has saved.
pub(super) const CANNOT_CONTINUE: &str = "cannot continue the counts that are pinned; `sched_exporter unpin` with the --ebpf.pin-path of this exporter \
     removes them";

/// Runs a part of the start on a thread of its own, and reports a step that takes long.
pub(super) async fn on_thread<T: Send + 'static>(
    args: &Args,
    start: impl FnOnce(&Args, &Step) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let args = args.clone();
    let result = patience::run("start", move |step| start(&args, step)).await;
    result.context("cannot start the thread that starts the exporter")?
}

/// The state that every mode starts from.
pub(super) struct Setup {
    pub(super) telemetry: Telemetry,
    pub(super) file: ConfigFile,
    pub(super) config: Config,
    /// The web configuration, if there is one.
    pub(super) access: Option<access::Loaded>,
}

impl Setup {
    /// Reads the configuration with every right that this process has.
    pub(super) fn new(args: &Args, step: &Step) -> anyhow::Result<Self> {
        Self::read(args, step, |path| Ok(config::read(path)?), |path| Ok(access::load(path)?))
    }

    /// Reads the configuration with only the rights that reloads will have.
    pub(super) fn for_reloads(args: &Args, step: &Step) -> anyhow::Result<Self> {
        if args.privileges_keep {
            return Self::new(args, step);
        }
        Self::read(
            args,
            step,
            |path| {
                let file = capabilities::without(|| config::read(path))?;
                file.map_err(|error| match &error {
                    ConfigError::File(cause) => explain(cause).unwrap_or(error.into()),
                    _ => error.into(),
                })
            },
            |path| {
                let loaded = capabilities::without(|| access::load(path))?;
                loaded.map_err(|error| match &error {
                    WebConfigError::File(cause) => explain(cause).unwrap_or(error.into()),
                    _ => error.into(),
                })
            },
        )
    }

    fn read(
        args: &Args,
        step: &Step,
        read: impl FnOnce(&Path) -> anyhow::Result<ConfigFile>,
        load: impl FnOnce(&Path) -> anyhow::Result<access::Loaded>,
    ) -> anyhow::Result<Self> {
        step.reading(Path::new("/proc"));
        let telemetry = Telemetry::new()?;
        step.reading(&args.config_file);
        let file = read(&args.config_file)?;
        let config = file.parse()?;
        let access = args.web_config_file().map(|path| {
            step.reading(path);
            load(path).context("--web.config.file")
        });
        Ok(Self { telemetry, file, config, access: access.transpose()? })
    }

    /// Builds the first generation. This may start threads that read files.
    pub(super) fn reloader(self) -> Result<Reloader, reload::LoadError> {
        let origins = SourceOrigins::new(env::vars_os());
        Reloader::new(&self.file, self.config, origins, self.telemetry)
    }
}

/// Explains why a file cannot be read with the rights that reloads will have, if it can be read now.
fn explain(error: &FileError) -> Option<anyhow::Error> {
    let FileError::Unreadable { path, source } = error else { return None };
    let is_denied = source.kind() == std::io::ErrorKind::PermissionDenied;
    (is_denied && fs::File::open(path).is_ok())
        .then(|| anyhow!("{}: {}", log::chain(error), unreadable_by_reloads(path)))
}

/// Says why a file can be read now, but not by reloads, and what to do.
fn unreadable_by_reloads(path: &Path) -> String {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    // Below a directory that is closed, nothing has metadata.
    let closed = capabilities::without(|| {
        let parts: Vec<_> = path.ancestors().collect();
        parts.into_iter().rev().take_while(|part| fs::metadata(part).is_ok()).last()
    });
    let closed = closed.ok().flatten().unwrap_or(&path);
    let access = fs::metadata(closed).map_or_else(
        |error| error.to_string(),
        |found| {
            format!("mode {:04o}, owner {}:{}", found.mode() & 0o7777, found.uid(), found.gid())
        },
    );
    format!(
        "`{}` ({access}) is closed to this user without capabilities, which the exporter drops, so it \
         could never reload the file; chown or chmod it, or start with --privileges.keep",
        closed.display()
    )
}

/// Where container runtimes and the Kubernetes API are.
pub(super) fn container_origins() -> Origins {
    let SourceOrigins { root, environment, service_account, .. } =
        SourceOrigins::new(env::vars_os());
    Origins { root, environment: environment.into(), service_account }
}

/// Finds the cgroups of this machine, for a report; `None` if they are not accounted for.
pub(super) fn cgroups(args: &Args, step: &Step) -> Option<FoundCgroups> {
    if args.no_cgroups {
        return None;
    }
    step.reading(Path::new("/sys/fs/cgroup"));
    Some(find_cgroups(args).unwrap_or_else(|error| {
        let error = Some(log::chain(error.as_ref()));
        FoundCgroups { error, ..FoundCgroups::default() }
    }))
}

fn find_cgroups(args: &Args) -> anyhow::Result<FoundCgroups> {
    let mount = hierarchy::select(args.cgroup_hierarchy.requested())?.mount?;
    let found = paths::all(&mount.path, paths::Limits::default())?;
    let named = |(id, path): (&u64, &PathBuf)| FoundCgroup {
        names: cgroup::describe(*id, path),
        from: NamesFrom::Path,
    };
    let mut cgroups: Vec<_> = found.paths.iter().map(named).collect();
    cgroups.sort_by(|a, b| a.names.path.cmp(&b.names.path));
    let unread = || found.error.as_ref().map(|error| log::chain(error));
    let error = mount.limitation().or_else(unread);
    Ok(FoundCgroups { cgroups, error, sources: Vec::new() })
}

/// Adds what container runtimes and the Kubernetes API know to the names of cgroups.
pub(super) async fn ask_for_containers(
    args: &Args,
    config: Arc<Config>,
    found: Option<FoundCgroups>,
) -> anyhow::Result<Option<FoundCgroups>> {
    let Some(mut found) = found else { return Ok(None) };
    on_thread(args, move |_, step| {
        step.doing("asking for the names of containers");
        let cgroups = config.cgroups();
        let mut runtimes = Runtimes::new(
            Settings {
                sockets: cgroups.runtimes.clone(),
                kubernetes_pods: cgroups.kubernetes_pods,
                uses: Arc::new(cgroups.uses()),
            },
            container_origins(),
        );
        runtimes.ask(true);
        let inventory = runtimes.inventory();
        for FoundCgroup { names, from } in &mut found.cgroups {
            if let Some(known) = inventory.find(names) {
                known.add_to(names);
                from.clone_from(known.from());
            }
        }
        found.sources = runtimes.states();
        Ok(Some(found))
    })
    .await
}

/// The attached kernel program.
pub(super) struct Attached {
    pub(super) scheduler: Scheduler,
    /// The hierarchy of the cgroups, if they are accounted for.
    pub(super) cgroups: Option<Selection>,
}

/// Attaches the kernel program, or explains what this host lacks. Unless the command line keeps privileges,
/// nothing that this opens can be taken by other processes of this user.
pub(super) fn attach(args: &Args, step: &Step) -> anyhow::Result<Attached> {
    if !args.privileges_keep {
        isolation::isolate().context("cannot forbid tracing of this process")?;
    }
    capabilities::raise().context("cannot raise capabilities")?;
    let cgroups = select_cgroups(args, step)?;
    let pins = open_pins(args, step)?;
    let scheduler = read_layout(args, step, &cgroups).and_then(|layout| {
        step.doing("loading the kernel program");
        Ok(Scheduler::attach(layout, args.ebpf_cgroup_memory, args.log_ebpf, pins)?)
    });
    // Parsing BTF leaves about 20 MB unused.
    heap::trim();
    let scheduler = scheduler.map_err(|error| {
        let permission = error.downcast_ref().is_some_and(LoadError::is_permission);
        anyhow!("{}{}", log::chain(error.as_ref()), Facts::gather().advice(permission))
    })?;
    for feature in scheduler.features() {
        if let Some(reason) = &feature.off {
            tracing::warn!(feature = feature.name, reason, "feature is off");
        }
    }
    if let Some(counts) = scheduler.cgroup_slots() {
        tracing::info!(
            cgroups = counts.slots,
            memory = args.ebpf_cgroup_memory,
            "this many cgroups can be accounted for at the same time; --ebpf.cgroup-memory limits them"
        );
        if let Some(reason) = scheduler.no_removal_hook() {
            tracing::warn!(reason, "removed cgroups are found by looking for their directories");
        }
        if let Some(reason) = scheduler.no_birth_hook() {
            tracing::warn!(reason, "new cgroups are found by looking for their directories");
        }
    }
    if let Start::Anew(reason) = scheduler.start() {
        tracing::warn!(reason, "counts begin at zero: those that were pinned cannot be continued");
    }
    tracing::info!(hook = HOOK, "attached");
    let is_counted = scheduler.cgroup_slots().is_some();
    Ok(Attached { scheduler, cgroups: cgroups.ok().filter(|_| is_counted) })
}

/// Opens the directory of pins. Without one, warns if an exporter has left any.
fn open_pins(args: &Args, step: &Step) -> anyhow::Result<Option<PinDirectory>> {
    if let Some(path) = args.pin_path() {
        step.reading(path);
        return Ok(Some(PinDirectory::open(path)?));
    }
    if pins::are_left() {
        tracing::warn!(
            path = pins::DEFAULT_PATH,
            "an exporter with --ebpf.pin-path has left its kernel program here, which still runs at each \
             context switch; continue it with that flag, or remove it with `sched_exporter unpin`"
        );
    }
    Ok(None)
}

/// Selects the hierarchy of cgroups to account for. The inner error says why there is none. Fails if the one
/// that was asked for does not exist.
fn select_cgroups(args: &Args, step: &Step) -> anyhow::Result<Result<Selection, String>> {
    if args.no_cgroups {
        return Ok(Err(String::new()));
    }
    step.doing("looking for the hierarchy of cgroups");
    match hierarchy::select(args.cgroup_hierarchy.requested()) {
        Ok(selection) => Ok(Ok(selection)),
        Err(error @ HierarchyError::Read { .. }) => Ok(Err(log::chain(&error))),
        Err(error) => Err(error).context("--cgroup.hierarchy"),
    }
}

fn read_layout(
    args: &Args,
    step: &Step,
    cgroups: &Result<Selection, String>,
) -> anyhow::Result<Layout> {
    step.reading(Path::new(BTF_PATH));
    let bytes = fs::read(BTF_PATH).with_context(|| format!("cannot read `{BTF_PATH}`"))?;
    let kind = match cgroups {
        Ok(Selection { hierarchy: hierarchy::Hierarchy::Legacy, id, .. }) => {
            Hierarchy::Legacy { id: *id }
        }
        Ok(_) | Err(_) => Hierarchy::Unified,
    };
    let mut layout = Layout::from_btf(&Btf::parse(&bytes)?, args.disabled_features(), kind)?;
    if let Err(reason) = cgroups
        && !args.no_cgroups
    {
        layout.turn_off(CGROUPS, Global::CountCgroups, reason);
    }
    Ok(layout)
}

/// Drops privileges and confines this process, unless the command line keeps privileges. It may still remove
/// files in `removable`. This thread must be the only one.
pub(super) fn drop_privileges(
    args: &Args,
    scheduler: &Scheduler,
    telemetry: &Telemetry,
    removable: &[PathBuf],
) -> anyhow::Result<()> {
    let protections = if args.privileges_keep {
        privileges::unconfined()
    } else {
        if let Some(capability) = capabilities::drop(|| scheduler.probe())? {
            tracing::warn!(
                %capability,
                "capability kept: before Linux 5.19, writing a BPF map may need it"
            );
        }
        let protections = privileges::confine(removable);
        for Protection { name, state } in &protections {
            if let Err(reason) = state {
                tracing::warn!(protection = name, reason, "protection is off");
            }
        }
        protections
    };
    telemetry.capabilities(capabilities::kept()?);
    telemetry.protections(protections.iter().map(|it| (it.name, it.state.is_ok())));
    Ok(())
}
