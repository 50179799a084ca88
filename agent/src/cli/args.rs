//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Replicates a live directory or Docker volume into a plain tree on a GlusterFS mount, as generations: the
/// mirror is always one committed state, never a mix.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, max_term_width = 100)]
pub struct Cli {
    /// Print JSON for scripts instead of text.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// True for the agent and the child it keeps: they must not end because somebody does not listen any more.
    pub fn is_agent(&self) -> bool {
        matches!(self.command, Command::Run(_) | Command::KeepCut)
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Replicate a volume into a mirror: once, or again and again.
    Sync(SyncArgs),
    /// Fill a directory or Docker volume from the last generation: verified, then swapped in as a whole.
    Recover(RecoverArgs),
    /// Compare the mirror, and with SRC the volume too, with what the last generation says of every path.
    Verify(VerifyArgs),
    /// Say how the agent's lanes are, or what a mirror holds: generation, writer, age, quarantine.
    Status(StatusArgs),
    /// Run the agent: keeps every lane of the configuration up to date until it is told to end.
    Run(RunArgs),
    /// Bring everything up to now into the mirror, and say how long that took.
    Flush(FlushArgs),
    /// Stop a lane's cycles; what changes meanwhile is kept in mind.
    Pause(LaneArgs),
    /// Go on with a paused lane, or try a failing one at once.
    Resume(LaneArgs),
    /// Publish the deletions that a guard withheld.
    Approve(LaneArgs),
    /// Say everything that is known of one path.
    Why(WhyArgs),
    /// Show the change journal of a lane: what was touched, when, and which generation took it in.
    Journal(JournalArgs),
    /// Say what a sync would do, and do nothing.
    Plan(PlanArgs),
    /// Say what this host can do for its lanes, and what is in the way.
    Doctor(DoctorArgs),
    /// Check the agent's configuration, or print one to begin with.
    Config(ConfigArgs),
    /// Hold what a cut does to an application; started by the agent alone.
    #[command(hide = true)]
    KeepCut,
}

/// Options of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Only this lane, as team/env; all of the configuration without it.
    #[arg(value_name = "LANE")]
    pub lane: Option<proto::LaneName>,
    /// The configuration. The host is examined without one, too.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Options of `config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// What to do with it.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// The commands of `config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say everything that is wrong with a configuration, or what each of its lanes comes to.
    Check {
        /// The file.
        #[arg(value_name = "FILE", default_value = crate::config::CONFIG_PATH)]
        file: PathBuf,
    },
    /// Print a configuration to begin with, every key explained.
    Example,
}

/// Options of `recover`.
#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// The mirror.
    #[arg(value_name = "DST")]
    pub mirror: PathBuf,
    /// What to fill: a directory, or docker:NAME. What is in it is kept beside it as NAME-backup-TIME.
    #[arg(value_name = "TARGET")]
    pub target: String,
    /// Finish a generation that another installation sealed, and fence that one: only if it is gone for good.
    #[arg(long)]
    pub take_over: bool,
    /// Keep setuid and setgid bits of files in a plain directory. In a Docker volume they are always kept.
    #[arg(long)]
    pub preserve_suid: bool,
    /// How files are copied; auto takes io_uring towards a mount, where the kernel allows it, and plain calls towards
    /// a local disk.
    #[arg(long, value_enum, default_value_t = EngineArg::Auto)]
    pub engine: EngineArg,
    /// Files in flight at once.
    #[arg(long, value_name = "N", default_value_t = 48, value_parser = clap::value_parser!(u16).range(1..=512))]
    pub in_flight: u16,
}

/// Options of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The mirror; or the volume (a directory, or docker:NAME) followed by the mirror.
    #[arg(value_name = "[SRC] DST", num_args = 1..=2, required = true)]
    pub places: Vec<String>,
    /// How files are read; auto takes io_uring where the kernel allows it.
    #[arg(long, value_enum, default_value_t = EngineArg::Auto)]
    pub engine: EngineArg,
}

/// Options of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The configuration (`tidegate config example` prints one to begin with).
    #[arg(long, value_name = "FILE", default_value = crate::config::CONFIG_PATH)]
    pub config: PathBuf,
}

/// Options of `flush`.
#[derive(Debug, Args)]
pub struct FlushArgs {
    /// The lane, as team/env; all of the agent's without it.
    #[arg(value_name = "LANE")]
    pub lane: Option<proto::LaneName>,
    /// Longest wait in seconds. The agent goes on with it all the same.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
}

/// Options of what acts on one lane.
#[derive(Debug, Args)]
pub struct LaneArgs {
    /// The lane, as team/env.
    #[arg(value_name = "LANE")]
    pub lane: proto::LaneName,
}

