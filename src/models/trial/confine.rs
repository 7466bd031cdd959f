//! The child's own chains: resource limits first, and then, before the model is touched, a filter that
//! leaves it memory, time and two open pipes. No file can be opened, no socket made, no process or thread
//! started. Nothing is inherited by environment, and the child dies with its parent.
//!
//! The filter is a list of what is allowed; every other system call fails with `EPERM`, which libraries
//! survive, so that a new release of one does not kill trials.

use std::collections::BTreeMap;

use nix::sys::prctl;
use nix::sys::resource::{Resource, UsageWho, getrusage, setrlimit};
use nix::sys::signal::Signal;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Why the child could not be confined; it then does nothing.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    #[error("resource limits could not be set")]
    Limits(#[from] nix::Error),
    #[error("system calls could not be limited")]
    Filter(#[from] seccompiler::Error),
    #[error("this processor's system calls are not known")]
    Processor,
}

/// Open files: pipes, libraries while they load, and some to spare.
const OPEN_FILES: u64 = 64;

/// Limits what this process may use from here on, for good.
pub fn limit(address_space: u64, cpu_seconds: u64) -> Result<(), ConfineError> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // Where memory runs out all the same, as in a container with less of it, this process goes and not its parent. To be
    // said while the file is still this process's own to write.
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "1000") {
        tracing::debug!(%error, "the kernel is not told whom to end first");
    }
    // No memory image is left behind, and none is readable by others.
    prctl::set_dumpable(false)?;
    for (resource, most) in [
        (Resource::RLIMIT_AS, address_space),
        (Resource::RLIMIT_CPU, cpu_seconds),
        (Resource::RLIMIT_FSIZE, 0),
        (Resource::RLIMIT_NOFILE, OPEN_FILES),
        (Resource::RLIMIT_CORE, 0),
    ] {
        // The CPU's limit ends the process at the first second, with the signal that says so.
        let hard = if resource == Resource::RLIMIT_CPU { most + 2 } else { most };
        setrlimit(resource, most, hard)?;
    }
    Ok(())
}

/// Takes from this process everything but computing and its open pipes, for good.
pub fn lock_down() -> Result<(), ConfineError> {
    let processor = std::env::consts::ARCH.try_into().map_err(|_| ConfineError::Processor)?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().map(|&number| (number, Vec::new())).collect();
    // abort() sends its signal to itself.
    let own = u64::from(std::process::id());
    let to_itself = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, own);
    let to_itself = to_itself
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(seccompiler::Error::from)?;
    rules.insert(libc::SYS_tgkill, vec![to_itself]);
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, refused, SeccompAction::Allow, processor);
    let program: BpfProgram = filter.and_then(TryInto::try_into).map_err(seccompiler::Error::from)?;
    seccompiler::apply_filter_all_threads(&program)?;
    Ok(())
}

/// What remains allowed.
const ALLOWED: &[i64] = &[
    // The pipes.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_fstat,
    // Memory.
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_membarrier,
    // Waiting and time.
    libc::SYS_futex,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_sched_yield,
    libc::SYS_restart_syscall,
    // What it is and where it runs.
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_getcpu,
    libc::SYS_sched_getaffinity,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    // Its end.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// The most memory that this process has held at once.
pub fn peak_bytes() -> u64 {
    // Linux counts in units of 1024 bytes.
    getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| usage.max_rss().max(0) as u64 * 1024)
}
