//! Filters of system calls, by the crate `seccompiler`.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// System calls with rules, one of which must match the arguments; without rules, the call itself
/// matches.
pub(crate) type Rules = BTreeMap<libc::c_long, Vec<SeccompRule>>;

/// Builds a filter, with the actions for calls that match and for others.
pub(crate) fn filter(
    rules: Rules,
    matching: SeccompAction,
    other: SeccompAction,
) -> io::Result<BpfProgram> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
    SeccompFilter::new(rules, other, matching, architecture)
        .and_then(BpfProgram::try_from)
        .map_err(io::Error::other)
}

/// Applies a filter to this thread and those that it starts. Does nothing if the kernel has no
/// filters.
///
/// # Errors
/// An outer filter does not allow it.
pub(crate) fn apply(program: &BpfProgram) -> io::Result<()> {
    match seccompiler::apply_filter(program) {
        Err(seccompiler::Error::Seccomp(error))
            if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) =>
        {
            Ok(())
        }
        applied => applied.map_err(io::Error::other),
    }
}

/// The action that fails a call with an error.
pub(crate) fn refused(error: libc::c_int) -> SeccompAction {
    SeccompAction::Errno(error.cast_unsigned())
}

/// A rule that matches if all of its conditions match.
pub(crate) fn rule<const N: usize>(
    conditions: [io::Result<SeccompCondition>; N],
) -> io::Result<SeccompRule> {
    let conditions = conditions.into_iter().collect::<io::Result<_>>()?;
    SeccompRule::new(conditions).map_err(io::Error::other)
}

/// A condition on the lower half of an argument, which the kernel uses for an `int`.
pub(crate) fn argument(
    index: u8,
    compare: SeccompCmpOp,
    value: libc::c_int,
) -> io::Result<SeccompCondition> {
    let value = u64::from(value.cast_unsigned());
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, compare, value).map_err(io::Error::other)
}

/// Compares some bits.
pub(crate) fn masked(bits: libc::c_int) -> SeccompCmpOp {
    SeccompCmpOp::MaskedEq(u64::from(bits.cast_unsigned()))
}