/// Options of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// A lane of the agent, as team/env; or a mirror, as a path. Without it: all lanes of the agent.
    #[arg(value_name = "LANE|DST")]
    pub of: Option<String>,
    /// For monitoring: one line a lane, and exit code 0 (OK), 1 (WARN), 2 (ALERT) or 3 (UNKNOWN).
    #[arg(long, conflicts_with_all = ["all", "watch"])]
    pub check: bool,
    /// Show it again every second.
    #[arg(long, conflicts_with = "all")]
    pub watch: bool,
    /// List every path that is in quarantine or left out.
    #[arg(long)]
    pub all: bool,
}

/// Options of `why`.
#[derive(Debug, Args)]
pub struct WhyArgs {
    /// A lane, as team/env; or a mirror, as a path.
    #[arg(value_name = "LANE|DST")]
    pub of: String,
    /// The path, relative to the volume's root.
    #[arg(value_name = "PATH")]
    pub path: std::ffi::OsString,
    /// Where the lane is looked for when no agent runs.
    #[arg(long, value_name = "FILE", default_value = crate::config::CONFIG_PATH)]
    pub config: PathBuf,
}

/// Options of `journal`.
#[derive(Debug, Args)]
pub struct JournalArgs {
    /// A lane, as team/env; or a mirror, as a path.
    #[arg(value_name = "LANE|DST")]
    pub of: String,
    /// Go on with what comes, until interrupted.
    #[arg(long, short)]
    pub follow: bool,
    /// Of what is there already only the last N notes.
    #[arg(long, short = 'n', value_name = "N")]
    pub last: Option<u64>,
    /// Where the lane is looked for when no agent runs.
    #[arg(long, value_name = "FILE", default_value = crate::config::CONFIG_PATH)]
    pub config: PathBuf,
}

/// Options of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The volume: a directory, or docker:NAME.
    #[arg(value_name = "SRC")]
    pub source: String,
    /// The mirror.
    #[arg(value_name = "DST")]
    pub mirror: PathBuf,
    /// List everything, not only the beginning of each kind.
    #[arg(long)]
    pub all: bool,
    /// Deletions up to this many entries are never halted.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub max_delete: u64,
    /// Beyond that, deletions up to this share of all entries are not halted.
    #[arg(long, value_name = "PERCENT", default_value_t = 25, value_parser = clap::value_parser!(u64).range(0..=100))]
    pub max_delete_percent: u64,
}

/// Options of `sync`.
#[derive(Debug, Args)]
pub struct SyncArgs {
    /// The volume: a directory, or docker:NAME.
    #[arg(value_name = "SRC")]
    pub source: String,
    /// The mirror: a directory of its own, on the GlusterFS mount. Its ledger lies beside it, in .tidegate/.
    #[arg(value_name = "DST")]
    pub mirror: PathBuf,
    /// Stop after the mirror holds the volume's state.
    #[arg(long)]
    pub once: bool,
    /// Seconds between the end of one cycle and the start of the next.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, conflicts_with = "once")]
    pub interval: u64,
    /// How durable a generation is when it is called sealed.
    #[arg(long, value_enum, default_value_t = DurabilityArg::Fsync)]
    pub durability: DurabilityArg,
    /// Publish this cycle's deletions, however many they are.
    #[arg(long)]
    pub approve_deletions: bool,
    /// Deletions up to this many entries are never halted.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub max_delete: u64,
    /// Beyond that, deletions up to this share of all entries are not halted.
    #[arg(long, value_name = "PERCENT", default_value_t = 25, value_parser = clap::value_parser!(u64).range(0..=100))]
    pub max_delete_percent: u64,
    /// Copy everything anew and replace the whole mirror by it, in one step.
    #[arg(long)]
    pub full: bool,
    /// Claim the lane from another installation that is gone for good; it is fenced.
    #[arg(long)]
    pub take_over: bool,
    /// How files are copied; auto takes io_uring where the kernel allows it.
    #[arg(long, value_enum, default_value_t = EngineArg::Auto)]
    pub engine: EngineArg,
    /// Files in flight at once.
    #[arg(long, value_name = "N", default_value_t = 48, value_parser = clap::value_parser!(u16).range(1..=512))]
    pub in_flight: u16,
}

/// Values of `--durability`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum DurabilityArg {
    /// Every file fsynced on every brick that is up.
    Fsync,
    /// Acknowledged by every brick that is up; survives the loss of a host, not of all at once.
    Replicated,
}

/// Values of `--engine`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum EngineArg {
    /// io_uring if it is to be had.
    Auto,
    /// io_uring.
    Ring,
    /// Plain calls on threads.
    Plain,
}
